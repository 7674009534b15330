"""A backbone with a head that answers one question about sequences: its classes, its labels, its single numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import TASKS, Task
from titans_dna.nn.entry import NO_BASE, kmer_codes, letters_of
from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.nn.pools import POOLS, PooledHead, State, TokenHead
from titans_dna.tokens.kmers import complementary_kmers
from titans_dna.tokens.tokenizer import Tokenizer

UNITS = ("sequence", "base")
_LATER = {"hidden", "kmers", "kmers_root", "kmers_both", "transitions", "trust", "margin"}


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
    transitions: tuple[tuple[float, ...], ...] = ()
    """base: how likely a base of each class is followed by one of each, rows that add up to 1; scores are then smoothed."""
    trust: float = 1.0
    """base: the power of what the model says of a base against what its neighbours say."""
    margin: int = 0
    """base: bases that are read on either side of a window, as far as there are any, and answered by the windows beside."""

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
        for name, high in (("hidden", 2**20), ("kmers", 8), ("margin", 2**20)):
            value = getattr(self, name)
            for one in value if name == "kmers" else (value,):
                if type(one) is not int or not 0 <= one <= high:
                    raise ValueError(f"{name}: got {value!r}, want whole numbers from 0 to {high:,}")
        if self.transitions:
            rows = [
                row
                for row in self.transitions
                if len(row) == self.outputs and min(row) > 0 and abs(sum(row) - 1) < 1e-6
            ]
            if len(rows) != self.outputs or len(self.transitions) != self.outputs or not 0 <= self.trust <= 1:
                raise ValueError(
                    f"transitions: got {self.transitions!r:.80}, want {self.outputs} rows that add up to 1"
                )
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
        values["transitions"] = [list(row) for row in self.transitions]
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
        lists = {"classes": tuple(values["classes"]), "kmers": tuple(values.get("kmers", ()))}
        return cls(**{**values, **lists, "transitions": tuple(tuple(row) for row in values.get("transitions", ()))})


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
    """Backbone and head; the tokenizer becomes the backbone's. others: models of the same kind, trained from other seeds: the
    answer is then the mean of theirs and this one's."""

    def __init__(
        self,
        backbone: TitansDNA,
        question: Question,
        tokenizer: Tokenizer,
        dropout: float = 0.0,
        others: Sequence[FineTuned] = (),
    ) -> None:
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
        self.others = nn.ModuleList(others)

    @property
    def members(self) -> list[FineTuned]:
        """The models of which the answer is the mean, this one first."""
        return [self, *(one for one in self.others if isinstance(one, FineTuned))]

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes ids of sequences for it."""
        return tokenizer_of(self.backbone)

    def forward(self, batch: Batch) -> Tensor:
        """What the head says of whole sequences: [b, outputs], or of each base [b, t, outputs]; of several members that whose
        score is the mean of theirs."""
        if not self.others:
            return self._say(batch)
        said = torch.stack([one._say(batch) for one in self.members])
        if self.question.task == "regression":
            own = torch.tensor([(one.question.mean, one.question.deviation) for one in self.members]).to(said)
            mean, deviation = own.view(-1, 2, *[1] * (said.ndim - 1)).unbind(1)
            return ((said * deviation + mean).mean(0) - self.question.mean) / self.question.deviation
        if self.question.task == "multilabel":
            return said.sigmoid().mean(0).logit()
        return said.softmax(-1).mean(0).log()

    def _say(self, batch: Batch) -> Tensor:
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
