"""The recurrence in reverse over a group of chunks: one program a lane, from the last chunk back (kernels/README.md, 6).

The gradient of the state comes in from what follows the group, takes up what the reads of each chunk gave, and leaves
towards what precedes it. Like the state, it stays in registers for one layer; for two it goes through two float32
buffers in turn: what is carried on number by number first, then passes over blocks of the hidden width add the rest.
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
    carries,
    live_rows,
    load_tokens,
    product,
    sequence,
    silu,
    silu_curve,
    silu_slope,
    store_tokens,
    write_shares,
)

FLAT = tl.constexpr(2048)
"""Numbers of a matrix worked off at a time where its shape does not matter."""


@triton.jit(do_not_specialize=["n0", "count"])
def write_linear_backward_kernel(
    k, info, shares, anchor, slots, trace,
    d_slots, d_trace, d_after, d_anchor_out,
    d_k, d_v, d_shares, d_before, d_anchor,
    n0, count, lanes, heads, max_norm,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
    READ: tl.constexpr, UNTIED: tl.constexpr, BOUND: tl.constexpr, BORDER: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of one layer; grid: lanes. From d_after, of the state after the group, to d_before; [lanes, SIZE] each.

    BORDER: whether the anchor that the call returned has a gradient, d_anchor_out.
    """
    SIZE: tl.constexpr = 2 * D * V
    lane = tl.program_id(0)
    token, length, position, _, _, head = sequence(info, lane, heads)
    chunks = tl.where(length > 0, (position + length + CHUNK - 1) // CHUNK, 0).to(tl.int32)
    end = tl.minimum(n0 + count, chunks)
    lane = lane.to(tl.int64)
    d_W = tl.load(block(d_after + lane * SIZE, 0, 0, V, D, V))
    d_S = tl.load(block(d_after + lane * SIZE + D * V, 0, 0, V, D, V))
    anchor_out = block(d_anchor_out + lane * D * V, 0, 0, V, D, V)
    whole = chunks * CHUNK == position + length
    if BORDER:
        d_W += tl.load(anchor_out, mask=(end == chunks) & (n0 < end) & whole, other=0.0)
    rows = tl.arange(0, C)
    for step in tl.range(0, tl.maximum(end - n0, 0), disable_licm=True):
        i = end - 1 - step
        at = (i - n0).to(tl.int64) * lanes + lane
        first, stop = live_rows(i, length, position, CHUNK)
        share = shares + at * (VECTORS * C + NUMBERS)
        d_share = d_shares + at * (D_VECTORS * C + D_NUMBERS)
        start = token + i * CHUNK - position
        if BOUND:
            after = slots + ((i + 1 - n0).to(tl.int64) * lanes + lane) * SIZE
            W, S = tl.load(block(after, 0, 0, V, D, V)), tl.load(block(after + D * V, 0, 0, V, D, V))
            scale_W, scale_S = tl.load(share + VECTORS * C + 4), tl.load(share + VECTORS * C + 5)
            d_W = scale_W * (d_W - pull(tl.sum(d_W * W), scale_W, max_norm) * W)
            d_S = scale_S * (d_S - pull(tl.sum(d_S * S), scale_S, max_norm) * S)
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        error = tl.load(block(trace + at * C * V, 0, 0, V, C, V))
        G_c, H_c = write_shares(share, first, stop, C)
        d_z = tl.load(block(d_trace + at * C * (V + D), 0, 0, V, C, V)).to(tl.float32)
        by = product(key, d_W, tl.zeros([C, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_share + 2 * C + rows, -tl.sum(error * by, 1))
        d_z -= G_c[:, None] * by
        by = product(key, d_S, tl.zeros([C, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_share + 3 * C + rows, -tl.sum(error * by, 1))
        d_z = 2 * (d_z - H_c[:, None] * by)
        store_tokens(d_v, -d_z, start, head, heads, first, stop, C, V)
        d_z = d_z.to(OPERAND)
        of_k = tl.load(block(d_trace + at * C * (V + D) + C * V, 0, 0, D, C, D)).to(tl.float32)
        of_k = product(error * -G_c[:, None], tl.trans(d_W), of_k, OPERAND, PRECISION)
        of_k = product(error * -H_c[:, None], tl.trans(d_S), of_k, OPERAND, PRECISION)
        if UNTIED:
            A = tl.load(block(anchor + lane * D * V, 0, 0, V, D, V))
        else:
            A = tl.load(block(slots + at * SIZE, 0, 0, V, D, V)).to(tl.float32)
        of_k = product(d_z, tl.trans(A), of_k, OPERAND, PRECISION)
        store_tokens(d_k, of_k, start, head, heads, first, stop, C, D)

        W = tl.load(block(slots + at * SIZE, 0, 0, V, D, V)).to(tl.float32)
        tl.store(d_share + D_VECTORS * C, tl.sum(d_W * W))
        S = tl.load(block(slots + at * SIZE + D * V, 0, 0, V, D, V)).to(tl.float32)
        tl.store(d_share + D_VECTORS * C + 1, tl.sum(d_W * S))
        tl.store(d_share + D_VECTORS * C + 2, tl.sum(d_S * S))
        beta, f, m = carries(share, C)
        of_W = tl.load(block(d_slots + at * SIZE, 0, 0, V, D, V)).to(tl.float32)
        of_S = tl.load(block(d_slots + at * SIZE + D * V, 0, 0, V, D, V)).to(tl.float32)
        d_S = of_S + f * d_W + m * d_S
        if BORDER:
            begun = (i + 1) * CHUNK > position + length
            of_border = tl.load(anchor_out, mask=begun, other=0.0)
        if UNTIED:
            of_A = product(tl.trans(key), d_z, tl.zeros([D, V], tl.float32), OPERAND, PRECISION)
            d_W = beta * d_W
            if READ == READ_ANCHOR:
                of_A += of_W
            else:
                d_W += of_W
            if BORDER:
                of_A += of_border
            tl.store(block(d_anchor + lane * D * V, 0, 0, V, D, V), of_A)
        else:
            d_W = product(tl.trans(key), d_z, of_W + beta * d_W, OPERAND, PRECISION)
            if BORDER:
                d_W += of_border
    tl.store(block(d_before + lane * SIZE, 0, 0, V, D, V), d_W)
    tl.store(block(d_before + lane * SIZE + D * V, 0, 0, V, D, V), d_S)


@triton.jit(do_not_specialize=["n0", "count"])
def write_mlp_backward_kernel(
    k, info, shares, anchor, slots, trace,
    d_slots, d_trace, d_after, d_anchor_out, work,
    d_k, d_v, d_shares, d_before, d_anchor,
    n0, count, lanes, heads, max_norm,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, V: tl.constexpr, BE: tl.constexpr,
    READ: tl.constexpr, UNTIED: tl.constexpr, BOUND: tl.constexpr, BORDER: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of two layers, in blocks of the hidden width; else as above. work: [3, lanes, SIZE]. Spoils d_trace."""
    SIZE: tl.constexpr = 2 * E * (D + V)
    S1: tl.constexpr = D * E
    W2: tl.constexpr = 2 * D * E
    S2: tl.constexpr = 2 * D * E + E * V
    ANCHOR: tl.constexpr = E * (D + V)
    lane = tl.program_id(0)
    token, length, position, _, _, head = sequence(info, lane, heads)
    chunks = tl.where(length > 0, (position + length + CHUNK - 1) // CHUNK, 0).to(tl.int32)
    end = tl.minimum(n0 + count, chunks)
    lane = lane.to(tl.int64)
    anchor += lane * ANCHOR
    d_anchor += lane * ANCHOR
    d_anchor_out += lane * ANCHOR
    source = d_after + lane * SIZE
    if BORDER:
        target = work + (lanes + lane) * SIZE  # not the buffer of the first chunk worked off
        whole = (end == chunks) & (n0 < end) & (chunks * CHUNK == position + length)
        for e in tl.range(0, E, BE, disable_licm=True):
            d_W = tl.load(block(d_anchor_out, 0, e, E, D, BE), mask=whole, other=0.0)
            tl.store(block(target, 0, e, E, D, BE), d_W + tl.load(block(source, 0, e, E, D, BE)))
            tl.store(block(target + S1, 0, e, E, D, BE), tl.load(block(source + S1, 0, e, E, D, BE)))
            d_W = tl.load(block(d_anchor_out + S1, e, 0, V, BE, V), mask=whole, other=0.0)
            tl.store(block(target + W2, e, 0, V, BE, V), d_W + tl.load(block(source + W2, e, 0, V, BE, V)))
            tl.store(block(target + S2, e, 0, V, BE, V), tl.load(block(source + S2, e, 0, V, BE, V)))
        tl.debug_barrier()
        source = target
    rows = tl.arange(0, C)
    for step in tl.range(0, tl.maximum(end - n0, 0), disable_licm=True):
        i = end - 1 - step
        at = (i - n0).to(tl.int64) * lanes + lane
        first, stop = live_rows(i, length, position, CHUNK)
        share = shares + at * (VECTORS * C + NUMBERS)
        d_share = d_shares + at * (D_VECTORS * C + D_NUMBERS)
        start = token + i * CHUNK - position
        target = work + (lane + (step % 2) * lanes) * SIZE
        slot = slots + at * SIZE
        d_slot = d_slots + at * SIZE
        if BOUND:
            scale_W1, scale_S1 = tl.load(share + VECTORS * C + 4), tl.load(share + VECTORS * C + 5)
            scale_W2, scale_S2 = tl.load(share + VECTORS * C + 6), tl.load(share + VECTORS * C + 7)
            if tl.minimum(tl.minimum(scale_W1, scale_S1), tl.minimum(scale_W2, scale_S2)) < 1:
                after = slots + ((i + 1 - n0).to(tl.int64) * lanes + lane) * SIZE
                free = work + (lane + 2 * lanes) * SIZE
                unbound(source, after, free, scale_W1, max_norm, D * E)
                unbound(source + S1, after + S1, free + S1, scale_S1, max_norm, D * E)
                unbound(source + W2, after + W2, free + W2, scale_W2, max_norm, E * V)
                unbound(source + S2, after + S2, free + S2, scale_S2, max_norm, E * V)
                tl.debug_barrier()
                source = free
        z = trace + at * C * (2 * E + V)
        back, delta = z + C * E, block(z + 2 * C * E, 0, 0, V, C, V)
        d_active = d_trace + at * C * (2 * E + V + D)
        d_below, d_delta = d_active + C * E, d_active + 2 * C * E  # tiles are loaded where used: registers are short
        beta, f, m = carries(share, C)
        begun = (i + 1) * CHUNK > position + length
        of_beta1, of_f1, of_m1 = _carry_on(source, slot, d_slot, target, d_anchor, d_anchor_out, beta, f, m, begun,
                                           D * E, READ, UNTIED, BORDER)  # fmt: skip
        of_beta2, of_f2, of_m2 = _carry_on(source + W2, slot + W2, d_slot + W2, target + W2, d_anchor + S1,
                                           d_anchor_out + S1, beta, f, m, begun, E * V, READ, UNTIED, BORDER)  # fmt: skip
        tl.store(d_share + D_VECTORS * C, of_beta1 + of_beta2)
        tl.store(d_share + D_VECTORS * C + 1, of_f1 + of_f2)
        tl.store(d_share + D_VECTORS * C + 2, of_m1 + of_m2)
        as_anchor1, as_anchor2 = target, target + W2
        A1, A2 = slot, slot + W2
        if UNTIED:
            as_anchor1, as_anchor2 = d_anchor, d_anchor + S1
            A1, A2 = anchor, anchor + S1
        tl.debug_barrier()  # what is stored in one pass is loaded in the next, by other threads

        by_W, by_S = tl.zeros([C, V], tl.float32), tl.zeros([C, V], tl.float32)
        for e in tl.range(0, E, BE, disable_licm=True):  # to the last layer's errors, from what they wrote
            active = silu(tl.load(block(z, 0, e, E, C, BE)).to(tl.float32)).to(OPERAND)
            by_W = product(active, tl.load(block(source + W2, e, 0, V, BE, V)), by_W, OPERAND, PRECISION)
            by_S = product(active, tl.load(block(source + S2, e, 0, V, BE, V)), by_S, OPERAND, PRECISION)
        error = tl.load(delta)
        of_G_c, of_H_c = -tl.sum(error * by_W, 1), -tl.sum(error * by_S, 1)
        G_c, H_c = write_shares(share, first, stop, C)
        of_delta = tl.load(block(d_delta, 0, 0, V, C, V)).to(tl.float32)
        of_delta -= G_c[:, None] * by_W + H_c[:, None] * by_S
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        for e in tl.range(0, E, BE, disable_licm=True):  # to the first layer's, and through them to the last layer's
            hidden = tl.load(block(z, 0, e, E, C, BE)).to(tl.float32)
            slope = silu_slope(hidden)
            above = tl.load(block(back, 0, e, E, C, BE)).to(tl.float32)
            below = above * slope
            tl.store(block(back, 0, e, E, C, BE), below.to(trace.dtype.element_ty))
            of_below = tl.load(block(d_below, 0, e, E, C, BE)).to(tl.float32)
            by = product(key, tl.load(block(source, 0, e, E, D, BE)), tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            of_G_c -= tl.sum(below * by, 1)
            of_below -= G_c[:, None] * by
            by = product(
                key, tl.load(block(source + S1, 0, e, E, D, BE)), tl.zeros([C, BE], tl.float32), OPERAND, PRECISION
            )
            of_H_c -= tl.sum(below * by, 1)
            of_below -= H_c[:, None] * by
            d_z1 = of_below * above * silu_curve(hidden)
            tl.store(block(d_below, 0, e, E, C, BE), d_z1.to(d_trace.dtype.element_ty))
            d_back = (of_below * slope).to(OPERAND)
            of_delta = product(d_back, tl.load(block(A2, e, 0, V, BE, V)), of_delta, OPERAND, PRECISION)
            into = block(as_anchor2, e, 0, V, BE, V)
            tl.store(into, product(tl.trans(d_back), error, tl.load(into), OPERAND, PRECISION))
        tl.store(d_share + 2 * C + rows, of_G_c)
        tl.store(d_share + 3 * C + rows, of_H_c)
        store_tokens(d_v, -2 * of_delta, start, head, heads, first, stop, C, V)
        d_z2 = (2 * of_delta).to(OPERAND)
        tl.debug_barrier()

        error = tl.load(delta)
        G_c, H_c = write_shares(share, first, stop, C)
        error_W, error_S = (error * -G_c[:, None]).to(OPERAND), (error * -H_c[:, None]).to(OPERAND)
        for e in tl.range(0, E, BE, disable_licm=True):  # the second layer: to its keys, and its part in the anchor
            d_W, d_S = tl.load(block(source + W2, e, 0, V, BE, V)), tl.load(block(source + S2, e, 0, V, BE, V))
            of_active = product(error_W, tl.trans(d_W), tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            of_active = product(error_S, tl.trans(d_S), of_active, OPERAND, PRECISION)
            of_active = product(d_z2, tl.trans(tl.load(block(A2, e, 0, V, BE, V))), of_active, OPERAND, PRECISION)
            of_active += tl.load(block(d_active, 0, e, E, C, BE)).to(tl.float32)
            hidden = tl.load(block(z, 0, e, E, C, BE)).to(tl.float32)
            d_z1 = tl.load(block(d_below, 0, e, E, C, BE)).to(tl.float32) + of_active * silu_slope(hidden)
            tl.store(block(d_below, 0, e, E, C, BE), d_z1.to(d_trace.dtype.element_ty))
            into = block(as_anchor2, e, 0, V, BE, V)
            tl.store(into, product(tl.trans(silu(hidden)), d_z2, tl.load(into), OPERAND, PRECISION))
        tl.debug_barrier()

        key = load_tokens(k, start, head, heads, first, stop, C, D)
        G_c, H_c = write_shares(share, first, stop, C)
        of_k = tl.load(block(d_delta + C * V, 0, 0, D, C, D)).to(tl.float32)
        for e in tl.range(0, E, BE, disable_licm=True):  # the first layer, likewise
            below = tl.load(block(back, 0, e, E, C, BE))
            d_W, d_S = tl.load(block(source, 0, e, E, D, BE)), tl.load(block(source + S1, 0, e, E, D, BE))
            of_k = product(below * -G_c[:, None], tl.trans(d_W), of_k, OPERAND, PRECISION)
            of_k = product(below * -H_c[:, None], tl.trans(d_S), of_k, OPERAND, PRECISION)
            d_z1 = tl.load(block(d_below, 0, e, E, C, BE))
            of_k = product(d_z1, tl.trans(tl.load(block(A1, 0, e, E, D, BE))), of_k, OPERAND, PRECISION)
            into = block(as_anchor1, 0, e, E, D, BE)
            tl.store(into, product(tl.trans(key), d_z1, tl.load(into), OPERAND, PRECISION))
        store_tokens(d_k, of_k, start, head, heads, first, stop, C, D)
        tl.debug_barrier()  # the target is the next chunk's source
        source = target
    for start in tl.range(0, SIZE, FLAT, disable_licm=True):
        at = start + tl.arange(0, FLAT)
        tl.store(d_before + lane * SIZE + at, tl.load(source + at, mask=at < SIZE), mask=at < SIZE)


@triton.jit
def pull(inner, scale, max_norm):
    """w' = w · max/‖w‖ where over: the gradient loses its part along w', from its inner product with w'."""
    return tl.where(scale < 1, inner / (max_norm * max_norm), 0.0)


@triton.jit
def unbound(gradient, after, out, scale, max_norm, SIZE: tl.constexpr):
    """The gradient before the bound was applied to a matrix, from that after it and the matrix that it left."""
    inner = 0.0
    for start in tl.range(0, SIZE, FLAT, disable_licm=True):
        at = start + tl.arange(0, FLAT)
        inner += tl.sum(
            tl.load(gradient + at, mask=at < SIZE, other=0.0) * tl.load(after + at, mask=at < SIZE, other=0.0)
        )
    inner = pull(inner, scale, max_norm)
    for start in tl.range(0, SIZE, FLAT, disable_licm=True):
        at = start + tl.arange(0, FLAT)
        d = tl.load(gradient + at, mask=at < SIZE) - inner * tl.load(after + at, mask=at < SIZE)
        tl.store(out + at, scale * d, mask=at < SIZE)


@triton.jit
def _carry_on(source, slot, d_slot, target, d_anchor, d_anchor_out, beta, f, m, begun, SIZE: tl.constexpr,
              READ: tl.constexpr, UNTIED: tl.constexpr, BORDER: tl.constexpr):  # fmt: skip
    """W | S of one layer, SIZE numbers each: the gradient before the chunk, as far as it comes from the reads and from the
    state after, into target, or into d_anchor where it is that of another matrix. Returns of β_c, f_c, m_c."""
    of_beta, of_f, of_m = 0.0, 0.0, 0.0
    for start in tl.range(0, SIZE, FLAT, disable_licm=True):
        at = start + tl.arange(0, FLAT)
        known = at < SIZE
        d_W = tl.load(source + at, mask=known, other=0.0)
        d_S = tl.load(source + SIZE + at, mask=known, other=0.0)
        W = tl.load(slot + at, mask=known, other=0.0).to(tl.float32)
        S = tl.load(slot + SIZE + at, mask=known, other=0.0).to(tl.float32)
        of_beta += tl.sum(d_W * W)
        of_f += tl.sum(d_W * S)
        of_m += tl.sum(d_S * S)
        d_S = tl.load(d_slot + SIZE + at, mask=known, other=0.0).to(tl.float32) + f * d_W + m * d_S
        tl.store(target + SIZE + at, d_S, mask=known)
        d_W = beta * d_W
        of_memory = tl.load(d_slot + at, mask=known, other=0.0).to(tl.float32)
        of_anchor = tl.zeros([FLAT], tl.float32)
        if BORDER:
            of_anchor = tl.load(d_anchor_out + at, mask=known & begun, other=0.0)
        if UNTIED and READ == READ_ANCHOR:  # the reads saw the anchor
            of_anchor += of_memory
        else:
            d_W += of_memory
        if UNTIED:
            tl.store(d_anchor + at, of_anchor, mask=known)
        else:
            d_W += of_anchor
        tl.store(target + at, d_W, mask=known)
    return of_beta, of_f, of_m
