"""The reads in reverse, all chunks of a group at once: the adjoint of `read.py`, line by line.

Gradients of q go to their place; those of what the recurrence left (the state each chunk began with, the keys at each
layer, the errors) and of the coefficients go to scratch, where the reverse of the recurrence finds them.
"""

import triton
import triton.language as tl

from .tiles import (
    D_NUMBERS,
    D_VECTORS,
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
def read_linear_backward_kernel(
    q, k, d_y, info, shares, G, anchor, slots, trace,
    d_q, d_slots, d_trace, d_shares, d_G,
    n0, lanes, heads,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
    PER_CHUNK: tl.constexpr, READ: tl.constexpr, UNTIED: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """To scratch: d_trace, gradients of the errors [at, C, V] | of the keys [at, C, D]; d_slots as slots."""
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
    d_out = load_tokens(d_y, start, head, heads, first, stop, C, V)
    slots += at * SIZE
    d_slots += at * SIZE
    d_trace += at * C * (V + D)
    d_delta = block(d_trace, 0, 0, V, C, V)
    d_k = block(d_trace + C * V, 0, 0, D, C, D)
    d_W = block(d_slots, 0, 0, V, D, V)
    d_S = block(d_slots + D * V, 0, 0, V, D, V)
    if READ == READ_ANCHOR:
        A = tl.load(block(slots, 0, 0, V, D, V)).to(tl.float32)
        if UNTIED:
            A = tl.load(block(anchor + lane.to(tl.int64) * D * V, 0, 0, V, D, V))
        d_query = product(d_out, tl.trans(A), tl.zeros([C, D], tl.float32), OPERAND, PRECISION)
        of_W = product(tl.trans(query), d_out, tl.zeros([D, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_W, of_W.to(d_slots.dtype.element_ty))
        tl.store(d_S, tl.zeros([D, V], d_slots.dtype.element_ty))
        tl.store(d_k, tl.zeros([C, D], d_slots.dtype.element_ty))
        tl.store(d_delta, tl.zeros([C, V], d_slots.dtype.element_ty))
    else:
        rows = tl.arange(0, C)
        beta, f = read_shares(shares + at * (VECTORS * C + NUMBERS), first, stop, C, READ)
        of_W = product(tl.trans(query * beta[:, None]), d_out, tl.zeros([D, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_W, of_W.to(d_slots.dtype.element_ty))
        of_S = product(tl.trans(query * f[:, None]), d_out, tl.zeros([D, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_S, of_S.to(d_slots.dtype.element_ty))
        W = tl.load(block(slots, 0, 0, V, D, V))
        through = product(d_out, tl.trans(W), tl.zeros([C, D], tl.float32), OPERAND, PRECISION)
        of_beta = tl.sum(query * through, 1)
        d_query = beta[:, None] * through
        S = tl.load(block(slots + D * V, 0, 0, V, D, V))
        through = product(d_out, tl.trans(S), tl.zeros([C, D], tl.float32), OPERAND, PRECISION)
        _store_shares(d_shares + at * (D_VECTORS * C + D_NUMBERS), of_beta, tl.sum(query * through, 1),
                      rows, first, stop, C, READ)  # fmt: skip
        d_query += f[:, None] * through
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        error = tl.load(block(trace + at * C * V, 0, 0, V, C, V))
        scores = product(query, tl.trans(key), tl.zeros([C, C], tl.float32), OPERAND, PRECISION)
        d_scores = product(d_out, tl.trans(error), tl.zeros([C, C], tl.float32), OPERAND, PRECISION)
        _store_G(d_G + at * C * C, -d_scores * scores, rows, first, stop, C, READ)
        share = read_G(G + at * (C if PER_CHUNK else C * C), first, stop, C, READ, PER_CHUNK)
        of_delta = product(tl.trans(-scores * share), d_out, tl.zeros([C, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_delta, of_delta.to(d_slots.dtype.element_ty))
        d_scores = -d_scores * share
        d_query = product(d_scores, key, d_query, OPERAND, PRECISION)
        of_k = product(tl.trans(d_scores), query, tl.zeros([C, D], tl.float32), OPERAND, PRECISION)
        tl.store(d_k, of_k.to(d_slots.dtype.element_ty))
    store_tokens(d_q, d_query, start, head, heads, first, stop, C, D)


@triton.jit(do_not_specialize=["n0"])
def read_mlp_backward_kernel(
    q, k, d_y, info, shares, G, anchor, slots, trace,
    d_q, d_slots, d_trace, d_shares, d_G,
    n0, lanes, heads,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, V: tl.constexpr, BE: tl.constexpr,
    PER_CHUNK: tl.constexpr, READ: tl.constexpr, UNTIED: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of two layers, in blocks of the hidden width; all but what `read_mlp_onto_kernel` does.

    d_trace: gradients of SiLU(z) [at, C, E] | of δ₁ [at, C, E] | of δ₂ [at, C, V] | of the keys [at, C, D]. In the first
    two's places stay what was read after the first layer and its gradient before SiLU; with READ = 2, which needs no
    more, zeros.
    """
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
    d_out = load_tokens(d_y, start, head, heads, first, stop, C, V)
    slots += at * SIZE
    d_slots += at * SIZE
    z = trace + at * C * (2 * E + V)
    back, delta = z + C * E, block(z + 2 * C * E, 0, 0, V, C, V)
    d_active = d_trace + at * C * (2 * E + V + D)
    d_below = d_active + C * E
    d_delta = block(d_active + 2 * C * E, 0, 0, V, C, V)
    d_k = block(d_active + 2 * C * E + C * V, 0, 0, D, C, D)
    d_query = tl.zeros([C, D], tl.float32)
    if READ == READ_ANCHOR:
        anchor += lane.to(tl.int64) * E * (D + V)
        for e in tl.range(0, E, BE, disable_licm=True):
            if UNTIED:
                A1 = tl.load(block(anchor, 0, e, E, D, BE))
                A2 = tl.load(block(anchor + S1, e, 0, V, BE, V))
            else:
                A1 = tl.load(block(slots, 0, e, E, D, BE)).to(tl.float32)
                A2 = tl.load(block(slots + W2, e, 0, V, BE, V)).to(tl.float32)
            x = product(query, A1, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            of_W = product(tl.trans(silu(x)), d_out, tl.zeros([BE, V], tl.float32), OPERAND, PRECISION)
            tl.store(block(d_slots + W2, e, 0, V, BE, V), of_W.to(d_slots.dtype.element_ty))
            d_x = product(d_out, tl.trans(A2), tl.zeros([C, BE], tl.float32), OPERAND, PRECISION) * silu_slope(x)
            d_query = product(d_x, tl.trans(A1), d_query, OPERAND, PRECISION)
            of_W = product(tl.trans(query), d_x, tl.zeros([D, BE], tl.float32), OPERAND, PRECISION)
            tl.store(block(d_slots, 0, e, E, D, BE), of_W.to(d_slots.dtype.element_ty))
            tl.store(block(d_slots + S1, 0, e, E, D, BE), tl.zeros([D, BE], d_slots.dtype.element_ty))
            tl.store(block(d_slots + S2, e, 0, V, BE, V), tl.zeros([BE, V], d_slots.dtype.element_ty))
            tl.store(block(d_active, 0, e, E, C, BE), tl.zeros([C, BE], d_slots.dtype.element_ty))
            tl.store(block(d_below, 0, e, E, C, BE), tl.zeros([C, BE], d_slots.dtype.element_ty))
        tl.store(d_k, tl.zeros([C, D], d_slots.dtype.element_ty))
        tl.store(d_delta, tl.zeros([C, V], d_slots.dtype.element_ty))
    else:
        rows = tl.arange(0, C)
        G += at * (C if PER_CHUNK else C * C)
        beta, f = read_shares(shares + at * (VECTORS * C + NUMBERS), first, stop, C, READ)
        share = read_G(G, first, stop, C, READ, PER_CHUNK)
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        masked = product(query, tl.trans(key), tl.zeros([C, C], tl.float32), OPERAND, PRECISION) * -share
        masked = masked.to(OPERAND)
        d_scores = product(d_out, tl.trans(tl.load(delta)), tl.zeros([C, C], tl.float32), OPERAND, PRECISION) * -share
        d_scores = d_scores.to(OPERAND)
        of_beta, of_f = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
        for e in tl.range(0, E, BE, disable_licm=True):  # what is read, and its gradient
            hidden = tl.load(block(z, 0, e, E, C, BE)).to(tl.float32)
            active, slope = silu(hidden), silu_slope(hidden)
            below = tl.load(block(back, 0, e, E, C, BE)).to(tl.float32) * slope
            W = tl.load(block(slots, 0, e, E, D, BE))
            S = tl.load(block(slots + S1, 0, e, E, D, BE))
            by_W = product(query, W, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            by_S = product(query, S, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            x = product(masked, below, beta[:, None] * by_W + f[:, None] * by_S, OPERAND, PRECISION)
            slope = silu_slope(x)
            x = silu(x)
            tl.store(block(d_active, 0, e, E, C, BE), x.to(d_slots.dtype.element_ty))
            d_x = product(d_scores, active, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            through = product(d_out, tl.trans(tl.load(block(slots + W2, e, 0, V, BE, V))),
                              tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)  # fmt: skip
            of_beta += tl.sum(x * through, 1)
            d_x += beta[:, None] * through
            through = product(d_out, tl.trans(tl.load(block(slots + S2, e, 0, V, BE, V))),
                              tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)  # fmt: skip
            of_f += tl.sum(x * through, 1)
            d_x = (d_x + f[:, None] * through) * slope
            tl.store(block(d_below, 0, e, E, C, BE), d_x.to(d_slots.dtype.element_ty))
            of_beta += tl.sum(by_W * d_x, 1)
            of_f += tl.sum(by_S * d_x, 1)
            d_query = product(beta[:, None] * d_x, tl.trans(W), d_query, OPERAND, PRECISION)
            d_query = product(f[:, None] * d_x, tl.trans(S), d_query, OPERAND, PRECISION)
        _store_shares(d_shares + at * (D_VECTORS * C + D_NUMBERS), of_beta, of_f, rows, first, stop, C, READ)
        tl.debug_barrier()  # what the loop stored is read back below, by other threads

        scores = tl.zeros([C, C], tl.float32)  # of the second layer
        d_masked = tl.zeros([C, C], tl.float32)  # of the first
        for e in tl.range(0, E, BE, disable_licm=True):  # what needs sums over the hidden width
            hidden = tl.load(block(z, 0, e, E, C, BE)).to(tl.float32)
            scores = product(
                tl.load(block(d_active, 0, e, E, C, BE)), tl.trans(silu(hidden)), scores, OPERAND, PRECISION
            )
            below = tl.load(block(back, 0, e, E, C, BE)).to(tl.float32) * silu_slope(hidden)
            d_masked = product(tl.load(block(d_below, 0, e, E, C, BE)), tl.trans(below), d_masked, OPERAND, PRECISION)
        share = read_G(G, first, stop, C, READ, PER_CHUNK)
        d_out = load_tokens(d_y, start, head, heads, first, stop, C, V)
        of_delta = product(tl.trans(-scores * share), d_out, tl.zeros([C, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_delta, of_delta.to(d_slots.dtype.element_ty))
        of_G = -scores * product(d_out, tl.trans(tl.load(delta)), tl.zeros([C, C], tl.float32), OPERAND, PRECISION)
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        query = load_tokens(q, start, head, heads, first, stop, C, D)
        scores = product(query, tl.trans(key), tl.zeros([C, C], tl.float32), OPERAND, PRECISION)  # of the first layer
        _store_G(d_G + at * C * C, of_G - scores * d_masked, rows, first, stop, C, READ)
        d_masked = (-d_masked * share).to(OPERAND)
        d_query = product(d_masked, key, d_query, OPERAND, PRECISION)
        of_k = product(tl.trans(d_masked), query, tl.zeros([C, D], tl.float32), OPERAND, PRECISION)
        tl.store(d_k, of_k.to(d_slots.dtype.element_ty))
    store_tokens(d_q, d_query, start, head, heads, first, stop, C, D)


@triton.jit(do_not_specialize=["n0"])
def read_mlp_onto_kernel(
    q, k, d_y, info, shares, G, trace,
    d_slots, d_trace,
    n0, lanes, heads,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, V: tl.constexpr, BE: tl.constexpr,
    PER_CHUNK: tl.constexpr, READ: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What each block of the hidden width has for itself: of the state, from what was read there and its gradient, which
    the kernel above has left in d_trace; those of SiLU(z) and δ₁ take their places."""
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
    d_out = load_tokens(d_y, start, head, heads, first, stop, C, V)
    d_slots += at * SIZE
    d_active = d_trace + at * C * (2 * E + V + D)
    d_below = d_active + C * E
    beta, f = read_shares(shares + at * (VECTORS * C + NUMBERS), first, stop, C, READ)
    share = -read_G(G + at * (C if PER_CHUNK else C * C), first, stop, C, READ, PER_CHUNK)
    key = load_tokens(k, start, head, heads, first, stop, C, D)
    error = tl.load(block(trace + at * C * (2 * E + V) + 2 * C * E, 0, 0, V, C, V))
    masked = product(query, tl.trans(key), tl.zeros([C, C], tl.float32), OPERAND, PRECISION) * share
    d_scores = product(d_out, tl.trans(error), tl.zeros([C, C], tl.float32), OPERAND, PRECISION) * share
    masked, d_scores = masked.to(OPERAND), d_scores.to(OPERAND)
    for e in tl.range(0, E, BE, disable_licm=True):
        x = tl.load(block(d_active, 0, e, E, C, BE))
        d_x = tl.load(block(d_below, 0, e, E, C, BE))
        tl.debug_barrier()  # each is overwritten below, by other threads than read it
        of_W = product(tl.trans(x * beta[:, None]), d_out, tl.zeros([BE, V], tl.float32), OPERAND, PRECISION)
        tl.store(block(d_slots + W2, e, 0, V, BE, V), of_W.to(d_slots.dtype.element_ty))
        of_S = product(tl.trans(x * f[:, None]), d_out, tl.zeros([BE, V], tl.float32), OPERAND, PRECISION)
        tl.store(block(d_slots + S2, e, 0, V, BE, V), of_S.to(d_slots.dtype.element_ty))
        of_active = product(tl.trans(d_scores), x, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
        tl.store(block(d_active, 0, e, E, C, BE), of_active.to(d_slots.dtype.element_ty))
        of_W = product(tl.trans(query), d_x * beta[:, None], tl.zeros([D, BE], tl.float32), OPERAND, PRECISION)
        tl.store(block(d_slots, 0, e, E, D, BE), of_W.to(d_slots.dtype.element_ty))
        of_S = product(tl.trans(query), d_x * f[:, None], tl.zeros([D, BE], tl.float32), OPERAND, PRECISION)
        tl.store(block(d_slots + S1, 0, e, E, D, BE), of_S.to(d_slots.dtype.element_ty))
        of_below = product(tl.trans(masked), d_x, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
        tl.store(block(d_below, 0, e, E, C, BE), of_below.to(d_slots.dtype.element_ty))


@triton.jit
def _store_shares(d_shares, of_beta, of_f, rows, first, stop, C: tl.constexpr, SHIFT: tl.constexpr):
    """To the token whose β and f they are; where no token's are read, the gradient is nobody's."""
    known = (rows - SHIFT >= first) & (rows < stop)
    tl.store(d_shares + rows - SHIFT, of_beta, mask=known)
    tl.store(d_shares + C + rows - SHIFT, of_f, mask=known)


@triton.jit
def _store_G(d_G, value, rows, first, stop, C: tl.constexpr, SHIFT: tl.constexpr):
    known = (rows - SHIFT >= first) & (rows < stop)
    tl.store(d_G + (rows - SHIFT)[:, None] * C + rows[None, :], value, mask=known[:, None])
