"""A backbone with a head that answers one question about sequences: its classes, its labels, its single numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import TASKS, Task
from titans_dna.nn.entry import NO_BASE, kmer_codes, letters_of
from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.tokens.kmers import complementary_kmers
from titans_dna.tokens.tokenizer import Tokenizer

UNITS = ("sequence", "base")
_LATER = {"hidden", "kmers", "kmers_root", "kmers_both"}


@dataclass(frozen=True)
class Question:
    """What a fine-tuned model answers. Raises ValueError naming the field, the value got and the value wanted."""

    task: Task
    classes: tuple[str, ...]
    """Sorted; none for regression. For a binary task the second one is the positive one."""
    unit: str = "sequence"
    """Whether there is one answer a sequence or one a base."""
    pool: str = "mean"
    """How the vectors of the bases become that of the sequence."""
    bins: int = 1
    """Number of stretches of the pool "bins"."""
    stretch: int = 1
    """Bases of each."""
    both_strands: bool = True
    """sequence: scores are the mean of those of both strands. base: the head sees what the model knows at the base on either
    strand, and so both sides of it."""
    window: int = 1
    """base: bases of a window in training, and wherever the model is used."""
    mean: float = 0.0
    deviation: float = 1.0
    """Of the labels of a regression, which is learned in units of the deviation."""
    hidden: int = 0
    """Width of the layer between the pool and the answer; 0: none."""
    kmers: tuple[int, ...] = ()
    """Lengths of the k-mers whose counts have a vote of their own, fitted before all else."""
    kmers_root: bool = False
    """Whether the vote is linear in the square roots of the counts."""
    kmers_both: bool = False
    """Whether these are of both strands together."""

    def __post_init__(self) -> None:
        for name, value, wanted in (
            ("task", self.task, TASKS),
            ("unit", self.unit, UNITS),
            ("pool", self.pool, POOLS),
        ):
            if value not in wanted:
                raise ValueError(f"{name}: got {value!r}, want one of {', '.join(wanted)}")
        few = len(self.classes) != len(set(self.classes)) or (self.task != "regression" and len(self.classes) < 2)
        if few or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes: got {self.classes!r}, want names, at least two and no two alike")
        for name in ("bins", "stretch", "window"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, want a whole number of at least 1")
        for name, high in (("hidden", 2**20), ("kmers", 8)):
            value = getattr(self, name)
            for one in value if name == "kmers" else (value,):
                if type(one) is not int or not 0 <= one <= high:
                    raise ValueError(f"{name}: got {value!r}, want whole numbers from 0 to {high:,}")
        if not isinstance(self.both_strands, bool):
            raise ValueError(f"both_strands: got {self.both_strands!r}, want true or false")
        if not self.deviation > 0:
            raise ValueError(f"deviation: got {self.deviation}, want above 0")

    @property
    def outputs(self) -> int:
        """Numbers that the head gives."""
        return max(1, len(self.classes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Question.from_dict` takes them. What version 0.1.0 lacked is left out at its default."""
        plain = Question("regression", ())
        values = {**asdict(self), "classes": list(self.classes), "kmers": list(self.kmers)}
        return {
            name: one
            for name, one in values.items()
            if name not in _LATER or getattr(self, name) != getattr(plain, name)
        }

    @classmethod
    def from_dict(cls, values: Any) -> Question:
        """The inverse of `to_dict`. ValueError where a field is missing, unknown or wrong."""
        wanted = cls.__dataclass_fields__.keys()
        if not isinstance(values, dict) or values.keys() | _LATER != {*wanted}:
            got = sorted(values) if isinstance(values, dict) else values
            raise ValueError(f"question: got {got!r}, want {', '.join(wanted)}")
        return cls(**{**values, "classes": tuple(values["classes"]), "kmers": tuple(values.get("kmers", ()))})


class Batch(NamedTuple):
    """Rows that go through the model together."""

    ids: Tensor
    """[b, t], padded on the right."""
    widths: Tensor
    """Bases that each token adds, [b, t]; 0 in the padding."""
    labels: Tensor
    """Of the rows, as `Rows.labels`; of a question about bases int64 [b, t], -1 where there is none."""
    other: Tensor | None = None
    """Question about bases: ids of the other strand, [b, t], padded likewise."""
    votes: Tensor | None = None
    """[b, outputs]: what the k-mers say of rows that they were not fitted on, in place of what they say themselves."""


