"""The recurrence in reverse over a group of chunks: one program a lane, from the last chunk back (kernels/README.md, 6).

The gradient of the state comes in from what follows the group, takes up what the reads of each chunk gave, and leaves
towards what precedes it. Like the state, it stays in registers for one layer; for two it goes through two float32
buffers in turn.
"""

import triton
import triton.language as tl

from .tiles import CARRY, VECTORS, block, live_rows, load_tokens, product, sequence, silu, silu_curve, silu_slope
from .tiles import store_tokens


@triton.jit
def write_linear_backward_kernel(
    k, info, vectors, carry, anchor, slots, delta, scales,
    d_slots, d_keys, d_delta, d_after, d_anchor_out,
    d_k, d_v, d_vectors, d_carry, d_before, d_anchor,
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
    for step in range(0, tl.maximum(end - n0, 0)):
        i = end - 1 - step
        at = (i - n0).to(tl.int64) * lanes + lane
        first, stop = live_rows(i, length, position, CHUNK)
        live = (rows >= first) & (rows < stop)
        start = token + i * CHUNK - position
        if BOUND:
            after = slots + ((i + 1 - n0).to(tl.int64) * lanes + lane) * SIZE
            W, S = tl.load(block(after, 0, 0, V, D, V)), tl.load(block(after + D * V, 0, 0, V, D, V))
            scale_W, scale_S = tl.load(scales + at * 4), tl.load(scales + at * 4 + 1)
            d_W = scale_W * (d_W - pull(tl.sum(d_W * W), scale_W, max_norm) * W)
            d_S = scale_S * (d_S - pull(tl.sum(d_S * S), scale_S, max_norm) * S)
        W = tl.load(block(slots + at * SIZE, 0, 0, V, D, V))
        S = tl.load(block(slots + at * SIZE + D * V, 0, 0, V, D, V))
        A = W.to(tl.float32)
        if UNTIED:
            A = tl.load(block(anchor + lane * D * V, 0, 0, V, D, V))
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        error = tl.load(block(delta + at * C * V, 0, 0, V, C, V))
        G_c = tl.load(vectors + (at * VECTORS + 3) * C + rows, mask=live, other=0.0)
        H_c = tl.load(vectors + (at * VECTORS + 4) * C + rows, mask=live, other=0.0)
        beta, f, m = tl.load(carry + at * CARRY), tl.load(carry + at * CARRY + 1), tl.load(carry + at * CARRY + 2)

        by_W = product(key, d_W, tl.zeros([C, V], tl.float32), OPERAND, PRECISION)
        by_S = product(key, d_S, tl.zeros([C, V], tl.float32), OPERAND, PRECISION)
        tl.store(d_vectors + (at * 4 + 2) * C + rows, -tl.sum(error * by_W, 1))
        tl.store(d_vectors + (at * 4 + 3) * C + rows, -tl.sum(error * by_S, 1))
        of_delta = tl.load(block(d_delta + at * C * V, 0, 0, V, C, V)).to(tl.float32)
        d_z = 2 * (of_delta - G_c[:, None] * by_W - H_c[:, None] * by_S)
        store_tokens(d_v, -d_z, start, head, heads, first, stop, C, V)
        of_k = tl.load(block(d_keys + at * C * D, 0, 0, D, C, D)).to(tl.float32)
        of_k = product(-error * G_c[:, None], tl.trans(d_W), of_k, OPERAND, PRECISION)
        of_k = product(-error * H_c[:, None], tl.trans(d_S), of_k, OPERAND, PRECISION)
        of_k = product(d_z, tl.trans(A), of_k, OPERAND, PRECISION)
        store_tokens(d_k, of_k, start, head, heads, first, stop, C, D)

        tl.store(d_carry + at * CARRY, tl.sum(d_W * W))
        tl.store(d_carry + at * CARRY + 1, tl.sum(d_W * S))
        tl.store(d_carry + at * CARRY + 2, tl.sum(d_S * S))
        of_W = tl.load(block(d_slots + at * SIZE, 0, 0, V, D, V)).to(tl.float32)
        of_S = tl.load(block(d_slots + at * SIZE + D * V, 0, 0, V, D, V)).to(tl.float32)
        d_S = of_S + f * d_W + m * d_S
        if BORDER:
            begun = (i + 1) * CHUNK > position + length
            of_border = tl.load(anchor_out, mask=begun, other=0.0)
        if UNTIED:
            of_A = product(tl.trans(key), d_z, tl.zeros([D, V], tl.float32), OPERAND, PRECISION)
            d_W = beta * d_W
            if READ == 2:
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


@triton.jit
def write_mlp_backward_kernel(
    k, info, vectors, carry, anchor, slots, z, back, delta, scales,
    d_slots, d_keys, d_active, d_below, d_delta, d_after, d_anchor_out, work,
    d_k, d_v, d_vectors, d_carry, d_before, d_anchor,
    n0, count, lanes, heads, max_norm,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, V: tl.constexpr, BE: tl.constexpr,
    READ: tl.constexpr, UNTIED: tl.constexpr, BOUND: tl.constexpr, BORDER: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of two layers, in blocks of the hidden width; else as above. work: [2, lanes, SIZE]. Spoils d_below."""
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
    source = work + (lanes + lane) * SIZE  # not a buffer of the first chunk worked off
    pull_W1, pull_S1, pull_W2, pull_S2 = 0.0, 0.0, 0.0, 0.0
    last = slots + (tl.maximum(end - n0, 0).to(tl.int64) * lanes + lane) * SIZE
    whole = (end == chunks) & (n0 < end) & (chunks * CHUNK == position + length)
    for e in range(0, E, BE):
        d_W = tl.load(block(d_after + lane * SIZE, 0, e, E, D, BE))
        d_S = tl.load(block(d_after + lane * SIZE + S1, 0, e, E, D, BE))
        if BORDER:
            d_W += tl.load(block(d_anchor_out, 0, e, E, D, BE), mask=whole, other=0.0)
        tl.store(block(source, 0, e, E, D, BE), d_W)
        tl.store(block(source + S1, 0, e, E, D, BE), d_S)
        if BOUND:
            pull_W1 += tl.sum(d_W * tl.load(block(last, 0, e, E, D, BE), mask=n0 < end, other=0.0))
            pull_S1 += tl.sum(d_S * tl.load(block(last + S1, 0, e, E, D, BE), mask=n0 < end, other=0.0))
        d_W = tl.load(block(d_after + lane * SIZE + W2, e, 0, V, BE, V))
        d_S = tl.load(block(d_after + lane * SIZE + S2, e, 0, V, BE, V))
        if BORDER:
            d_W += tl.load(block(d_anchor_out + S1, e, 0, V, BE, V), mask=whole, other=0.0)
        tl.store(block(source + W2, e, 0, V, BE, V), d_W)
        tl.store(block(source + S2, e, 0, V, BE, V), d_S)
        if BOUND:
            pull_W2 += tl.sum(d_W * tl.load(block(last + W2, e, 0, V, BE, V), mask=n0 < end, other=0.0))
            pull_S2 += tl.sum(d_S * tl.load(block(last + S2, e, 0, V, BE, V), mask=n0 < end, other=0.0))
    tl.debug_barrier()
    rows = tl.arange(0, C)
    for step in range(0, tl.maximum(end - n0, 0)):
        i = end - 1 - step
        at = (i - n0).to(tl.int64) * lanes + lane
        after = slots + ((i + 1 - n0).to(tl.int64) * lanes + lane) * SIZE
        first, stop = live_rows(i, length, position, CHUNK)
        live = (rows >= first) & (rows < stop)
        start = token + i * CHUNK - position
        target = work + (lane + (step % 2) * lanes) * SIZE
        slot = slots + at * SIZE
        d_slot = d_slots + at * SIZE
        scale_W1, scale_S1, scale_W2, scale_S2 = 1.0, 1.0, 1.0, 1.0
        if BOUND:
            scale_W1, scale_S1 = tl.load(scales + at * 4), tl.load(scales + at * 4 + 1)
            scale_W2, scale_S2 = tl.load(scales + at * 4 + 2), tl.load(scales + at * 4 + 3)
            pull_W1, pull_S1 = pull(pull_W1, scale_W1, max_norm), pull(pull_S1, scale_S1, max_norm)
            pull_W2, pull_S2 = pull(pull_W2, scale_W2, max_norm), pull(pull_S2, scale_S2, max_norm)
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        error = tl.load(block(delta + at * C * V, 0, 0, V, C, V))
        G_c = tl.load(vectors + (at * VECTORS + 3) * C + rows, mask=live, other=0.0)
        H_c = tl.load(vectors + (at * VECTORS + 4) * C + rows, mask=live, other=0.0)
        beta, f, m = tl.load(carry + at * CARRY), tl.load(carry + at * CARRY + 1), tl.load(carry + at * CARRY + 2)

        of_delta = tl.load(block(d_delta + at * C * V, 0, 0, V, C, V)).to(tl.float32)
        by_W2, by_S2 = tl.zeros([C, V], tl.float32), tl.zeros([C, V], tl.float32)
        of_G_c, of_H_c = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
        for e in range(0, E, BE):  # to the last layer's errors
            hidden = tl.load(block(z + at * C * E, 0, e, E, C, BE)).to(tl.float32)
            active, slope = silu(hidden), silu_slope(hidden)
            d_W = unbound(block(source + W2, e, 0, V, BE, V), block(after + W2, e, 0, V, BE, V), scale_W2, pull_W2, BOUND)
            by_W2 = product(active, d_W, by_W2, OPERAND, PRECISION)
            d_S = unbound(block(source + S2, e, 0, V, BE, V), block(after + S2, e, 0, V, BE, V), scale_S2, pull_S2, BOUND)
            by_S2 = product(active, d_S, by_S2, OPERAND, PRECISION)
            below = tl.load(block(back + at * C * E, 0, e, E, C, BE)).to(tl.float32) * slope
            of_below = tl.load(block(d_below + at * C * E, 0, e, E, C, BE)).to(tl.float32)
            d_W = unbound(block(source, 0, e, E, D, BE), block(after, 0, e, E, D, BE), scale_W1, pull_W1, BOUND)
            by = product(key, d_W, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            of_G_c -= tl.sum(below * by, 1)
            of_below -= G_c[:, None] * by
            d_S = unbound(block(source + S1, 0, e, E, D, BE), block(after + S1, 0, e, E, D, BE), scale_S1, pull_S1, BOUND)
            by = product(key, d_S, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            of_H_c -= tl.sum(below * by, 1)
            of_below = (of_below - H_c[:, None] * by).to(d_below.dtype.element_ty)
            tl.store(block(d_below + at * C * E, 0, e, E, C, BE), of_below)
            A2 = tl.load(block(slot + W2, e, 0, V, BE, V)).to(tl.float32)
            if UNTIED:
                A2 = tl.load(block(anchor + S1, e, 0, V, BE, V))
            of_delta = product(of_below.to(tl.float32) * slope, A2, of_delta, OPERAND, PRECISION)
        tl.store(d_vectors + (at * 4 + 2) * C + rows, of_G_c - tl.sum(error * by_W2, 1))
        tl.store(d_vectors + (at * 4 + 3) * C + rows, of_H_c - tl.sum(error * by_S2, 1))
        d_z2 = 2 * (of_delta - G_c[:, None] * by_W2 - H_c[:, None] * by_S2)
        store_tokens(d_v, -d_z2, start, head, heads, first, stop, C, V)
        d_z2 = d_z2.to(OPERAND)
        error_W, error_S = (-error * G_c[:, None]).to(OPERAND), (-error * H_c[:, None]).to(OPERAND)
        tl.debug_barrier()  # d_below is read back below, by other threads

        of_k = tl.load(block(d_keys + at * C * D, 0, 0, D, C, D)).to(tl.float32)
        of_beta, of_f, of_m = 0.0, 0.0, 0.0
        next_W1, next_S1, next_W2, next_S2 = 0.0, 0.0, 0.0, 0.0
        begun = (i + 1) * CHUNK > position + length
        for e in range(0, E, BE):  # to the keys and the state before
            hidden = tl.load(block(z + at * C * E, 0, e, E, C, BE)).to(tl.float32)
            slope = silu_slope(hidden)
            above = tl.load(block(back + at * C * E, 0, e, E, C, BE)).to(tl.float32)
            of_below = tl.load(block(d_below + at * C * E, 0, e, E, C, BE)).to(tl.float32)
            d_back = (of_below * slope).to(OPERAND)
            of_active = tl.load(block(d_active + at * C * E, 0, e, E, C, BE)).to(tl.float32)

            d_W = unbound(block(source + W2, e, 0, V, BE, V), block(after + W2, e, 0, V, BE, V), scale_W2, pull_W2, BOUND)
            d_S = unbound(block(source + S2, e, 0, V, BE, V), block(after + S2, e, 0, V, BE, V), scale_S2, pull_S2, BOUND)
            of_active = product(error_W, tl.trans(d_W), of_active, OPERAND, PRECISION)
            of_active = product(error_S, tl.trans(d_S), of_active, OPERAND, PRECISION)
            W = tl.load(block(slot + W2, e, 0, V, BE, V)).to(tl.float32)
            S = tl.load(block(slot + S2, e, 0, V, BE, V)).to(tl.float32)
            A2 = W
            if UNTIED:
                A2 = tl.load(block(anchor + S1, e, 0, V, BE, V))
            of_active = product(d_z2, tl.trans(A2), of_active, OPERAND, PRECISION)
            of_beta += tl.sum(d_W * W)
            of_f += tl.sum(d_W * S)
            of_m += tl.sum(d_S * S)
            d_S = tl.load(block(d_slot + S2, e, 0, V, BE, V)).to(tl.float32) + f * d_W + m * d_S
            of_A = product(tl.trans(silu(hidden)), d_z2, tl.zeros([BE, V], tl.float32), OPERAND, PRECISION)
            of_A = product(tl.trans(d_back), error, of_A, OPERAND, PRECISION)
            d_W = _before(block(d_slot + W2, e, 0, V, BE, V), beta * d_W, of_A, block(d_anchor_out + S1, e, 0, V, BE, V),
                          block(d_anchor + S1, e, 0, V, BE, V), begun, READ, UNTIED, BORDER)  # fmt: skip
            tl.store(block(target + W2, e, 0, V, BE, V), d_W)
            tl.store(block(target + S2, e, 0, V, BE, V), d_S)
            if BOUND:
                next_W2 += tl.sum(d_W * W)
                next_S2 += tl.sum(d_S * S)

            d_z1 = (of_below * above * silu_curve(hidden) + of_active * slope).to(OPERAND)
            below = above * slope
            d_W = unbound(block(source, 0, e, E, D, BE), block(after, 0, e, E, D, BE), scale_W1, pull_W1, BOUND)
            d_S = unbound(block(source + S1, 0, e, E, D, BE), block(after + S1, 0, e, E, D, BE), scale_S1, pull_S1, BOUND)
            of_k = product(-below * G_c[:, None], tl.trans(d_W), of_k, OPERAND, PRECISION)
            of_k = product(-below * H_c[:, None], tl.trans(d_S), of_k, OPERAND, PRECISION)
            W = tl.load(block(slot, 0, e, E, D, BE)).to(tl.float32)
            S = tl.load(block(slot + S1, 0, e, E, D, BE)).to(tl.float32)
            A1 = W
            if UNTIED:
                A1 = tl.load(block(anchor, 0, e, E, D, BE))
            of_k = product(d_z1, tl.trans(A1), of_k, OPERAND, PRECISION)
            of_beta += tl.sum(d_W * W)
            of_f += tl.sum(d_W * S)
            of_m += tl.sum(d_S * S)
            d_S = tl.load(block(d_slot + S1, 0, e, E, D, BE)).to(tl.float32) + f * d_W + m * d_S
            of_A = product(tl.trans(key), d_z1, tl.zeros([D, BE], tl.float32), OPERAND, PRECISION)
            d_W = _before(block(d_slot, 0, e, E, D, BE), beta * d_W, of_A, block(d_anchor_out, 0, e, E, D, BE),
                          block(d_anchor, 0, e, E, D, BE), begun, READ, UNTIED, BORDER)  # fmt: skip
            tl.store(block(target, 0, e, E, D, BE), d_W)
            tl.store(block(target + S1, 0, e, E, D, BE), d_S)
            if BOUND:
                next_W1 += tl.sum(d_W * W)
                next_S1 += tl.sum(d_S * S)
        store_tokens(d_k, of_k, start, head, heads, first, stop, C, D)
        tl.store(d_carry + at * CARRY, of_beta)
        tl.store(d_carry + at * CARRY + 1, of_f)
        tl.store(d_carry + at * CARRY + 2, of_m)
        pull_W1, pull_S1, pull_W2, pull_S2 = next_W1, next_S1, next_W2, next_S2
        tl.debug_barrier()  # the target is the next chunk's source
        source = target
    for e in range(0, E, BE):
        for matrix in tl.static_range(2):
            at = matrix * S1
            tl.store(block(d_before + lane * SIZE + at, 0, e, E, D, BE), tl.load(block(source + at, 0, e, E, D, BE)))
            at = W2 + matrix * E * V
            tl.store(block(d_before + lane * SIZE + at, e, 0, V, BE, V), tl.load(block(source + at, e, 0, V, BE, V)))


@triton.jit
def pull(along, scale, max_norm):
    """w' = w · max/‖w‖ where over: the gradient loses its part along w'. `along` is its inner product with w'."""
    return tl.where(scale < 1, along / (max_norm * max_norm), 0.0)


@triton.jit
def unbound(gradient, after, scale, pulled, BOUND: tl.constexpr):
    """The gradient before the bound was applied, from that after it and the matrix that it left."""
    d = tl.load(gradient)
    if BOUND:
        d = scale * (d - pulled * tl.load(after, mask=scale < 1, other=0.0))
    return d


@triton.jit
def _before(read, carried, of_anchor, border, d_anchor, begun, READ: tl.constexpr, UNTIED: tl.constexpr,
            BORDER: tl.constexpr):  # fmt: skip
    """Of a matrix of the memory before the chunk: by the reads, by what it became, as the anchor, and as the anchor that
    the call returns. Where the anchor is another matrix, its gradient is stored."""
    of_read = tl.load(read).to(tl.float32)
    if BORDER:
        of_anchor += tl.load(border, mask=begun, other=0.0)
    if UNTIED:
        if READ == 2:
            of_anchor += of_read
        else:
            carried += of_read
        tl.store(d_anchor, of_anchor)
        return carried
    return carried + of_read + of_anchor
