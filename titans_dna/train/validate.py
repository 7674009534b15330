"""Bits per base on held-out sequence."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

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
    total: LossSums | None = None
    with precision or nullcontext():
        for batch in batches:
            ids = batch["ids"].to(lengths.device)
            state = None
            for first in range(0, ids.shape[1] - 1, piece):
                part = ids[:, first : first + piece + 1]
                out = model(part[:, :-1], state)
                state = out.state
                sums = loss_sums(out.logits, part[:, 1:], torch.ones_like(part[:, 1:], dtype=torch.float32), lengths)
                total = sums if total is None else total.plus(sums)
    model.train(training)
    return float("nan") if total is None else bits_per_base(float(total.nats), float(total.bases))
