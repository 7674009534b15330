"""The kernels behind `memory_scan` and `memory_step`: states into the operators and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titans_kernels.options import READS
from titans_kernels.state import MemoryState, integers

from .ops import memory_forward, memory_step, memory_step_in_place


def triton_scan(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor,
    state: MemoryState, chunk: int, read: str, max_norm: float | None, cu_seqlens: Tensor | None, per_chunk: bool,
    fresh: bool,
) -> tuple[Tensor, MemoryState]:  # fmt: skip
    """As `memory_scan`, for arguments already checked. fresh: whether every row stands at the start of a chunk, its
    anchor being its memory, as it does where no state was given."""
    tensors = (q, k, v, alpha, eta, theta, *state.memory, *state.momentum, *state.anchor)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if q.shape[1] == 1 and cu_seqlens is None and not keep:
        token, gates = (q[:, 0], k[:, 0], v[:, 0]), (alpha[:, 0], eta[:, 0], theta[:, 0])
        y, state = triton_step(*token, gates, state, chunk, read, max_norm, inplace=False)
        return y[:, None], state
    tied = all(m is a for m, a in zip(state.memory, state.anchor, strict=True))
    packed = _pack([w for pair in zip(state.memory, state.momentum, strict=True) for w in pair])
    anchor = None if tied else _pack(state.anchor)
    hidden = state.memory[0].shape[-1] if len(state.memory) == 2 else 0
    y, after, border, _ = memory_forward(
        q, k, v, alpha, eta, theta, packed, anchor, cu_seqlens, None if fresh else state.position,
        hidden, chunk, READS.index(read), max_norm or 0.0, per_chunk, keep,
    )  # fmt: skip
    sizes = [w.shape[-2:] for w in state.memory]
    parts = _unpack(after, [size for size in sizes for _ in range(2)])
    memory, momentum = parts[::2], parts[1::2]
    position, settled = _onward(q.shape[1], state.position, chunk, cu_seqlens, fresh)
    return y, MemoryState(memory, momentum, memory if settled else _unpack(border, sizes), position)


def triton_step(
    q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor, Tensor, Tensor],
    state: MemoryState, chunk: int, read: str, max_norm: float | None, inplace: bool,
) -> tuple[Tensor, MemoryState]:  # fmt: skip
    """As `memory_step`, for arguments already checked."""
    position = (state.position + 1) % chunk
    ends = "rows"
    if not (state.position.is_cuda or torch.compiler.is_compiling()):
        ended = integers(position).count(0)
        ends = "none" if ended == 0 else "all" if ended == len(position) else "rows"
    where = position.to(q.device, non_blocking=True) if ends == "rows" else None
    memory, momentum, anchor = ([w.contiguous() for w in group] for group in state.groups)
    arguments = (q, k, v, *gates, memory, momentum, anchor, where, ends, read, max_norm)
    if inplace:
        y = memory_step_in_place(*arguments)
        return y, MemoryState(tuple(memory), tuple(momentum), tuple(anchor), position)
    depth = len(memory)
    y, *new = memory_step(*arguments)
    memory, momentum = new[:depth], new[depth : 2 * depth]
    anchor = {"none": anchor, "all": memory, "rows": new[2 * depth :]}[ends]
    return y, MemoryState(tuple(memory), tuple(momentum), tuple(anchor), position)


def _onward(t: int, position: Tensor, chunk: int, cu_seqlens: Tensor | None, fresh: bool) -> tuple[Tensor, bool]:
    """Positions afterwards, and whether it is known that all rows have reached the end of a chunk."""
    if fresh and cu_seqlens is None:
        return torch.full_like(position, t % chunk), t % chunk == 0
    lengths = torch.full_like(position, t) if cu_seqlens is None else cu_seqlens.cpu().diff()
    after = (position + lengths) % chunk
    return after, not torch.compiler.is_compiling() and bool(((after == 0) & (lengths > 0)).all())


def _pack(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([w.flatten(-2) for w in weights], -1)


def _unpack(packed: Tensor, sizes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    parts = torch.split(packed, [a * b for a, b in sizes], -1)
    return tuple(torch.unflatten(part, -1, size) for part, size in zip(parts, sizes, strict=True))
