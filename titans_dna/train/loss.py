"""The language-model loss on DNA: nats per target, bits per base, and bits per base of held-out sequence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from titans_dna.reading.stream import Ids, Piece, calls, logits, read


class LossSums(NamedTuple):
    """Sums over the counted targets of a batch, tensors of one number each; sums of several batches add up."""

    weighted: torch.Tensor
    """Nats times weight; only this one carries a gradient."""
    weight: torch.Tensor
    """Weights."""
    nats: torch.Tensor
    """Nats, unweighted, float64."""
    bases: torch.Tensor
    """Bases (A, C, G, T) of the targets, float64."""

    def plus(self, other: LossSums) -> LossSums:
        """Both together."""
        return LossSums(*(mine + its for mine, its in zip(self, other, strict=True)))

    def detach(self) -> LossSums:
        """Without the gradient's graph."""
        return LossSums(*(value.detach() for value in self))


def loss_sums(logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, lengths: torch.Tensor) -> LossSums:
    """Cross-entropy of logits [b, t, vocabulary] against targets [b, t], with weight [b, t].

    lengths [vocabulary]: bases of each token; targets of length 0 (N, padding, special ids) are not counted. Without a
    counted target all sums are 0.
    """
    flat = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    bases = lengths[targets]
    nats = torch.where(bases > 0, flat.unflatten(0, targets.shape), 0.0)
    weight = torch.where(bases > 0, weight, 0.0)
    return LossSums((nats * weight).sum(), weight.sum(), nats.detach().double().sum(), bases.double().sum())


def bits_per_base(nats: float, bases: float) -> float:
    """Unweighted nats over that many bases, in bits per base; NaN where there is no base."""
    return nats / math.log(2) / bases if bases else math.nan


@torch.no_grad()
def validate(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    lengths: torch.Tensor,
    *,
    piece: int,
    precision: AbstractContextManager[Any] | None = None,
) -> float:
    """Bits per base of the model over batches with ids [b, t + 1]; NaN where they hold no base.

    Each batch starts from a fresh state, and is read `piece` tokens at a time with the state carried, which bounds the
    memory of long windows and changes nothing else. lengths [vocabulary]: bases per token, on the model's device.
    The model is put into eval mode, and back.
    """
    training = model.training
    model.eval()
    into = _Sums(lengths)
    with precision or nullcontext():
        for batch in batches:
            into.ids = batch["ids"].to(lengths.device)
            rows = [Ids(row) for row in batch["ids"][:, :-1].cpu().numpy()]
            read(logits(model), calls(rows, piece), into, device=lengths.device)
    model.train(training)
    total = into.total
    return float("nan") if total is None else bits_per_base(float(total.nats), float(total.bases))


class _Sums:
    """Takes logits, each of what stands at the next token of `ids`."""

    def __init__(self, lengths: torch.Tensor) -> None:
        self.lengths, self.ids = lengths, torch.empty(0)
        self.total: LossSums | None = None

    def add(self, piece: Piece) -> None:
        wanted = self.ids[:, piece.start + 1 : piece.start + 1 + piece.out.shape[1]]
        sums = loss_sums(piece.out, wanted, torch.ones_like(wanted, dtype=torch.float32), self.lengths)
        self.total = sums if self.total is None else self.total.plus(sums)
