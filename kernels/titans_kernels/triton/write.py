"""The recurrence over a group of chunks, forward: one program a lane, chunk after chunk (kernels/README.md, 3 and 5).

It does only what the state depends on: keys through the anchor, errors back, the state onward. What the reads and the
backward need of each chunk is left in scratch: the state it began with, z and the errors, in the operands' precision.

A lane's state is one row of numbers: W | S for a memory of one layer, W₁ | S₁ | W₂ | S₂ for one of two. One layer stays
in registers. Two layers do not fit, so they are worked off in blocks of the hidden width, and the float32 state goes
through two buffers in turn, which the L2 cache holds.
"""

import triton
import triton.language as tl

from .tiles import (
    NUMBERS,
    VECTORS,
    block,
    carries,
    live_rows,
    load_tokens,
    product,
    sequence,
    silu,
    silu_slope,
    write_shares,
)


@triton.jit(do_not_specialize=["n0", "count", "now", "onward"])
def write_linear_kernel(
    k, v, info, shares, anchor,
    states, state_out, anchor_out,
    slots, trace,
    n0, count, lanes, heads, now, onward, max_norm,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
    UNTIED: tl.constexpr, BOUND: tl.constexpr, SAVE: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of one layer; grid: lanes. Chunks n0 … n0 + count, from the kept state `now` of the lane, and with SAVE to
    its kept state `onward`, or to state_out after the lane's last chunk."""
    SIZE: tl.constexpr = 2 * D * V
    lane = tl.program_id(0)
    token, length, position, _, entry, head = sequence(info, lane, heads)
    chunks = tl.where(length > 0, (position + length + CHUNK - 1) // CHUNK, 0).to(tl.int32)
    end = tl.minimum(n0 + count, chunks)
    if n0 >= end:
        return
    lane = lane.to(tl.int64)
    here = states + ((entry + now) * heads + head) * SIZE
    W = tl.load(block(here, 0, 0, V, D, V))
    S = tl.load(block(here + D * V, 0, 0, V, D, V))
    for i in tl.range(n0, end, disable_licm=True):
        at = (i - n0).to(tl.int64) * lanes + lane
        first, stop = live_rows(i, length, position, CHUNK)
        share = shares + at * (VECTORS * C + NUMBERS)
        start = token + i * CHUNK - position
        tl.store(block(slots + at * SIZE, 0, 0, V, D, V), W.to(slots.dtype.element_ty))
        tl.store(block(slots + at * SIZE + D * V, 0, 0, V, D, V), S.to(slots.dtype.element_ty))
        A = W
        if UNTIED:
            A = tl.load(block(anchor + lane * D * V, 0, 0, V, D, V))
        elif SAVE:
            begun = (i + 1) * CHUNK > position + length
            tl.store(block(anchor_out + lane * D * V, 0, 0, V, D, V), A, mask=begun)

        key = load_tokens(k, start, head, heads, first, stop, C, D)
        value = load_tokens(v, start, head, heads, first, stop, C, V).to(tl.float32)
        error = 2 * (product(key, A, tl.zeros([C, V], tl.float32), OPERAND, PRECISION) - value)
        tl.store(block(trace + at * C * V, 0, 0, V, C, V), error.to(trace.dtype.element_ty))
        G_c, H_c = write_shares(share, first, stop, C)
        beta, f, m = carries(share, C)
        W = product(tl.trans(key * -G_c[:, None]), error, beta * W + f * S, OPERAND, PRECISION)
        S = product(tl.trans(key * -H_c[:, None]), error, m * S, OPERAND, PRECISION)
        if BOUND:
            complete = (i + 1) * CHUNK <= position + length
            scale_W = rescale(tl.sum(W * W), max_norm, complete)
            scale_S = rescale(tl.sum(S * S), max_norm, complete)
            W *= scale_W
            S *= scale_S
            tl.store(share + VECTORS * C + 4, scale_W)
            tl.store(share + VECTORS * C + 5, scale_S)

    at = (end - n0).to(tl.int64) * lanes + lane
    tl.store(block(slots + at * SIZE, 0, 0, V, D, V), W.to(slots.dtype.element_ty))
    tl.store(block(slots + at * SIZE + D * V, 0, 0, V, D, V), S.to(slots.dtype.element_ty))
    if SAVE:
        out = states + ((entry + onward) * heads + head) * SIZE
        if end == chunks:
            out = state_out + lane * SIZE
            tl.store(block(anchor_out + lane * D * V, 0, 0, V, D, V), W, mask=chunks * CHUNK == position + length)
        tl.store(block(out, 0, 0, V, D, V), W)
        tl.store(block(out + D * V, 0, 0, V, D, V), S)


@triton.jit(do_not_specialize=["n0", "count", "now", "onward"])
def write_mlp_kernel(
    k, v, info, shares, anchor,
    states, state_out, anchor_out, work,
    slots, trace,
    n0, count, lanes, heads, now, onward, max_norm,
    CHUNK: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, V: tl.constexpr, BE: tl.constexpr,
    UNTIED: tl.constexpr, BOUND: tl.constexpr, SAVE: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A memory of two layers, D → E → V; else as `write_linear_kernel`. work: [2, lanes, SIZE], float32."""
    SIZE: tl.constexpr = 2 * E * (D + V)
    S1: tl.constexpr = D * E
    W2: tl.constexpr = 2 * D * E
    S2: tl.constexpr = 2 * D * E + E * V
    ANCHOR: tl.constexpr = E * (D + V)
    lane = tl.program_id(0)
    token, length, position, _, entry, head = sequence(info, lane, heads)
    chunks = tl.where(length > 0, (position + length + CHUNK - 1) // CHUNK, 0).to(tl.int32)
    end = tl.minimum(n0 + count, chunks)
    if n0 >= end:
        return
    lane = lane.to(tl.int64)
    anchor += lane * ANCHOR
    anchor_out += lane * ANCHOR
    source = states + ((entry + now) * heads + head) * SIZE
    scale_W1, scale_S1, scale_W2, scale_S2 = 1.0, 1.0, 1.0, 1.0
    for i in tl.range(n0, end, disable_licm=True):
        at = (i - n0).to(tl.int64) * lanes + lane
        first, stop = live_rows(i, length, position, CHUNK)
        share = shares + at * (VECTORS * C + NUMBERS)
        start = token + i * CHUNK - position
        target = work + (lane + (i % 2) * lanes) * SIZE
        slot = slots + at * SIZE
        z = trace + at * C * (2 * E + V)
        back, delta = z + C * E, z + 2 * C * E
        key = load_tokens(k, start, head, heads, first, stop, C, D)
        value = load_tokens(v, start, head, heads, first, stop, C, V).to(tl.float32)

        out = tl.zeros([C, V], tl.float32)
        for e in tl.range(0, E, BE, disable_licm=True):  # keys through the anchor
            if UNTIED:
                A1 = tl.load(block(anchor, 0, e, E, D, BE))
                A2 = tl.load(block(anchor + S1, e, 0, V, BE, V))
            else:
                A1 = tl.load(block(source, 0, e, E, D, BE)) * scale_W1
                A2 = tl.load(block(source + W2, e, 0, V, BE, V)) * scale_W2
                if SAVE:
                    begun = (i + 1) * CHUNK > position + length
                    tl.store(block(anchor_out, 0, e, E, D, BE), A1, mask=begun)
                    tl.store(block(anchor_out + S1, e, 0, V, BE, V), A2, mask=begun)
            hidden = product(key, A1, tl.zeros([C, BE], tl.float32), OPERAND, PRECISION).to(OPERAND)
            tl.store(block(z, 0, e, E, C, BE), hidden)
            out = product(silu(hidden.to(tl.float32)), A2, out, OPERAND, PRECISION)
        error = 2 * (out - value)
        tl.store(block(delta, 0, 0, V, C, V), error.to(trace.dtype.element_ty))
        error = error.to(OPERAND)
        tl.debug_barrier()  # z is read back below, by other threads

        G_c, H_c = write_shares(share, first, stop, C)
        beta, f, m = carries(share, C)
        square_W1, square_S1, square_W2, square_S2 = 0.0, 0.0, 0.0, 0.0
        for e in tl.range(0, E, BE, disable_licm=True):  # errors back through the second layer, which goes onward
            active = silu(tl.load(block(z, 0, e, E, C, BE)).to(tl.float32))
            W = tl.load(block(source + W2, e, 0, V, BE, V)) * scale_W2
            S = tl.load(block(source + S2, e, 0, V, BE, V)) * scale_S2
            tl.store(block(slot + W2, e, 0, V, BE, V), W.to(slots.dtype.element_ty))
            tl.store(block(slot + S2, e, 0, V, BE, V), S.to(slots.dtype.element_ty))
            A2 = W
            if UNTIED:
                A2 = tl.load(block(anchor + S1, e, 0, V, BE, V))
            below = product(error, tl.trans(A2), tl.zeros([C, BE], tl.float32), OPERAND, PRECISION)
            tl.store(block(back, 0, e, E, C, BE), below.to(trace.dtype.element_ty))
            W = product(tl.trans(-active * G_c[:, None]), error, beta * W + f * S, OPERAND, PRECISION)
            S = product(tl.trans(-active * H_c[:, None]), error, m * S, OPERAND, PRECISION)
            tl.store(block(target + W2, e, 0, V, BE, V), W)
            tl.store(block(target + S2, e, 0, V, BE, V), S)
            if BOUND:
                square_W2 += tl.sum(W * W)
                square_S2 += tl.sum(S * S)
        tl.debug_barrier()  # as for z
        for e in tl.range(0, E, BE, disable_licm=True):  # the first layer onward
            hidden = tl.load(block(z, 0, e, E, C, BE)).to(tl.float32)
            below = tl.load(block(back, 0, e, E, C, BE)).to(tl.float32) * silu_slope(hidden)
            W = tl.load(block(source, 0, e, E, D, BE)) * scale_W1
            S = tl.load(block(source + S1, 0, e, E, D, BE)) * scale_S1
            tl.store(block(slot, 0, e, E, D, BE), W.to(slots.dtype.element_ty))
            tl.store(block(slot + S1, 0, e, E, D, BE), S.to(slots.dtype.element_ty))
            W = product(tl.trans(key * -G_c[:, None]), below, beta * W + f * S, OPERAND, PRECISION)
            S = product(tl.trans(key * -H_c[:, None]), below, m * S, OPERAND, PRECISION)
            tl.store(block(target, 0, e, E, D, BE), W)
            tl.store(block(target + S1, 0, e, E, D, BE), S)
            if BOUND:
                square_W1 += tl.sum(W * W)
                square_S1 += tl.sum(S * S)
        if BOUND:  # what was stored is scaled as it is next read
            complete = (i + 1) * CHUNK <= position + length
            scale_W1 = rescale(square_W1, max_norm, complete)
            scale_S1 = rescale(square_S1, max_norm, complete)
            scale_W2 = rescale(square_W2, max_norm, complete)
            scale_S2 = rescale(square_S2, max_norm, complete)
            tl.store(share + VECTORS * C + 4, scale_W1)
            tl.store(share + VECTORS * C + 5, scale_S1)
            tl.store(share + VECTORS * C + 6, scale_W2)
            tl.store(share + VECTORS * C + 7, scale_S2)
        tl.debug_barrier()  # the target is the next chunk's source
        source = target

    slot = slots + ((end - n0).to(tl.int64) * lanes + lane) * SIZE
    out = states + ((entry + onward) * heads + head) * SIZE
    border = (end == chunks) & (chunks * CHUNK == position + length)
    if end == chunks:
        out = state_out + lane * SIZE
    for e in tl.range(0, E, BE, disable_licm=True):
        W = tl.load(block(source, 0, e, E, D, BE)) * scale_W1
        S = tl.load(block(source + S1, 0, e, E, D, BE)) * scale_S1
        tl.store(block(slot, 0, e, E, D, BE), W.to(slots.dtype.element_ty))
        tl.store(block(slot + S1, 0, e, E, D, BE), S.to(slots.dtype.element_ty))
        if SAVE:
            tl.store(block(out, 0, e, E, D, BE), W)
            tl.store(block(out + S1, 0, e, E, D, BE), S)
            tl.store(block(anchor_out, 0, e, E, D, BE), W, mask=border)
        W = tl.load(block(source + W2, e, 0, V, BE, V)) * scale_W2
        S = tl.load(block(source + S2, e, 0, V, BE, V)) * scale_S2
        tl.store(block(slot + W2, e, 0, V, BE, V), W.to(slots.dtype.element_ty))
        tl.store(block(slot + S2, e, 0, V, BE, V), S.to(slots.dtype.element_ty))
        if SAVE:
            tl.store(block(out + W2, e, 0, V, BE, V), W)
            tl.store(block(out + S2, e, 0, V, BE, V), S)
            tl.store(block(anchor_out + S1, e, 0, V, BE, V), W, mask=border)


@triton.jit
def rescale(square, max_norm, complete):
    """What brings a matrix of this squared norm back to max_norm, at a chunk's end: 1 where it is within."""
    norm = tl.sqrt(square)
    return tl.where(complete & (norm > max_norm), max_norm / tl.maximum(norm, max_norm), 1.0)
