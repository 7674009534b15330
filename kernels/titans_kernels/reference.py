"""The memory token by token, with the gradient taken by torch.func: the judge of every faster path.

Equations by their number in arXiv 2501.00663.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .state import MemoryState, Weights, bound, integers


def reference_scan(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor,
    state: MemoryState, chunk: int, read: str, max_norm: float | None,
) -> tuple[Tensor, MemoryState]:  # fmt: skip
    """q, k [b, t, h, d]; v [b, t, h, e]; gates [b, t, h] or one a chunk; all rows at one position."""
    if alpha.shape[1] != q.shape[1]:
        chunk_of_token = (integers(state.position)[0] + torch.arange(q.shape[1])) // chunk
        alpha, eta, theta = (gate[:, chunk_of_token] for gate in (alpha, eta, theta))
    memory, momentum, anchor, position = state.memory, state.momentum, state.anchor, state.position
    reads: list[Tensor] = []
    for t in range(q.shape[1]):
        before = memory
        surprise = _surprise(anchor, k[:, t], v[:, t])
        momentum = tuple(  # (14)
            eta[:, t, :, None, None] * s - theta[:, t, :, None, None] * g
            for s, g in zip(momentum, surprise, strict=True)
        )
        memory = tuple(  # (13)
            (1 - alpha[:, t, :, None, None]) * m + s for m, s in zip(memory, momentum, strict=True)
        )
        seen = {"after": memory, "before": before, "anchor": anchor}[read]
        reads.append(_per_row_and_head(recall)(seen, q[:, t]))  # (15)

        position = (position + 1) % chunk
        done = (position == 0)[:, None, None, None].to(q.device)
        memory, momentum = (
            tuple(torch.where(done, bound(w, max_norm), w) for w in group) for group in (memory, momentum)
        )
        anchor = tuple(torch.where(done, m, a) for m, a in zip(memory, anchor, strict=True))
    y = torch.stack(reads, dim=1) if reads else v.new_zeros(v.shape)
    return y, MemoryState(memory, momentum, anchor, position)


def recall(memory: Sequence[Tensor], key: Tensor) -> Tensor:
    """M(key): an MLP without biases, SiLU between its layers. memory: [d_in, d_out] per layer; key [d]."""
    x = key
    for i, weight in enumerate(memory):
        x = x @ weight
        if i < len(memory) - 1:
            x = F.silu(x)
    return x


def recall_loss(memory: Sequence[Tensor], key: Tensor, value: Tensor) -> Tensor:
    """(12): ‖M(k) − v‖², no ½."""
    return (recall(memory, key) - value).square().sum()


def _per_row_and_head(fn: Callable[..., Any]) -> Callable[..., Any]:
    return torch.func.vmap(torch.func.vmap(fn))


_surprise: Callable[..., Weights] = _per_row_and_head(torch.func.grad(recall_loss))
