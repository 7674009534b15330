"""A backbone with a head that answers one question about sequences: its classes, its labels, its single numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import TASKS, Task
from titans_dna.nn.heads import POOLS, PooledHead, TokenHead
from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.tokens.tokenizer import Tokenizer

UNITS = ("sequence", "base")


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
        if not isinstance(self.both_strands, bool):
            raise ValueError(f"both_strands: got {self.both_strands!r}, want true or false")
        if not self.deviation > 0:
            raise ValueError(f"deviation: got {self.deviation}, want above 0")

    @property
    def outputs(self) -> int:
        """Numbers that the head gives."""
        return max(1, len(self.classes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Question.from_dict` takes them."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: Any) -> Question:
        """The inverse of `to_dict`. ValueError where a field is missing, unknown or wrong."""
        wanted = cls.__dataclass_fields__.keys()
        if not isinstance(values, dict) or values.keys() != wanted:
            got = sorted(values) if isinstance(values, dict) else values
            raise ValueError(f"question: got {got!r}, want {', '.join(wanted)}")
        return cls(**{**values, "classes": tuple(values["classes"])})


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
            self.head = PooledHead(width, question.outputs, question.pool, dropout, question.bins, question.stretch)

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes ids of sequences for it."""
        return tokenizer_of(self.backbone)

    def forward(self, batch: Batch) -> Tensor:
        """What the head says of whole sequences: [b, outputs], or of each base [b, t, outputs]."""
        hidden = self._hidden(batch.ids, batch.widths)
        if isinstance(self.head, PooledHead):
            return self.head(hidden, batch.widths)[0]
        if batch.other is not None:
            back = self._hidden(batch.other, batch.widths)
            hidden = torch.cat([hidden, turned(back, batch.widths.sum(1))], dim=-1)
        return self.head(hidden)

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
