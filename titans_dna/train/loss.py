"""The language-model loss on DNA: nats per target, and bits per base."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional


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
