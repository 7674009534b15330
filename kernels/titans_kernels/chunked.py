"""The chunk form of the memory in PyTorch: any depth, any device; the path of machines without a GPU.

The sequence is cut at the chunk borders into spans: a partial chunk up to the first border, groups of whole chunks, a
partial chunk after the last one. The state at the start of each span is all that is kept; the backward runs a span
forward again, then in reverse, so that the weights of single chunks live only while their span runs.
"""

# torch types nothing that autograd functions return:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .chunked_backward import reverse_span
from .chunked_forward import Shares, read_span, span_shares, write_span
from .state import MemoryState, flush, integers
from .support import check_first_order, exact

CACHE_BYTES = 2**24
"""What a span works on stays below this where it can: it is passed over again and again."""
STATE_BYTES = 2**26
"""The states of a span's chunks stay below this, however short a chunk is."""


def chunked_scan(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor,
    state: MemoryState, chunk: int, read: str, max_norm: float | None,
) -> tuple[Tensor, MemoryState]:  # fmt: skip
    """q, k [b, t, h, d]; v [b, t, h, e]; gates [b, t, h] or, one a chunk, [b, n, h]; all rows at one position."""
    b, t, depth, position = q.shape[0], q.shape[1], len(state.memory), integers(state.position)[0]
    tied = all(m is a for m, a in zip(state.memory, state.anchor, strict=True))
    spans = tuple(_spans(t, position, chunk, tied, _group(q, state, chunk)))
    start = [torch.stack(pair, 2).flatten(0, 1) for pair in zip(state.memory, state.momentum, strict=True)]
    anchor = [] if tied else [w.flatten(0, 1) for w in state.anchor]
    tensors = (q, k, v, alpha, eta, theta, *start, *anchor)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    plan = _Plan(spans, chunk, position, alpha.shape[1] != t, depth, read, max_norm, keep)
    y, *after = cast("tuple[Tensor, ...]", _Scan.apply(plan, *tensors))

    memory, momentum = (tuple(torch.unflatten(w[:, i], 0, (b, -1)).contiguous() for w in after[:depth]) for i in (0, 1))
    border = tuple(torch.unflatten(w, 0, (b, -1)) for w in after[depth:]) or state.anchor
    return y, MemoryState(memory, momentum, memory if spans[-1].complete else border, (state.position + t) % chunk)


class _Span(NamedTuple):
    """Tokens start … stop of the call: `chunks` pieces of equal length, each ending at a chunk border if `complete`.

    If `tied`, the anchor of the first piece is the memory at its start, as it always is for the following ones.
    """

    start: int
    stop: int
    chunks: int
    complete: bool
    tied: bool