class FineTuned(nn.Module):
    """Backbone and head; the tokenizer becomes the backbone's."""

    def __init__(self, backbone: TitansDNA, question: Question, tokenizer: Tokenizer, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone, self.question = backbone, question
        backbone.tokenizer = tokenizer
        self.packed = False
        """Run the rows of a batch end to end through the backbone, without their padding; the numbers are the same."""
        width = backbone.config.width
        if question.unit == "base":
            self.head = TokenHead(width * (1 + question.both_strands), question.outputs, dropout)
        else:
            self.head = PooledHead(
                width, question.outputs, question.pool, dropout, question.bins, question.stretch, question.hidden
            )
        self.kmers = KmerVotes(question) if question.kmers else None

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes ids of sequences for it."""
        return tokenizer_of(self.backbone)

    def forward(self, batch: Batch) -> Tensor:
        """What the head says of whole sequences: [b, outputs], or of each base [b, t, outputs]."""
        hidden = self._hidden(batch.ids, batch.widths)
        if isinstance(self.head, PooledHead):
            found = self.head(hidden, batch.widths)[0]
            votes = batch.votes if batch.votes is not None or self.kmers is None else self.kmers(batch.ids)[0]
            return found if votes is None else found + votes.to(found.dtype)
        if batch.other is not None:
            back = self._hidden(batch.other, batch.widths)
            hidden = torch.cat([hidden, turned(back, batch.widths.sum(1))], dim=-1)
        return self.head(hidden)

    def kmers_of(self, ids: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """What the k-mers say, as a pool says it."""
        assert self.kmers is not None
        return self.kmers(ids, state)

    def _hidden(self, ids: Tensor, widths: Tensor) -> Tensor:
        """[b, t, width]; packed, zeros in the padding."""
        if not self.packed:
            return self.backbone.features(ids)[0]
        real = widths > 0
        borders = F.pad(real.sum(1).cumsum(0), (1, 0))
        together, _ = self.backbone.features(ids[real][None], cu_seqlens=borders)
        return together.new_zeros(*ids.shape, together.shape[-1]).masked_scatter(real[..., None], together)

    def losses(self, batch: Batch) -> Tensor:
        """Of each row [b], or of each base that has a label [n]."""
        out, labels = self(batch), batch.labels
        task = self.question.task
        if self.question.unit == "base":
            return F.cross_entropy(out[labels >= 0], labels[labels >= 0], reduction="none")
        if task == "regression":
            precise = out[:, 0].to(torch.promote_types(out.dtype, torch.float32))
            wanted = (labels - self.question.mean) / self.question.deviation
            return F.mse_loss(precise, wanted.to(precise.dtype), reduction="none")
        if task == "multilabel":
            return F.binary_cross_entropy_with_logits(out, labels.to(out.dtype), reduction="none").mean(1)
        return F.cross_entropy(out, labels, reduction="none")

    def scores(self, out: Tensor) -> np.ndarray:
        """What the head says [..., outputs] as `metrics.evaluate` takes it: probabilities, or numbers [...]."""
        precise = out.detach().double().cpu()
        if self.question.task == "regression":
            return (precise[..., 0] * self.question.deviation + self.question.mean).numpy()
        likely = precise.sigmoid() if self.question.task == "multilabel" else precise.softmax(-1)
        return likely.numpy()


def turned(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Rows back to front, each within its own length: [b, t, width]; padding stays where it is."""
    place = torch.arange(hidden.shape[1], device=hidden.device)
    mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    return hidden.gather(1, mirrored[..., None].expand_as(hidden))


State = tuple[Tensor, ...]


class Pooling(nn.Module):
    """A pool without weights of its own."""

    def __init__(self, width: int, precision: torch.dtype = torch.float32) -> None:
        """precision: of what is carried and given, at least; that of the hidden states where it is higher."""
        super().__init__()
        self.precision = precision

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """hidden [b, t, width]; widths: bases that each token adds, [b, t], 0 in the padding → [b, width] and state."""
        raise AssertionError("a pool defines forward")


class MeanPooling(Pooling):
    """The mean over the bases: a token counts as often as it adds bases."""

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        hidden = _precise(hidden, self.precision)
        total, bases = torch.einsum("btd,bt->bd", hidden, widths.to(hidden.dtype)), widths.sum(1).to(hidden.dtype)
        if state is not None:
            total, bases = total + state[0], bases + state[1]
        return total / bases.clamp(min=1)[:, None], (total, bases)


class MaxPooling(Pooling):
    """The largest value of each feature."""

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        most = _precise(hidden, self.precision).masked_fill(widths[..., None] == 0, -torch.inf).amax(1)
        if state is not None:
            most = torch.maximum(most, state[0])
        return most, (most,)


class MeanMaxPooling(Pooling):
    """Mean and largest value, side by side: [b, 2 width]."""

    def __init__(self, width: int, precision: torch.dtype = torch.float32) -> None:
        super().__init__(width, precision)
        self.each = MeanPooling(width, precision), MaxPooling(width, precision)

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`, but for the vector."""
        mean, sums = self.each[0](hidden, widths, None if state is None else state[:2])
        most, kept = self.each[1](hidden, widths, None if state is None else state[2:])
        return torch.cat([mean, most], dim=1), (*sums, *kept)


class LastPooling(Pooling):
    """The state after the last base: what the model knows once it has read everything."""

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        place = torch.arange(1, widths.shape[1] + 1, device=widths.device)
        last = ((widths > 0) * place).amax(1)  # 0 where all is padding
        each = torch.arange(len(hidden), device=hidden.device)
        found = _precise(hidden[each, (last - 1).clamp(min=0)], self.precision)
        if state is not None:
            found = torch.where(last[:, None] > 0, found, state[0])
        return found, (found,)


class AttentionPooling(nn.Module):
    """A weighted mean over the bases; the weights are learned, a softmax of one score for each part of the features.

    It starts as the mean. The softmax runs on over pieces: what is kept is its largest score, its sum and the weighted sum.
    """

    def __init__(self, width: int, parts: int = 4) -> None:
        super().__init__()
        self.parts = parts if width % parts == 0 else 1
        self.score = nn.Linear(width, self.parts, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        bases = widths[..., None].to(torch.promote_types(hidden.dtype, torch.float32))
        score = self.score(hidden).to(bases.dtype).masked_fill(bases == 0, -torch.inf)
        # A row may be all padding in this piece, and was not in an earlier one.
        most = score.detach().amax(1).clamp(min=torch.finfo(score.dtype).min)
        if state is not None:
            most = torch.maximum(most, state[0])
        weight = (score - most[:, None]).exp() * bases
        values = _precise(hidden).unflatten(-1, (self.parts, -1))
        total, norm = torch.einsum("btp,btpd->bpd", weight, values), weight.sum(1)
        if state is not None:
            faded = (state[0] - most).exp()
            total, norm = total + state[1] * faded[..., None], norm + state[2] * faded
        smallest = torch.finfo(norm.dtype).tiny
        return (total / norm.clamp(min=smallest)[..., None]).flatten(1), (most, total, norm)


class BinPooling(nn.Module):
    """The mean over each of some stretches of equal length, side by side, for signals that stand at a place of the sequence.

    Stretches are counted from the start; the last one also has all that comes after it.
    """

    def __init__(self, bins: int, stretch: int) -> None:
        """bins: number of stretches. stretch: bases of each."""
        super().__init__()
        self.bins, self.stretch = bins, stretch

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`, but for the vector, [b, bins * width]."""
        hidden = _precise(hidden)
        ends = widths.cumsum(1) if state is None else widths.cumsum(1) + state[2][:, None]
        place = ((ends - widths) // self.stretch).clamp(max=self.bins - 1)
        within = nn.functional.one_hot(place, self.bins).to(hidden.dtype) * widths[..., None]
        total, bases = torch.einsum("btd,btn->bnd", hidden, within), within.sum(1)
        if state is not None:
            total, bases = total + state[0], bases + state[1]
        return (total / bases.clamp(min=1)[..., None]).flatten(1), (total, bases, ends[:, -1])


PLAIN: dict[str, type[Pooling]] = {"mean": MeanPooling, "max": MaxPooling, "last": LastPooling}
"""Without learned weights."""
POOLINGS: dict[str, type[Pooling | AttentionPooling]] = {**PLAIN, "attention": AttentionPooling}
POOLS = (*POOLINGS, "mean-max", "bins")


class PooledHead(nn.Module):
    """One answer a sequence: pool, (linear, GELU,) dropout, linear."""

    def __init__(
        self,
        width: int,
        outputs: int,
        pool: str = "mean",
        dropout: float = 0.0,
        bins: int = 1,
        stretch: int = 1,
        hidden: int = 0,
    ) -> None:
        """bins, stretch: number of stretches of the pool "bins", and bases of each. hidden: width of the layer between, 0:
        none. Raises ValueError for an unknown pool."""
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool: got {pool!r}, want one of {', '.join(POOLS)}")
        kinds = {**POOLINGS, "mean-max": MeanMaxPooling}
        self.pool = BinPooling(bins, stretch) if pool == "bins" else kinds[pool](width)
        pooled = width * {"bins": bins, "mean-max": 2}.get(pool, 1)
        self.between = nn.Sequential(nn.Linear(pooled, hidden), nn.GELU()) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden or pooled, outputs)
        _start(self.output)

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """hidden [b, t, width], widths [b, t] → what all pieces so far say, [b, outputs], and the pool's state."""
        pooled, after = self.pool(hidden, widths, state)
        pooled = pooled.to(self.output.weight.dtype)
        return self.output(self.dropout(pooled if self.between is None else self.between(pooled))), after


class KmerVotes(nn.Module):
    """What counts of k-mers say, linearly: weights that were fitted apart, and stay. For single nucleotides."""

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.sizes, self.root, self.both = question.kmers, question.kmers_root, question.kmers_both
        places = sum(4**k for k in self.sizes)
        self.weight = nn.Parameter(torch.zeros(question.outputs, places), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(question.outputs), requires_grad=False)

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """ids [b, t], further ones of sequences that are counted in `state` → votes [b, outputs], and the counts so far."""
        reach = max(self.sizes) - 1
        letters = letters_of(ids)
        before = letters.new_full((len(ids), reach), NO_BASE) if state is None else state[1]
        letters = torch.cat([before, letters], dim=1)
        found = []
        for k in self.sizes:
            codes, known = kmer_codes(letters, k, ids.shape[1])
            counts = torch.zeros(len(ids), 4**k + 1, dtype=self.weight.dtype, device=ids.device)
            places = torch.where(known, codes, 4**k)
            found.append(counts.scatter_add_(1, places, torch.ones_like(places, dtype=counts.dtype))[:, :-1])
        counts = torch.cat(found, dim=1)
        if state is not None:
            counts = counts + state[0]
        return self._vote(counts), (counts, letters[:, letters.shape[1] - reach :])

    def _vote(self, counts: Tensor) -> Tensor:
        if self.both:
            parts = counts.split([4**k for k in self.sizes], dim=1)
            others = [torch.from_numpy(complementary_kmers(k)).to(counts.device) for k in self.sizes]
            counts = torch.cat([one + one[:, other] for one, other in zip(parts, others, strict=True)], dim=1)
        return F.linear(counts.sqrt() if self.root else counts, self.weight, self.bias)


class TokenHead(nn.Module):
    """One answer a token: dropout, linear."""

    def __init__(self, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, outputs)
        _start(self.output)

    def forward(self, hidden: Tensor) -> Tensor:
        """[b, t, width] → [b, t, outputs]"""
        return self.output(self.dropout(hidden))


def _start(linear: nn.Linear) -> None:
    """Near zero, so that the first loss is that of knowing nothing."""
    nn.init.normal_(linear.weight, std=0.1 * linear.in_features**-0.5)
    nn.init.zeros_(linear.bias)


def _precise(x: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    return x.to(torch.promote_types(x.dtype, precision))
