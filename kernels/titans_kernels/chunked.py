"""The chunk form of the memory in PyTorch: any depth, any device; the path of machines without a GPU.

The sequence is cut at the chunk borders into spans: a partial chunk up to the first border, groups of whole chunks, a
partial chunk after the last one. Each span is checkpointed, so that its weights per chunk live only while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .coefficients import Coefficients, chunk_coefficients, token_coefficients
from .state import MemoryState, bound

GROUP_TOKENS = 512
"""Tokens of a group of whole chunks. A state is kept for each group, and a group is recomputed in the backward."""

Weights = tuple[Tensor, ...]


def chunked_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    state: MemoryState,
    chunk: int,
    read: str,
    max_norm: float | None,
) -> tuple[Tensor, MemoryState]:
    """q, k [b, t, h, d]; v [b, t, h, e]; gates [b, t, h] or, one a chunk, [b, n, h]; all rows at one position."""
    t, start = q.shape[1], int(state.position[0])
    per_chunk = alpha.shape[1] != t
    weights = (state.memory, state.momentum, state.anchor)
    heads = [tuple(w.flatten(0, 1) for w in group) for group in weights]
    wants_grad = torch.is_grad_enabled() and any(
        x.requires_grad for x in (q, k, v, alpha, eta, theta, *(w for group in weights for w in group))
    )
    reads = []
    for span in _spans(t, start, chunk):
        tokens = slice(span.start, span.stop)
        first = (start + span.start) // chunk
        gates = slice(first, first + span.chunks) if per_chunk else tokens
        arguments = (
            *(x[:, tokens] for x in (q, k, v)),
            *(x[:, gates] for x in (alpha, eta, theta)),
            *heads,
            span,
            read,
            max_norm,
        )
        if wants_grad:
            y, *heads = checkpoint(_run_span, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y, *heads = _run_span(*arguments)
        reads.append(y)
    y = torch.cat(reads, dim=1) if len(reads) > 1 else reads[0]
    rows = tuple(tuple(w.unflatten(0, (q.shape[0], -1)) for w in group) for group in heads)
    return y, MemoryState(*rows, (state.position + t) % chunk)


class _Span(NamedTuple):
    """Tokens start … stop of the call: `chunks` pieces of equal length, each ending at a chunk border if `complete`."""

    start: int
    stop: int
    chunks: int
    complete: bool


def _spans(t: int, position: int, chunk: int) -> Iterator[_Span]:
    done = 0
    if position:
        done = min(chunk - position, t)
        yield _Span(0, done, 1, position + done == chunk)
    group = max(1, GROUP_TOKENS // chunk)
    while t - done >= chunk:
        chunks = min(group, (t - done) // chunk)
        yield _Span(done, done + chunks * chunk, chunks, True)
        done += chunks * chunk
    if done < t:
        yield _Span(done, t, 1, False)


def _run_span(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    eta: Tensor,
    theta: Tensor,
    memory: Weights,
    momentum: Weights,
    anchor: Weights,
    span: _Span,
    read: str,
    max_norm: float | None,
) -> tuple[Tensor, Weights, Weights, Weights]:
    """Coefficients of all chunks at once; the recurrence over chunks; the reads of all chunks at once.

    Inside, r = b·h lanes lead: q, k, v [n, r, c, ·], weights [r, d_in, d_out].
    """
    rows, n, out_dtype = q.shape[0], span.chunks, v.dtype
    q, k, v = (_by_chunk(x.to(memory[0].dtype), n) for x in (q, k, v))
    c = q.shape[-2]
    gates = [x.to(q.dtype) for x in (alpha, eta, theta)]
    if gates[0].shape[1] == n and c > 1:
        coefficients = chunk_coefficients(*(x.transpose(0, 1).flatten(1) for x in gates), c)
    else:
        coefficients = token_coefficients(*(_by_chunk(x[..., None], n).squeeze(-1) for x in gates))

    starts, keys, errors = [], [], []
    for i, piece in enumerate(zip(*coefficients, strict=True)):
        a, delta = _surprise(k[i], v[i], anchor)
        starts.append(anchor + momentum if read == "anchor" else memory + momentum)
        keys.append(a)
        errors.append(delta)
        memory, momentum = _write(Coefficients(*piece), a, delta, memory, momentum)
        if span.complete:
            memory, momentum = (tuple(bound(w, max_norm) for w in group) for group in (memory, momentum))
            anchor = memory

    layers = [torch.stack(x) for x in (*zip(*starts, strict=True), *zip(*keys, strict=True), *zip(*errors, strict=True))]
    depth = len(memory)
    y = _read(q, coefficients, read, *(layers[i * depth : (i + 1) * depth] for i in range(4)))
    y = y.unflatten(1, (rows, -1)).permute(1, 0, 3, 2, 4).flatten(1, 2)
    return y.to(out_dtype), memory, momentum, anchor


def _by_chunk(x: Tensor, n: int) -> Tensor:
    """[b, n·c, h, d] → [n, b·h, c, d]."""
    return x.unflatten(1, (n, -1)).permute(1, 0, 3, 2, 4).flatten(1, 2).contiguous()


def _surprise(k: Tensor, v: Tensor, anchor: Weights) -> tuple[Weights, Weights]:
    """Inputs a_l and errors δ_l of each layer; the gradient of token j is the outer product a_j δ_jᵀ, never formed."""
    inputs, slopes, x = [], [], k
    for l, weight in enumerate(anchor):
        inputs.append(x)
        x = x @ weight
        if l < len(anchor) - 1:
            gate = torch.sigmoid(x)
            activated = x * gate
            slopes.append(gate + activated * (1 - gate))
            x = activated
    errors = [2 * (x - v)]
    for weight, slope in zip(anchor[:0:-1], slopes[::-1], strict=True):
        errors.append((errors[-1] @ weight.mT) * slope)
    return tuple(inputs), tuple(errors[::-1])


def _write(
    share: Coefficients, inputs: Weights, errors: Weights, memory: Weights, momentum: Weights
) -> tuple[Weights, Weights]:
    """Memory and momentum after the chunk's last token."""
    beta, f, m = (x[:, None, None] for x in (share.beta[:, -1], share.f[:, -1], share.m_end))
    G, H = share.G[:, -1, :, None], share.H_end[:, :, None]
    new_memory, new_momentum = [], []
    for a, delta, W, S in zip(inputs, errors, memory, momentum, strict=True):
        new_memory.append(beta * W + f * S - (a * G).mT @ delta)
        new_momentum.append(m * S - (a * H).mT @ delta)
    return tuple(new_memory), tuple(new_momentum)


def _read(
    q: Tensor,
    share: Coefficients,
    read: str,
    memory: list[Tensor],
    momentum: list[Tensor],
    inputs: list[Tensor],
    errors: list[Tensor],
) -> Tensor:
    """Every token through its own memory, layer by layer, without forming it."""
    beta, f, G = share.beta[..., None], share.f[..., None], share.G
    if read == "before":
        beta, f, G = F.pad(beta[..., :-1, :], (0, 0, 1, 0), value=1.0), _shift(f), _shift(G)
    x = q
    for l, (W, S, a, delta) in enumerate(zip(memory, momentum, inputs, errors, strict=True)):
        if read == "anchor":
            x = x @ W
        else:
            x = beta * (x @ W) + f * (x @ S) - ((x @ a.mT) * G) @ delta
        if l < len(memory) - 1:
            x = F.silu(x)
    return x


def _shift(rows: Tensor) -> Tensor:
    """Rows of token t − 1 in the place of t, zero for the first."""
    return F.pad(rows[..., :-1, :], (0, 0, 1, 0))
