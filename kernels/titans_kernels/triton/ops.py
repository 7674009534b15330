"""The memory as torch operators with shapes known to torch.compile: of sequences, forward and backward, and of one token.

Of sequences, a state is packed: [rows, heads, W | S] for one layer, [rows, heads, W₁ | S₁ | W₂ | S₂] for two; an anchor is
packed likewise, without S. What a call returns, and its shapes, depends on the arguments' shapes alone.
"""

# torch has no types for the functions that register operators:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_kernels.support import check_first_order, fail

from . import launch
from .plan import Shape, sequences


@torch.library.custom_op("titans::memory_forward", mutates_args=())
def memory_forward(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, state: Tensor, anchor: Tensor | None,
    cu_seqlens: Tensor | None, position: Tensor | None,
    hidden: int, chunk: int, read: int, max_norm: float, per_chunk: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """→ y, the state and the anchor afterwards, and the states kept for the backward, one for a group of chunks; see `Inputs`.
    keep: whether a backward may follow."""
    given = Inputs(q, k, v, alpha, eta, theta, state, anchor, cu_seqlens, position, hidden, chunk, read, max_norm,
                   per_chunk)  # fmt: skip
    call = given.call(keep)
    y, state_out = call.tokens[2].new_empty(v.shape), state.contiguous().clone()
    anchor_out = _memory(state_out, call.shape) if anchor is None else anchor.contiguous().clone()
    kept = state.new_empty(given.kept(keep))
    kept.index_copy_(0, call.sequences.info[:, 4], state)
    with torch.cuda.device_of(q):
        launch.forward(call, kept, y, state_out, anchor_out, keep)
    return y, state_out, anchor_out, kept if keep else kept.new_empty(0)


@memory_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given, keep = Inputs(*arguments[:-1]), arguments[-1]
    state = given.state
    anchor_out = state.new_empty(*state.shape[:2], given.shape.weights)
    kept = state.new_empty(given.kept(keep) if keep else (0,))
    return given.v.new_empty(given.v.shape), state.new_empty(state.shape), anchor_out, kept


@torch.library.custom_op("titans::memory_backward", mutates_args=())
def memory_backward(
    d_y: Tensor, d_state: Tensor, d_anchor_out: Tensor | None,
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor, kept: Tensor, anchor: Tensor | None,
    cu_seqlens: Tensor | None, position: Tensor | None,
    hidden: int, chunk: int, read: int, max_norm: float, per_chunk: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """→ gradients of q, k, v, α, η, θ, the incoming state and the anchor (empty where there was none)."""
    given = Inputs(q, k, v, alpha, eta, theta, d_state, anchor, cu_seqlens, position, hidden, chunk, read, max_norm,
                   per_chunk)  # fmt: skip
    call = given.call(keep=True)
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
def _(_: Tensor, d_state: Tensor, __: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    given = Inputs(*rest)._replace(state=d_state)
    d_anchor = d_state.new_empty(*d_state.shape[:2], 0 if given.anchor is None else given.shape.weights)
    return *(x.new_empty(x.shape) for x in given[:7]), d_anchor


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given, keep = Inputs(*inputs[:-1]), inputs[-1]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given[:6], output[3], *given[7:10])
    ctx.options = given[10:]
    ctx.state_like = (given.state.shape, given.state.dtype, given.state.device)
    if not keep:
        raise RuntimeError("titans::memory_forward: got keep=False, want keep=True where a gradient is needed")


def _backward(
    ctx: Any, d_y: Tensor | None, d_state: Tensor | None, d_anchor_out: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    check_first_order(d_y, d_state, d_anchor_out)
    q, k, v, *rest = ctx.saved_tensors
    shape, dtype, device = ctx.state_like
    if d_y is None:
        d_y = v.new_zeros(v.shape)
    if d_state is None:
        d_state = torch.zeros(shape, dtype=dtype, device=device)
    *grads, d_before, d_anchor = memory_backward(d_y, d_state, d_anchor_out, q, k, v, *rest, *ctx.options)
    return *grads, d_before, None if rest[4] is None else d_anchor, *(None,) * 8


memory_forward.register_autograd(_backward, setup_context=_setup)


class Inputs(NamedTuple):
    """What a call over sequences is given, in the operators' order, and what follows from it."""

    q: Tensor
    k: Tensor
    """[b, t, h, d]."""
    v: Tensor
    """[b, t, h, e]."""
    alpha: Tensor
    eta: Tensor
    theta: Tensor
    """[b, t, h], or [b, n, h] with per_chunk."""
    state: Tensor
    anchor: Tensor | None
    """None where it is the state's memory."""
    cu_seqlens: Tensor | None
    position: Tensor | None
    """Both as for `memory_scan`, or None for rows of one length, for a fresh start."""
    hidden: int
    """0 for a memory of one layer."""
    chunk: int
    read: int
    """Its place among `READS`."""
    max_norm: float
    """0 for none."""
    per_chunk: bool

    @property
    def shape(self) -> Shape:
        q, k, v = self.q, self.k, self.v
        dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        return Shape(q.shape[2], q.shape[3], self.hidden, v.shape[3], self.chunk, dtype)

    def group(self, keep: bool) -> int:
        """Chunks worked off at a time."""
        rows, t = self.state.shape[0], self.q.shape[1]
        tokens = t if self.cu_seqlens is None else -(-t // max(rows, 1))
        return self.shape.group(-(-tokens // self.chunk), max(rows * self.q.shape[2], 1), keep)

    def kept(self, keep: bool) -> tuple[int, ...]:
        """Shape of the kept states: exact for rows of one length from a chunk's start, else large enough."""
        (rows, *sizes), (b, t) = self.state.shape, self.q.shape[:2]
        if not keep:
            return rows, *sizes
        group = self.group(keep)
        if self.cu_seqlens is None and self.position is None:
            chunks = -(-t // self.chunk)
            return rows * max(1, -(-chunks // group)), *sizes
        spare = rows if self.position is None else 3 * rows  # one that begins inside a chunk may have two groups more
        return b * t // (self.chunk * group) + spare, *sizes

    def call(self, keep: bool) -> launch.Call:
        gates, group, t = (self.alpha, self.eta, self.theta), self.group(keep), self.q.shape[1]
        values, untied = [x.shape[1] for x in gates], self.anchor is not None
        found = sequences(self.q, self.cu_seqlens, self.position, values[0], self.chunk, group, untied, keep)
        length = t if not self.per_chunk else found.chunks if self.cu_seqlens is None else sum(found.each)
        if set(values) != {length}:
            fail("alpha, eta, theta", f"{', '.join(map(str, values))} values", length)
        if self.cu_seqlens is not None and sum(found.lengths) != t:
            fail("cu_seqlens", f"{sum(found.lengths)} last", f"{t}, the number of tokens")
        tokens = (self.q.contiguous(), self.k.contiguous(), self.v.contiguous())
        gates = (self.alpha.contiguous(), self.eta.contiguous(), self.theta.contiguous())
        anchor = None if self.anchor is None else self.anchor.contiguous()
        return launch.Call(self.shape, found, tokens, gates, anchor, group, self.read, self.max_norm, self.per_chunk)


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


@torch.library.custom_op("titans::memory_step", mutates_args=())
def memory_step(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor,
    memory: list[Tensor], momentum: list[Tensor], anchor: list[Tensor], position: Tensor | None,
    ends: str, read: str, max_norm: float | None,
) -> list[Tensor]:  # fmt: skip
    """y, memory, momentum and, if ends is "rows", anchor after one token; see `launch.step`."""
    memory, momentum, anchor = ([w.contiguous() for w in group] for group in (memory, momentum, anchor))
    y, *new = _stepped(v, memory, ends)
    depth = len(memory)
    after = {"none": anchor, "all": new[:depth], "rows": new[2 * depth :]}[ends]
    groups = (new[:depth], new[depth : 2 * depth], after)
    launch.step((q, k, v), (alpha, eta, theta), (memory, momentum, anchor), groups, y, position, ends, read, max_norm)
    return [y, *new]


@memory_step.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> list[Tensor]:
    return _stepped(v, memory=rest[3], ends=rest[7])


def _stepped(v: Tensor, memory: list[Tensor], ends: str) -> list[Tensor]:
    groups = 3 if ends == "rows" else 2
    return [v.new_empty(v.shape), *(w.new_empty(w.shape) for _ in range(groups) for w in memory)]


@torch.library.custom_op("titans::memory_step_in_place", mutates_args=("memory", "momentum", "anchor"))
def memory_step_in_place(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor,
    memory: list[Tensor], momentum: list[Tensor], anchor: list[Tensor], position: Tensor | None,
    ends: str, read: str, max_norm: float | None,
) -> Tensor:  # fmt: skip
    """y after one token; the state, of contiguous tensors without overlap, is written over."""
    y = v.new_empty(v.shape)
    state = (memory, momentum, anchor)
    launch.step((q, k, v), (alpha, eta, theta), state, state, y, position, ends, read, max_norm)
    return y


@memory_step_in_place.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return v.new_empty(v.shape)
