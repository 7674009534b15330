"""Bits per base on held-out sequence."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from titans_dna.reading.stream import Ids, Piece, calls, logits, read
from titans_dna.train.loss import LossSums, bits_per_base, loss_sums


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
