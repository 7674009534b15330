"""The language-model loss on DNA: nats per target, bits per base, and bits per base of held-out sequence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from titans_dna.nn.memory import NeuralMemory
from titans_dna.reading.stream import Ids, Piece, calls, logits, read

WRITE_FLOOR = -14.0
"""Gate of theta, before the sigmoid, at which a token is written for nothing: at a millionth of the largest rate."""
WRITE_FREE = 0.05
"""Share of the tokens, of each memory those that it writes most, that pay nothing: so no block is priced out for good."""
WRITE_FROM = 0.35
"""Share of the steps before writing has its price: it would close a memory before there is use for it."""


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


@contextmanager
def watched_gates(model: nn.Module) -> Iterator[list[tuple[NeuralMemory, list[torch.Tensor]]]]:
    """While it lasts, the memories of a model, each with its gates before the sigmoid, [b, t, heads * gates], call by call."""
    seen: list[tuple[NeuralMemory, list[torch.Tensor]]] = [
        (module, []) for module in model.modules() if isinstance(module, NeuralMemory)
    ]
    hooks = [
        memory.gates.register_forward_hook(lambda module, inputs, raw, kept=kept: kept.append(raw))
        for memory, kept in seen
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def price_of_writing(seen: list[tuple[NeuralMemory, list[torch.Tensor]]], free: float = WRITE_FREE) -> torch.Tensor:
    """What a token costs in the mean over memories, heads and tokens: by how much its gate of theta is over `WRITE_FLOOR`.

    It is the gate before the sigmoid, which is ln theta where that is small: a price on theta itself vanishes with it, while a
    million tokens of little are much; and one on ln theta does nothing about a gate that is wide open. seen: of
    `watched_gates`. free: share of the tokens of each memory and head, those that are written most, that cost nothing.
    """
    prices = []
    for memory, given in seen:
        written = torch.cat([call[..., memory.gate_rows("theta")].flatten(0, -2).float() for call in given])
        cost = (written - WRITE_FLOOR).clamp(min=0)
        kept = len(cost) - math.ceil(free * len(cost))
        prices.append(cost.topk(kept, dim=0, largest=False, sorted=False).values.sum() / cost.numel())
    return torch.stack(prices).mean()


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
