"""Bits of the bases of a stretch after a context, read in pieces from a fresh start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from titans_dna.nn.model import Output


class Reader(Protocol):
    """A model, as far as it is called here."""

    def __call__(self, ids: Tensor, state: Any = None) -> Output:
        """ids [b, t] → logits [b, t, vocabulary] of what comes next, and the state."""
        ...


@torch.inference_mode()
def score(
    read: Reader,
    ids: Tensor,
    target: int,
    piece: int,
    *,
    window: int = 0,
    reset: Callable[[Any], Any] | None = None,
    progress: Callable[[float], object] = lambda bases: None,
) -> np.ndarray:
    """Bits of the last `target` of ids [b, context + target], context >= 1: float32 [b, target].

    window, reset: where given, the state goes through `reset` every `window` tokens, counted from the first that is scored.
    piece: tokens of a row per call of the model; changes nothing.
    """
    total = ids.shape[1]
    context = total - target
    bits, state = [], None
    for first, last, fresh in spans(context, total - 1, piece, window if reset else 0):
        if fresh and reset is not None:
            state = reset(state)
        out = read(ids[:, first:last], state)
        state = out.state
        wanted = max(context - 1 - first, 0)  # position t predicts t + 1
        if wanted < last - first:
            logits = out.logits[:, wanted:].float()
            nats = functional.cross_entropy(
                logits.flatten(0, 1), ids[:, first + wanted + 1 : last + 1].flatten().long(), reduction="none"
            )
            bits.append((nats / math.log(2)).unflatten(0, (len(ids), -1)).cpu())
        progress(len(ids) * (last - first))
    return torch.cat(bits, dim=1).numpy()


def spans(context: int, total: int, piece: int, window: int) -> Iterator[tuple[int, int, bool]]:
    """[first, last) of each call, and whether the state is reset before it; none crosses a border of a window."""
    first = 0
    while first < total:
        last = min(first + piece, total)
        into = (first - context) % window if window else 0
        if window:
            last = min(last, first + window - into)
        yield first, last, bool(window and first and into == 0)
        first = last
