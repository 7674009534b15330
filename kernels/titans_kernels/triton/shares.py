"""Gates → the coefficients of a chunk, and back: β, f, m, G, H of kernels/README.md, section 2.

The recurrences run row by row, one warp a chunk, all chunks and lanes at once: no division, no logarithm, so gates of
exactly 0 and 1 are exact in value and gradient. With one gate a chunk, G and H are Toeplitz and only a column is kept.
"""

import triton
import triton.language as tl

from .tiles import D_NUMBERS, D_VECTORS, NUMBERS, READ_ANCHOR, VECTORS, live_rows, sequence


@triton.jit(do_not_specialize=["n0"])
def share_kernel(
    alpha, eta, theta,
    info, shares, G, H,
    n0, lanes, heads,
    CHUNK: tl.constexpr, C: tl.constexpr, PER_CHUNK: tl.constexpr, KEEP_H: tl.constexpr,
):  # fmt: skip
    """One chunk of one lane; grid: chunks of the group × lanes. `n0` is the group's first chunk."""
    slot, lane = tl.program_id(0) // lanes, tl.program_id(0) % lanes
    token, length, position, gate, _, head = sequence(info, lane, heads)
    i = n0 + slot
    first, stop = live_rows(i, length, position, CHUNK)
    if first >= stop:
        return
    at = slot.to(tl.int64) * lanes + lane
    token += i * CHUNK - position
    shares += at * (VECTORS * C + NUMBERS)
    G += at * (C if PER_CHUNK else C * C)
    H += at * (C if PER_CHUNK else C * C)
    column = tl.arange(0, C)
    G_row, H_row = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    beta, f, m = 1.0, 0.0, 1.0
    g, h = 0.0, 0.0
    for r in range(first, stop):
        where = ((gate + i) if PER_CHUNK else (token + r)) * heads + head
        keep = 1.0 - tl.load(alpha + where).to(tl.float32)
        decay = tl.load(eta + where).to(tl.float32)
        rate = tl.load(theta + where).to(tl.float32)
        H_row = decay * H_row + tl.where(column == r, rate, 0.0)
        G_row = keep * G_row + H_row
        m = decay * m
        beta = keep * beta
        f = keep * f + m
        tl.store(shares + r, beta)
        tl.store(shares + C + r, f)
        tl.store(shares + 2 * C + r, m)
        if PER_CHUNK:
            h = tl.where(r == first, rate, decay * h)
            g = keep * g + h
            tl.store(G + r - first, g)
            if KEEP_H:
                tl.store(H + r - first, h)
        else:
            tl.store(G + r * C + column, G_row)
            if KEEP_H:
                tl.store(H + r * C + column, H_row)
    tl.store(shares + 3 * C + column, G_row)
    tl.store(shares + 4 * C + column, H_row)
    tl.store(shares + VECTORS * C, beta)
    tl.store(shares + VECTORS * C + 1, f)
    tl.store(shares + VECTORS * C + 2, m)


@triton.jit(do_not_specialize=["n0"])
def share_backward_kernel(
    alpha, eta, theta,
    info, shares, G, H,
    d_shares, d_G,
    d_alpha, d_eta, d_theta,
    n0, lanes, heads,
    CHUNK: tl.constexpr, C: tl.constexpr, PER_CHUNK: tl.constexpr, READ: tl.constexpr,
):  # fmt: skip
    """The same rows from the last to the first."""
    slot, lane = tl.program_id(0) // lanes, tl.program_id(0) % lanes
    token, length, position, gate, _, head = sequence(info, lane, heads)
    i = n0 + slot
    first, stop = live_rows(i, length, position, CHUNK)
    if first >= stop:
        return
    at = slot.to(tl.int64) * lanes + lane
    token += i * CHUNK - position
    shares += at * (VECTORS * C + NUMBERS)
    d_shares += at * (D_VECTORS * C + D_NUMBERS)
    d_G += at * C * C
    G += at * (C if PER_CHUNK else C * C)
    H += at * (C if PER_CHUNK else C * C)
    column = tl.arange(0, C)
    written = (column >= first) & (column < stop)
    d_G_row = tl.load(d_shares + 2 * C + column, mask=written, other=0.0)
    d_H_row = tl.load(d_shares + 3 * C + column, mask=written, other=0.0)
    d_beta = tl.load(d_shares + D_VECTORS * C)
    d_f = tl.load(d_shares + D_VECTORS * C + 1)
    d_m = tl.load(d_shares + D_VECTORS * C + 2)
    sum_alpha, sum_eta, sum_theta = 0.0, 0.0, 0.0
    for back in range(stop - first):
        r = stop - 1 - back
        where = ((gate + i) if PER_CHUNK else (token + r)) * heads + head
        keep = 1.0 - tl.load(alpha + where).to(tl.float32)
        decay = tl.load(eta + where).to(tl.float32)
        if READ != READ_ANCHOR:
            read = r + READ < stop  # "before": row r is what the next token reads
            d_G_row += tl.load(d_G + r * C + column, mask=read & (column >= first) & (column <= r), other=0.0)
            d_beta += tl.load(d_shares + r, mask=read, other=0.0)
            d_f += tl.load(d_shares + C + r, mask=read, other=0.0)
        d_H_row += d_G_row
        d_m += d_f
        known = r > first  # the row before; nothing of this chunk is in it before the first
        seen = known & (column < r) & (column >= first)
        row = (r - 1 - column) if PER_CHUNK else ((r - 1) * C + column)
        G_row = tl.load(G + row, mask=seen, other=0.0)
        H_row = tl.load(H + row, mask=seen, other=0.0)
        beta = tl.load(shares + r - 1, mask=known, other=1.0)
        f = tl.load(shares + C + r - 1, mask=known, other=0.0)
        m = tl.load(shares + 2 * C + r - 1, mask=known, other=1.0)
        of_alpha = -(tl.sum(d_G_row * G_row) + d_beta * beta + d_f * f)
        of_eta = tl.sum(d_H_row * H_row) + d_m * m
        of_theta = tl.sum(tl.where(column == r, d_H_row, 0.0))
        if PER_CHUNK:
            sum_alpha += of_alpha
            sum_eta += of_eta
            sum_theta += of_theta
        else:
            tl.store(d_alpha + where, of_alpha.to(d_alpha.dtype.element_ty))
            tl.store(d_eta + where, of_eta.to(d_eta.dtype.element_ty))
            tl.store(d_theta + where, of_theta.to(d_theta.dtype.element_ty))
        d_G_row *= keep
        d_H_row *= decay
        d_beta *= keep
        d_f *= keep
        d_m *= decay
    if PER_CHUNK:
        where = (gate + i) * heads + head
        tl.store(d_alpha + where, sum_alpha.to(d_alpha.dtype.element_ty))
        tl.store(d_eta + where, sum_eta.to(d_eta.dtype.element_ty))
        tl.store(d_theta + where, sum_theta.to(d_theta.dtype.element_ty))
