"""Groups of chunks, or one token, through the kernels: what is allocated, what runs, in which order."""

# Triton comes with few types, and they do not say that it makes its own constants of the numbers that kernels are called with:
# pyright: reportArgumentType=false, reportCallIssue=false, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from titans_kernels.support import fail

from .configurations import configuration, step_configuration
from .plan import Sequences, Shape, groups, operand, precision
from .read import read_linear_kernel, read_mlp_kernel
from .read_backward import read_linear_backward_kernel, read_mlp_backward_kernel, read_mlp_onto_kernel
from .shares import share_backward_kernel, share_kernel
from .step import step_deep_kernel, step_linear_kernel
from .tiles import D_NUMBERS, D_VECTORS, NUMBERS, READ_ANCHOR, VECTORS
from .write import write_linear_kernel, write_mlp_kernel
from .write_backward import write_linear_backward_kernel, write_mlp_backward_kernel


class Call(NamedTuple):
    """What stays the same over the groups of a call."""

    shape: Shape
    sequences: Sequences
    tokens: tuple[Tensor, Tensor, Tensor]
    """q, k, v, contiguous [b, t, h, ·]."""
    gates: tuple[Tensor, Tensor, Tensor]
    """α, η, θ, contiguous [b, t or n, h]."""
    anchor: Tensor | None
    """[rows, heads, weights], where it is not the memory of the incoming state."""
    group: int
    read: int
    max_norm: float
    """0 for none."""
    per_chunk: bool

    @property
    def lanes(self) -> int:
        return len(self.sequences.lengths) * self.shape.heads

    def constants(self, kernel: str) -> dict[str, Any]:
        """Sizes, the products' kind and launch options of one of the kernels with products."""
        shape = self.shape
        config = configuration(kernel, shape, self.tokens[0].device)
        sizes = dict(CHUNK=shape.chunk, C=shape.tile, D=shape.key, V=shape.value)
        hidden = dict(E=shape.hidden, BE=config.block) if shape.hidden else {}
        return dict(**sizes, **hidden, OPERAND=operand(shape.dtype), PRECISION=precision(), **config.launch)

    def empty(self, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Beside the inputs."""
        return torch.empty(size, dtype=dtype, device=self.tokens[0].device)

    @property
    def longest_group(self) -> int:
        return min(self.group, max(self.sequences.chunks, 1))


class Scratch(NamedTuple):
    """What the kernels leave for each other, for the chunks of one group; a record a chunk and lane."""

    shares: Tensor
    """Vectors and numbers of `tiles`, float32."""
    G: Tensor
    H: Tensor
    """[C, C], or [C] with one gate a chunk."""
    slots: Tensor
    """The state that the chunk began with; one record more than chunks, for the state after the last."""
    trace: Tensor
    """z [C, E] | W₂ᵀδ₂ [C, E] | δ₂ [C, V] of two layers, δ [C, V] of one."""
    work: Tensor


class ScratchGradient(NamedTuple):
    """Likewise, of the backward."""

    slots: Tensor
    trace: Tensor
    """Of SiLU(z) [C, E] | δ₁ [C, E] | δ₂ [C, V] | k [C, D], or of δ [C, V] | k [C, D]."""
    shares: Tensor
    G: Tensor


def forward(call: Call, kept: Tensor, y: Tensor, state_out: Tensor, anchor_out: Tensor, keep: bool) -> None:
    """kept: [entries, heads, 2·weights], a state at the start of each group, those of the first ones given; without
    `keep` one a sequence, spoilt."""
    scratch = allocate(call, backward=False)
    for index, (n0, count, untied) in enumerate(groups(call.sequences.chunks, call.group, call.anchor is not None)):
        shares(call, scratch, n0, count, keep_H=False)
        places = (index, index + 1) if keep else (0, 0)
        write(call, scratch, kept, (state_out, anchor_out), n0, count, places, untied)
        read(call, scratch, y, n0, count, untied)


def backward(
    call: Call, kept: Tensor, d_y: Tensor, d_state: Tensor, d_anchor_out: Tensor | None, d_tokens: list[Tensor],
    d_gates: list[Tensor], d_anchor: Tensor,
) -> Tensor:  # fmt: skip
    """Fills d_tokens, d_gates and d_anchor; returns the gradient of the incoming state. d_state is spoilt."""
    scratch, gradient = allocate(call, backward=True), allocate_gradient(call)
    all_groups = list(groups(call.sequences.chunks, call.group, call.anchor is not None))
    before = torch.empty_like(d_state)
    for index in range(len(all_groups) - 1, -1, -1):
        n0, count, untied = all_groups[index]
        shares(call, scratch, n0, count, keep_H=True)
        write(call, scratch, kept, None, n0, count, (index, index), untied)
        read_backward(call, scratch, gradient, d_y, d_tokens[0], n0, count, untied)
        write_backward(call, scratch, gradient, d_state, before, d_anchor_out, d_tokens, d_anchor, n0, count, untied)
        share_backward(call, scratch, gradient, d_gates, n0, count)
        d_state, before = before, d_state
    return d_state


def allocate(call: Call, backward: bool) -> Scratch:
    shape, g, lanes = call.shape, call.longest_group, call.lanes
    c, empty = shape.tile, call.empty
    square = (c,) if call.per_chunk else (c, c)
    return Scratch(
        shares=empty(g, lanes, VECTORS.value * c + NUMBERS.value),
        G=empty(g, lanes, *square),
        H=empty(g, lanes, *square) if backward else empty(0),
        slots=empty(g + 1, lanes, 2 * shape.weights, dtype=shape.dtype),
        trace=empty(g, lanes, c, 2 * shape.hidden + shape.value, dtype=shape.dtype),
        work=empty(3 if backward else 2, lanes, 2 * shape.weights) if shape.hidden else empty(0),
    )


def allocate_gradient(call: Call) -> ScratchGradient:
    shape, g, lanes = call.shape, call.longest_group, call.lanes
    c, empty = shape.tile, call.empty
    return ScratchGradient(
        slots=empty(g, lanes, 2 * shape.weights, dtype=shape.errors),
        trace=empty(g, lanes, c, 2 * shape.hidden + shape.value + shape.key, dtype=shape.errors),
        shares=empty(g, lanes, D_VECTORS.value * c + D_NUMBERS.value),
        G=empty(g, lanes, c, c),
    )


def shares(call: Call, scratch: Scratch, n0: int, count: int, keep_H: bool) -> None:
    share_kernel[(count * call.lanes,)](
        *call.gates, call.sequences.info, scratch.shares, scratch.G, scratch.H,
        n0, call.lanes, call.shape.heads,
        CHUNK=call.shape.chunk, C=call.shape.tile, PER_CHUNK=call.per_chunk, KEEP_H=keep_H,
        **configuration("shares", call.shape, call.tokens[0].device).launch,
    )  # fmt: skip


def share_backward(
    call: Call, scratch: Scratch, gradient: ScratchGradient, d_gates: list[Tensor], n0: int, count: int
) -> None:
    share_backward_kernel[(count * call.lanes,)](
        *call.gates, call.sequences.info, scratch.shares, scratch.G, scratch.H,
        gradient.shares, gradient.G, *d_gates,
        n0, call.lanes, call.shape.heads,
        CHUNK=call.shape.chunk, C=call.shape.tile, PER_CHUNK=call.per_chunk, READ=call.read,
        **configuration("shares", call.shape, call.tokens[0].device).launch,
    )  # fmt: skip


def write(
    call: Call, scratch: Scratch, kept: Tensor, out: tuple[Tensor, Tensor] | None, n0: int, count: int,
    places: tuple[int, int], untied: bool,
) -> None:  # fmt: skip
    """out: state and anchor after the call; None where the group is run again for its backward."""
    shape, (_, k, v) = call.shape, call.tokens
    constants = call.constants("write")
    state_out, anchor_out = out or (kept, kept)
    head = (k, v, call.sequences.info, scratch.shares, _or(call.anchor, kept), kept, state_out, anchor_out)
    tail = (n0, count, call.lanes, shape.heads, *places, call.max_norm)
    flags = dict(UNTIED=untied, BOUND=call.max_norm > 0, SAVE=out is not None)
    if shape.hidden:
        write_mlp_kernel[(call.lanes,)](*head, scratch.work, scratch.slots, scratch.trace, *tail, **flags, **constants)
    else:
        write_linear_kernel[(call.lanes,)](*head, scratch.slots, scratch.trace, *tail, **flags, **constants)


def read(call: Call, scratch: Scratch, y: Tensor, n0: int, count: int, untied: bool) -> None:
    shape, (q, k, _) = call.shape, call.tokens
    constants = call.constants("read")
    anchor = _or(call.anchor, scratch.work)
    head = (q, k, y, call.sequences.info, scratch.shares, scratch.G, anchor, scratch.slots, scratch.trace)
    tail = (n0, call.lanes, shape.heads)
    flags = dict(PER_CHUNK=call.per_chunk, READ=call.read, UNTIED=untied)
    if shape.hidden:
        read_mlp_kernel[(count * call.lanes,)](*head, *tail, **flags, **constants)
    else:
        read_linear_kernel[(count * call.lanes,)](*head, *tail, **flags, **constants)


def read_backward(
    call: Call, scratch: Scratch, gradient: ScratchGradient, d_y: Tensor, d_q: Tensor, n0: int, count: int, untied: bool
) -> None:
    shape, (q, k, _) = call.shape, call.tokens
    constants = call.constants("read_backward")
    anchor = _or(call.anchor, scratch.work)
    head = (q, k, d_y, call.sequences.info, scratch.shares, scratch.G, anchor, scratch.slots, scratch.trace)
    out = (d_q, gradient.slots, gradient.trace, gradient.shares, gradient.G)
    tail = (n0, call.lanes, shape.heads)
    flags = dict(PER_CHUNK=call.per_chunk, READ=call.read, UNTIED=untied)
    if shape.hidden:
        read_mlp_backward_kernel[(count * call.lanes,)](*head, *out, *tail, **flags, **constants)
        if call.read == READ_ANCHOR.value:
            return
        read_mlp_onto_kernel[(count * call.lanes,)](
            q, k, d_y, call.sequences.info, scratch.shares, scratch.G, scratch.trace, gradient.slots, gradient.trace, *tail,
            PER_CHUNK=call.per_chunk, READ=call.read, **call.constants("read_onto"),
        )  # fmt: skip
    else:
        read_linear_backward_kernel[(count * call.lanes,)](*head, *out, *tail, **flags, **constants)


def write_backward(
    call: Call, scratch: Scratch, gradient: ScratchGradient, d_after: Tensor, d_before: Tensor,
    d_anchor_out: Tensor | None, d_tokens: list[Tensor], d_anchor: Tensor, n0: int, count: int, untied: bool,
) -> None:  # fmt: skip
    shape, k = call.shape, call.tokens[1]
    constants = call.constants("write_backward")
    anchor = _or(call.anchor, d_after)
    head = (k, call.sequences.info, scratch.shares, anchor, scratch.slots, scratch.trace)
    after = (gradient.slots, gradient.trace, d_after, _or(d_anchor_out, d_after))
    out = (*d_tokens[1:], gradient.shares, d_before, d_anchor)
    tail = (n0, count, call.lanes, shape.heads, call.max_norm)
    flags = dict(READ=call.read, UNTIED=untied, BOUND=call.max_norm > 0, BORDER=d_anchor_out is not None)
    if shape.hidden:
        write_mlp_backward_kernel[(call.lanes,)](*head, *after, scratch.work, *out, *tail, **flags, **constants)
    else:
        write_linear_backward_kernel[(call.lanes,)](*head, *after, *out, *tail, **flags, **constants)


Groups = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""Memory, momentum and anchor, each one contiguous float32 tensor [b, h, d_in, d_out] per layer."""


def step(
    tokens: tuple[Tensor, Tensor, Tensor], gates: tuple[Tensor, Tensor, Tensor], old: Groups, new: Groups, y: Tensor,
    position: Tensor | None, ends: str, read: str, max_norm: float | None,
) -> None:  # fmt: skip
    """Write y and the state after one token.

    tokens: q, k [b, h, d] and v [b, h, e]; gates: alpha, eta, theta [b, h]; any strides. y: [b, h, e], contiguous.
    old, new: step in place where they are the same; an anchor must not be a memory then.
    position: int64 [b] on the device, each row's place in its chunk after this token; needed if ends is "rows".
    ends: whose chunk ends with this token: "none", "all", or the "rows" whose position is 0. Unless "none", the new
        anchor is written, except where it is the new memory itself.
    """
    kernel: Any = step_linear_kernel if len(old[0]) == 1 else step_deep_kernel
    if not y.is_cuda and isinstance(kernel, triton.JITFunction):
        want = "them on a GPU, or TRITON_INTERPRET=1 set before Triton is imported"
        fail("backend", f"'triton' with tensors on {y.device}", want)
    if y.numel() == 0:
        return
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in tokens)
    b, h = y.shape[:2]
    own_anchor = new[2][0] is not new[0][0]
    sizes, options = step_configuration([w.shape[-2:] for w in old[0]], 64 if torch.version.hip else 32)
    layers = [w for layer in zip(*old, *new, strict=True) for w in layer]
    strides = [size for x in (q, k, v, *gates) for size in x.stride()[:2]]
    with torch.cuda.device(y.device) if y.is_cuda else nullcontext():
        kernel[(b * h,)](
            q, k, v, *gates, y, *layers, position, h, max_norm or 0.0, *strides,
            **sizes, READ=read, ENDS=ends, BOUND=max_norm is not None,
            ANCHOR=own_anchor, COPY=ends == "rows" and new[2][0] is not old[2][0],
            **options,
        )  # fmt: skip


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A pointer that the kernel does not use, where there is no tensor."""
    return stand_in if tensor is None else tensor
