"""The reads of a group of chunks: every token through its own memory (kernels/README.md, section 4), all chunks at once.

Needs of each chunk only what the recurrence left: the state it began with, z and the errors.
"""

import triton
import triton.language as tl

from .tiles import (
    NUMBERS,
    READ_ANCHOR,
    VECTORS,
    block,
    live_rows,
    load_tokens,
    product,
    read_G,
    read_shares,
    sequence,
    silu,
    silu_slope,
    store_tokens,
)


@triton.jit(do_not_specialize=["n0"])
def read_linear_kernel(
    q, k, y, info, shares, G, anchor, slots, trace,
    n0, lanes, heads,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
    PER_CHUNK: tl.constexpr, READ: tl.constexpr, UNTIED: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of one layer; grid: chunks of the group × lanes. READ: 0 after, 1 before, 2 anchor."""
    SIZE: tl.constexpr = 2 * D * V
    lane = tl.program_id(0) % lanes
    i = n0 + tl.program_id(0) // lanes
    token, length, position, _, _, head = sequence(info, lane, heads)
    first, stop = live_rows(i, length, position, CHUNK)
    if first >= stop:
        return
    at = (i - n0).to(tl.int64) * lanes + lane
    start = token + i * CHUNK - position
    query = load_tokens(q, start, head, heads, first, stop, C, D)
    out = tl.zeros([C, V], tl.float32)
    if READ == READ_ANCHOR:
        A = tl.load(block(slots + at * SIZE, 0, 0, V, D, V)).to(tl.float32)
        if UNTIED:
            A = tl.load(block(anchor + lane.to(tl.int64) * D * V, 0, 0, V, D, V))
        out = product(query, A, out, OPERAND, PRECISION)
    else:
        beta, f = read_shares(shares + at * (VECTORS * C + NUMBERS), first, stop, C, READ)
        share = read_G(G + at * (C if PER_CHUNK else C * C), first, stop, C, READ, PER_CHUNK)
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        error = tl.load(block(trace + at * C * V, 0, 0, V, C, V))
        scores = product(query, tl.trans(key), tl.zeros([C, C], tl.float32), OPERAND, PRECISION)
        out = product(-scores * share, error, out, OPERAND, PRECISION)
        out = product(query * beta[:, None], tl.load(block(slots + at * SIZE, 0, 0, V, D, V)), out, OPERAND, PRECISION)
        S = tl.load(block(slots + at * SIZE + D * V, 0, 0, V, D, V))
        out = product(query * f[:, None], S, out, OPERAND, PRECISION)
    store_tokens(y, out, start, head, heads, first, stop, C, V)


@triton.jit(do_not_specialize=["n0"])
def read_mlp_kernel(
    q, k, y, info, shares, G, anchor, slots, trace,
    n0, lanes, heads,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, V: tl.constexpr, BE: tl.constexpr,
    PER_CHUNK: tl.constexpr, READ: tl.constexpr, UNTIED: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of two layers, in blocks of the hidden width; else as `read_linear_kernel`."""
    SIZE: tl.constexpr = 2 * E * (D + V)
    S1: tl.constexpr = D * E
    W2: tl.constexpr = 2 * D * E
    S2: tl.constexpr = 2 * D * E + E * V
    lane = tl.program_id(0) % lanes
    i = n0 + tl.program_id(0) // lanes
    token, length, position, _, _, head = sequence(info, lane, heads)
    first, stop = live_rows(i, length, position, CHUNK)
    if first >= stop:
        return
    at = (i - n0).to(tl.int64) * lanes + lane
    start = token + i * CHUNK - position
    query = load_tokens(q, start, head, heads, first, stop, C, D)
    slots += at * SIZE
    z = trace + at * C * (2 * E + V)
    back, delta = z + C * E, z + 2 * C * E
    out = tl.zeros([C, V], tl.float32)
    if READ == READ_ANCHOR:
        anchor += lane.to(tl.int64) * E * (D + V)
        for e in tl.range(0, E, BE, disable_licm=True):
            if UNTIED:
                A1 = tl.load(block(anchor, 0, e, E, D, BE))
                A2 = tl.load(block(anchor + S1, e, 0, V, BE, V))
            else:
                A1 = tl.load(block(slots, 0, e, E, D, BE)).to(tl.float32)
                A2 = tl.load(block(slots + W2, e, 0, V, BE, V)).to(tl.float32)
            x = silu(product(query, A1, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION))
            out = product(x, A2, out, OPERAND, PRECISION)
    else:
        beta, f = read_shares(shares + at * (VECTORS * C + NUMBERS), first, stop, C, READ)
        share = read_G(G + at * (C if PER_CHUNK else C * C), first, stop, C, READ, PER_CHUNK)
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        masked = product(query, tl.trans(key), tl.zeros([C, C], tl.float32), OPERAND, PRECISION) * -share
        masked = masked.to(OPERAND)
        query_W, query_S = (query * beta[:, None]).to(OPERAND), (query * f[:, None]).to(OPERAND)
        scores = tl.zeros([C, C], tl.float32)
        for e in tl.range(0, E, BE, disable_licm=True):
            hidden = tl.load(block(z, 0, e, E, C, BE)).to(tl.float32)
            below = tl.load(block(back, 0, e, E, C, BE)).to(tl.float32) * silu_slope(hidden)
            x = product(masked, below, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            x = product(query_W, tl.load(block(slots, 0, e, E, D, BE)), x, OPERAND, PRECISION)
            x = silu(product(query_S, tl.load(block(slots + S1, 0, e, E, D, BE)), x, OPERAND, PRECISION))
            scores = product(x, tl.trans(silu(hidden)), scores, OPERAND, PRECISION)
            out = product(x * beta[:, None], tl.load(block(slots + W2, e, 0, V, BE, V)), out, OPERAND, PRECISION)
            out = product(x * f[:, None], tl.load(block(slots + S2, e, 0, V, BE, V)), out, OPERAND, PRECISION)
        error = tl.load(block(delta, 0, 0, V, C, V))
        out = product(-scores * share, error, out, OPERAND, PRECISION)
    store_tokens(y, out, start, head, heads, first, stop, C, V)