def _spans(t: int, position: int, chunk: int, tied: bool, group: int) -> Iterator[_Span]:
    done = 0
    if position or not tied:
        done = min(chunk - position, t)
        yield _Span(0, done, 1, position + done == chunk, tied)
    while t - done >= chunk:
        chunks = min(group, (t - done) // chunk)
        yield _Span(done, done + chunks * chunk, chunks, True, True)
        done += chunks * chunk
    if done < t:
        yield _Span(done, t, 1, False, True)


def _group(q: Tensor, state: MemoryState, chunk: int) -> int:
    """Chunks of a span: few, so that what it works on fits a cache, but enough that the states kept, one a span, stay
    below half of what q, k, v and y take."""
    widths = [w.shape[-1] for w in state.memory]
    lane = q.shape[0] * q.shape[2] * state.memory[0].element_size()
    states = 2 * lane * sum(w.shape[-2] * w.shape[-1] for w in state.memory)
    hidden = lane * chunk * max(widths)
    passed = lane * chunk * 2 * (q.shape[-1] + widths[-1])
    fits_cache = CACHE_BYTES // (8 * hidden + 2 * states)
    keeps_little = min(-(-2 * states // passed), STATE_BYTES // states)
    return max(1, fits_cache, keeps_little)


class _Plan(NamedTuple):
    spans: tuple[_Span, ...]
    chunk: int
    position: int
    per_chunk: bool
    depth: int
    read: str
    max_norm: float | None
    keep: bool
    """Whether a backward may follow."""

    @property
    def returns_border(self) -> bool:
        """The anchor afterwards is neither the memory nor the incoming anchor, but lies between: a third output."""
        return not self.spans[-1].complete and len(self.spans) > 1

    def lanes(self, x: Tensor, span: _Span, dtype: torch.dtype) -> Tensor:
        """[b, t, h, d] → the span's part, [n, b·h, c, d]."""
        return _chunks_first(x, span).flatten(1, 2).to(dtype).contiguous()

    def gates(self, x: Tensor, span: _Span) -> Tensor:
        first = (self.position + span.start) // self.chunk
        return x[:, first : first + span.chunks] if self.per_chunk else x[:, span.start : span.stop]

    def shares(self, gates: list[Tensor], span: _Span, dtype: torch.dtype) -> Shares:
        tokens = (span.stop - span.start) // span.chunks
        alpha, eta, theta = (x.to(dtype) for x in gates)
        return span_shares(alpha, eta, theta, span.chunks, tokens, self.read)

    def bound(self, span: _Span) -> float | None:
        return self.max_norm if span.complete else None


def _chunks_first(x: Tensor, span: _Span) -> Tensor:
    """A view [n, b, h, c, d] of the span's part of [b, t, h, d]."""
    return torch.unflatten(x[:, span.start : span.stop], 1, (span.chunks, -1)).permute(1, 0, 3, 2, 4)


def _put(x: Tensor, into: Tensor, span: _Span) -> None:
    """The inverse of `_Plan.lanes`."""
    place = _chunks_first(into, span)
    place.copy_(x.view(place.shape))


class _Scan(torch.autograd.Function):
    """(plan, q, k, v, α, η, θ, [W ‖ S] of each layer, anchors unless tied) → y, [W ‖ S], and anchors on a border."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        (q, k, v, *gates), weights = tensors[:6], tensors[6:]
        state, anchor = weights[: plan.depth], weights[plan.depth :]
        y, start = torch.empty_like(v, memory_format=torch.contiguous_format), state
        kept: list[Tensor] = []
        for span in plan.spans:
            start, dtype = state, state[0].dtype
            kept += start if plan.keep else ()
            shares = plan.shares([plan.gates(x, span) for x in gates], span, dtype)
            queries, keys, values = (plan.lanes(x, span, dtype) for x in (q, k, v))
            fixed = None if span.tied else anchor
            layers = write_span(keys, values, shares, start, fixed, plan.bound(span))
            _put(read_span(queries, shares, layers, fixed)[0], y, span)
            state = [flush(layer.end[-1].clone()) for layer in layers]
        if plan.keep:
            ctx.plan = plan
            ctx.save_for_backward(*tensors[:6], *anchor, *kept)
        border = [w[:, 0].clone() for w in start] if plan.returns_border else []
        return y, *state, *border

    @staticmethod
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_first_order(*d_outputs)
        with exact(d_outputs[0].device):  # whatever holds where backward is called
            return _Scan._backward(ctx, *d_outputs)

    @staticmethod
    def _backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        d_y, d_after = d_outputs[0], d_outputs[1:]
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # once: activation checkpointing allows no second look
        (q, k, v, *gates), weights = saved[:6], saved[6:]
        anchor = () if plan.spans[0].tied else weights[: plan.depth]
        starts = weights[len(anchor) :]
        d_state, d_border, d_anchor = list(d_after[: plan.depth]), d_after[plan.depth :], []
        d_tokens = [torch.empty_like(x) for x in (q, k, v)]
        d_gates = [torch.zeros_like(x) for x in gates]
        for s in range(len(plan.spans) - 1, -1, -1):
            span, start = plan.spans[s], starts[s * plan.depth : (s + 1) * plan.depth]
            with torch.enable_grad():
                leaves = [plan.gates(x, span).detach().requires_grad_() for x in gates]
                attached = plan.shares(leaves, span, start[0].dtype)
            shares = Shares(*(x.detach() for x in attached))
            queries, keys, values, d_read = (plan.lanes(x, span, start[0].dtype) for x in (q, k, v, d_y))
            fixed = None if span.tied else anchor
            layers = write_span(keys, values, shares, start, fixed, plan.bound(span))
            got = reverse_span(queries, shares, layers, fixed, d_read, d_state)

            for x, into in zip(got.tokens, d_tokens, strict=True):
                _put(x, into, span)
            used = [(x, d) for x, d in zip(attached, got.shares, strict=True) if x.requires_grad]
            d_leaves = torch.autograd.grad([x for x, _ in used], leaves, [d for _, d in used])
            for x, into in zip(d_leaves, d_gates, strict=True):
                plan.gates(into, span).add_(x)
            d_state, d_anchor = got.start, got.anchor
            if s == len(plan.spans) - 1:
                for d, extra in zip(d_state, d_border, strict=False):
                    d[:, 0] += extra
        return None, *d_tokens, *d_gates, *d_state, *d_anchor
