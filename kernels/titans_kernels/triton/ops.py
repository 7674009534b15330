"""The memory as two torch operators, forward and backward, with shapes known to torch.compile.

A state is packed: [rows, heads, W | S] for one layer, [rows, heads, W₁ | S₁ | W₂ | S₂] for two; an anchor is packed
likewise, without S. What a call returns, and its shapes, depends on the arguments' shapes alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch
from .plan import Shape, sequences


@torch.library.custom_op("titans::memory_forward", mutates_args=())
def memory_forward(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, state: Tensor, anchor: Tensor | None,
    cu_seqlens: Tensor | None, position: Tensor | None,
    hidden: int, chunk: int, read: int, max_norm: float, per_chunk: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """→ y, the state and the anchor afterwards, and the states kept for the backward, one for a group of chunks.

    q, k [b, t, h, d]; v [b, t, h, e]; gates [b, t, h], or [b, n, h] with per_chunk. anchor: None where it is the
    state's memory. cu_seqlens, position: as for `memory_scan`, or None for rows of one length, for a fresh start.
    hidden: 0 for a memory of one layer. read: of `plan.READS`. max_norm: 0 for none. keep: whether a backward may follow.
    """
    call = _call(q, k, v, alpha, eta, theta, state, anchor, cu_seqlens, position, hidden, chunk, read, max_norm,
                 per_chunk, keep)  # fmt: skip
    y, state_out = call.tokens[2].new_empty(v.shape), state.contiguous().clone()
    anchor_out = _memory(state_out, call.shape) if anchor is None else anchor.contiguous().clone()
    kept = state.new_empty(_kept(q, k, v, state, cu_seqlens, position, hidden, chunk, keep))
    kept.index_copy_(0, call.sequences.info[:, 4], state)
    with torch.cuda.device_of(q):
        launch.forward(call, kept, y, state_out, anchor_out, keep)
    return y, state_out, anchor_out, kept if keep else kept.new_empty(0)


@memory_forward.register_fake
def _(q, k, v, alpha, eta, theta, state, anchor, cu_seqlens, position, hidden, chunk, read, max_norm, per_chunk, keep):
    shape = _shape(q, k, v, hidden, chunk)
    kept = _kept(q, k, v, state, cu_seqlens, position, hidden, chunk, keep) if keep else (0,)
    anchor_out = state.new_empty(*state.shape[:2], shape.weights)
    return v.new_empty(v.shape), state.new_empty(state.shape), anchor_out, state.new_empty(kept)


@torch.library.custom_op("titans::memory_backward", mutates_args=())
def memory_backward(
    d_y: Tensor, d_state: Tensor, d_anchor_out: Tensor | None,
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, kept: Tensor, anchor: Tensor | None,
    cu_seqlens: Tensor | None, position: Tensor | None,
    hidden: int, chunk: int, read: int, max_norm: float, per_chunk: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """→ gradients of q, k, v, α, η, θ, the incoming state and the anchor (empty where there was none)."""
    call = _call(q, k, v, alpha, eta, theta, d_state, anchor, cu_seqlens, position, hidden, chunk, read, max_norm,
                 per_chunk, True)  # fmt: skip
    d_state = d_state.contiguous().clone()
    d_tokens = [torch.zeros_like(x) for x in call.tokens]  # tokens outside every sequence stay 0
    d_gates = [torch.zeros_like(x) for x in call.gates]
    d_anchor = d_state.new_zeros(*d_state.shape[:2], call.shape.weights if anchor is not None else 0)
    border = None if d_anchor_out is None else d_anchor_out.contiguous()
    with torch.cuda.device_of(q):
        d_before = launch.backward(call, kept, d_y.contiguous(), d_state, border, d_tokens, d_gates, d_anchor)
    empty = [row for row, length in enumerate(call.sequences.lengths) if not length]
    if empty and border is not None:  # the anchor came through unchanged
        if anchor is None:
            _memory(d_before, call.shape, border, empty)
        else:
            d_anchor[empty] = border[empty]
    (d_q, d_k, d_v), (d_alpha, d_eta, d_theta) = d_tokens, d_gates
    return d_q, d_k, d_v, d_alpha, d_eta, d_theta, d_before, d_anchor


@memory_backward.register_fake
def _(
    d_y, d_state, d_anchor_out, q, k, v, alpha, eta, theta, kept, anchor, cu_seqlens, position,
    hidden, chunk, read, max_norm, per_chunk,
):  # fmt: skip
    weights = _shape(q, k, v, hidden, chunk).weights if anchor is not None else 0
    tensors = [x.new_empty(x.shape) for x in (q, k, v, alpha, eta, theta, d_state)]
    return *tensors, d_state.new_empty(*d_state.shape[:2], weights)


def _setup(ctx, inputs, output) -> None:
    *tensors, hidden, chunk, read, max_norm, per_chunk, keep = inputs
    q, k, v, alpha, eta, theta, state, anchor, cu_seqlens, position = tensors
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, alpha, eta, theta, output[3], anchor, cu_seqlens, position)
    ctx.options = (hidden, chunk, read, max_norm, per_chunk)
    ctx.state_like = (state.shape, state.dtype, state.device)
    if not keep:
        raise RuntimeError("titans::memory_forward: got keep=False, want keep=True where a gradient is needed")


def _backward(ctx, d_y, d_state, d_anchor_out, _):
    q, k, v, *rest = ctx.saved_tensors
    shape, dtype, device = ctx.state_like
    if d_y is None:
        d_y = v.new_zeros(v.shape)
    if d_state is None:
        d_state = torch.zeros(shape, dtype=dtype, device=device)
    *grads, d_before, d_anchor = memory_backward(d_y, d_state, d_anchor_out, q, k, v, *rest, *ctx.options)
    return *grads, d_before, None if rest[4] is None else d_anchor, *(None,) * 8


memory_forward.register_autograd(_backward, setup_context=_setup)


def _call(
    q, k, v, alpha, eta, theta, state, anchor, cu_seqlens, position, hidden, chunk, read, max_norm, per_chunk, keep
) -> launch.Call:
    shape = _shape(q, k, v, hidden, chunk)
    group = _group(shape, q, state, cu_seqlens, keep)
    found = sequences(q, cu_seqlens, position, alpha.shape[1], chunk, group, anchor is not None, keep)
    length = q.shape[1] if not per_chunk else sum(found.each) if cu_seqlens is not None else found.chunks
    if {alpha.shape[1], eta.shape[1], theta.shape[1]} != {length}:
        raise ValueError(
            f"alpha, eta, theta: got {alpha.shape[1]}, {eta.shape[1]}, {theta.shape[1]} values, want {length}"
        )
    if cu_seqlens is not None and sum(found.lengths) != q.shape[1]:
        raise ValueError(f"cu_seqlens: got {sum(found.lengths)} last, want {q.shape[1]}, the number of tokens")
    tokens = (q.contiguous(), k.contiguous(), v.contiguous())
    gates = (alpha.contiguous(), eta.contiguous(), theta.contiguous())
    fixed = None if anchor is None else anchor.contiguous()
    return launch.Call(shape, found, tokens, gates, fixed, group, read, max_norm, per_chunk)


def _shape(q: Tensor, k: Tensor, v: Tensor, hidden: int, chunk: int) -> Shape:
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    return Shape(q.shape[2], q.shape[3], hidden, v.shape[3], chunk, dtype)


def _group(shape: Shape, q: Tensor, state: Tensor, cu_seqlens: Tensor | None, keep: bool) -> int:
    rows = state.shape[0]
    tokens = q.shape[1] if cu_seqlens is None else -(-q.shape[1] // max(rows, 1))
    return shape.group(-(-tokens // shape.chunk), max(rows * shape.heads, 1), keep)


def _kept(q, k, v, state, cu_seqlens, position, hidden: int, chunk: int, keep: bool) -> tuple[int, ...]:
    """Shape of the kept states: exact for rows of one length from a chunk's start, else large enough."""
    rows = state.shape[0]
    if not keep:
        return tuple(state.shape)
    group = _group(_shape(q, k, v, hidden, chunk), q, state, cu_seqlens, keep)
    if cu_seqlens is None and position is None:
        chunks = -(-q.shape[1] // chunk)
        return (rows * max(1, -(-chunks // group)), *state.shape[1:])
    spare = rows if position is None else 3 * rows  # a sequence that begins inside a chunk may have two groups more
    return (q.shape[0] * q.shape[1] // (chunk * group) + spare, *state.shape[1:])


def _memory(state: Tensor, shape: Shape, add: Tensor | None = None, rows: list[int] | None = None) -> Tensor:
    """The memory without the momentum of packed states, a copy; with `add`, adds to it in place in some rows."""
    layers = [(0, shape.key * shape.hidden), (2 * shape.key * shape.hidden, shape.hidden * shape.value)]
    if not shape.hidden:
        layers = [(0, shape.weights)]
    done = 0
    for start, size in layers:
        if add is not None:
            state[rows, :, start : start + size] += add[rows, :, done : done + size]
        done += size
    return torch.cat([state[..., start : start + size] for start, size in layers], -1)
