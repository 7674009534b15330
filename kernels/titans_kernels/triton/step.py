"""One token for every lane, for generation: write it, read it, and at a chunk's end settle the state (kernels/README.md, 1).

One program a (row, head), all in float32. A step does a few operations for each number it moves, so only the traffic
counts: a program passes over the state in tiles of whole 64-byte pieces, 16 bytes a thread at a time, and takes the
anchor from the cache where it needs it again. Rows may stand at different places of their chunks.
"""

import triton
import triton.language as tl


@triton.jit
def step_linear_kernel(
    q, k, v, alpha, eta, theta, y,
    W_old, S_old, A_old, W_new, S_new, A_new,
    position, heads, max_norm,
    q_row, q_head, k_row, k_head, v_row, v_head, alpha_row, alpha_head, eta_row, eta_head, theta_row, theta_head,
    D: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr,
    READ: tl.constexpr, ENDS: tl.constexpr, BOUND: tl.constexpr, ANCHOR: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """A memory of one layer; grid: lanes."""
    SIZE: tl.constexpr = D * V
    lane = tl.program_id(0).to(tl.int64)
    row, head = lane // heads, lane % heads
    query = tl.load(q + row * q_row + head * q_head + tl.arange(0, D)).to(tl.float32)[:, None]
    key = tl.load(k + row * k_row + head * k_head + tl.arange(0, D)).to(tl.float32)[:, None]
    keep = 1 - tl.load(alpha + row * alpha_row + head * alpha_head).to(tl.float32)
    decay = tl.load(eta + row * eta_row + head * eta_head).to(tl.float32)
    rate = tl.load(theta + row * theta_row + head * theta_head).to(tl.float32)
    ended = ENDS == "all"
    if ENDS == "rows":
        ended = tl.load(position + row) == 0
    v += row * v_row + head * v_head
    y += lane * V
    W_old += lane * SIZE
    S_old += lane * SIZE
    A_old += lane * SIZE
    W_new += lane * SIZE
    S_new += lane * SIZE
    A_new += lane * SIZE

    columns = tl.arange(0, BLOCK)
    at = tl.arange(0, D)[:, None] * V + columns[None, :]
    for start in range(0, V, BLOCK):
        A = tl.load(A_old + start + at)
        W = tl.load(W_old + start + at)
        S = tl.load(S_old + start + at)
        value = tl.load(v + start + columns).to(tl.float32)
        seen = A
        if READ == "before":
            seen = W
        error = 2 * (tl.sum(key * A, 0) - value)
        S = decay * S - key * (rate * error)[None, :]
        W = keep * W + S
        if READ == "after":
            seen = W
        tl.store(W_new + start + at, W)
        tl.store(S_new + start + at, S)
        if COPY:
            tl.store(A_new + start + at, A)
        tl.store(y + start + columns, tl.sum(query * seen, 0).to(y.dtype.element_ty))

    if (ENDS != "none") & (ANCHOR | BOUND):
        tl.debug_barrier()  # what was just stored is read again
        if ended:
            settle(W_new, S_new, A_new, at, max_norm, BLOCK, V // BLOCK, ANCHOR, BOUND)


@triton.jit
def step_deep_kernel(
    q, k, v, alpha, eta, theta, y,
    W1_old, S1_old, A1_old, W1_new, S1_new, A1_new,
    W2_old, S2_old, A2_old, W2_new, S2_new, A2_new,
    position, heads, max_norm,
    q_row, q_head, k_row, k_head, v_row, v_head, alpha_row, alpha_head, eta_row, eta_head, theta_row, theta_head,
    D: tl.constexpr, E: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr,
    READ: tl.constexpr, ENDS: tl.constexpr, BOUND: tl.constexpr, ANCHOR: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """A memory of two layers; grid: lanes."""
    SIZE1: tl.constexpr = D * E
    SIZE2: tl.constexpr = E * V
    lane = tl.program_id(0).to(tl.int64)
    row, head = lane // heads, lane % heads
    query = tl.load(q + row * q_row + head * q_head + tl.arange(0, D)).to(tl.float32)[:, None]
    key = tl.load(k + row * k_row + head * k_head + tl.arange(0, D)).to(tl.float32)[:, None]
    value = tl.load(v + row * v_row + head * v_head + tl.arange(0, V)).to(tl.float32)
    keep = 1 - tl.load(alpha + row * alpha_row + head * alpha_head).to(tl.float32)
    decay = tl.load(eta + row * eta_row + head * eta_head).to(tl.float32)
    rate = tl.load(theta + row * theta_row + head * theta_head).to(tl.float32)
    ended = ENDS == "all"
    if ENDS == "rows":
        ended = tl.load(position + row) == 0
    W1_old += lane * SIZE1
    S1_old += lane * SIZE1
    A1_old += lane * SIZE1
    W1_new += lane * SIZE1
    S1_new += lane * SIZE1
    A1_new += lane * SIZE1
    W2_old += lane * SIZE2
    S2_old += lane * SIZE2
    A2_old += lane * SIZE2
    W2_new += lane * SIZE2
    S2_new += lane * SIZE2
    A2_new += lane * SIZE2

    at1 = tl.arange(0, D)[:, None] * E + tl.arange(0, BLOCK)[None, :]
    at2 = tl.arange(0, BLOCK)[:, None] * V + tl.arange(0, V)[None, :]
    sums = tl.zeros([BLOCK, V], tl.float32)  # added up once, after the loop: each sum over threads waits for all
    for start in range(0, E, BLOCK):
        A1 = tl.load(A1_old + start + at1)
        A2 = tl.load(A2_old + start * V + at2)
        z = tl.sum(key * A1, 0)
        sums += (z / (1 + tl.exp(-z)))[:, None] * A2
        if COPY:
            tl.store(A1_new + start + at1, A1)
            tl.store(A2_new + start * V + at2, A2)
    error = (2 * (tl.sum(sums, 0) - value))[None, :]

    sums = tl.zeros([BLOCK, V], tl.float32)
    for start in range(0, E, BLOCK):
        A1 = tl.load(A1_old + start + at1)
        A2 = tl.load(A2_old + start * V + at2)
        W1 = tl.load(W1_old + start + at1)
        S1 = tl.load(S1_old + start + at1)
        W2 = tl.load(W2_old + start * V + at2)
        S2 = tl.load(S2_old + start * V + at2)
        seen1, seen2 = A1, A2
        if READ == "before":
            seen1, seen2 = W1, W2
        z = tl.sum(key * A1, 0)
        gate = 1 / (1 + tl.exp(-z))
        hidden_error = tl.sum(A2 * error, 1) * (gate * (1 + z * (1 - gate)))
        S1 = decay * S1 - key * (rate * hidden_error)[None, :]
        S2 = decay * S2 - (rate * z * gate)[:, None] * error
        W1 = keep * W1 + S1
        W2 = keep * W2 + S2
        if READ == "after":
            seen1, seen2 = W1, W2
        tl.store(W1_new + start + at1, W1)
        tl.store(S1_new + start + at1, S1)
        tl.store(W2_new + start * V + at2, W2)
        tl.store(S2_new + start * V + at2, S2)
        z = tl.sum(query * seen1, 0)
        sums += (z / (1 + tl.exp(-z)))[:, None] * seen2
    tl.store(y + lane * V + tl.arange(0, V), tl.sum(sums, 0).to(y.dtype.element_ty))

    if (ENDS != "none") & (ANCHOR | BOUND):
        tl.debug_barrier()  # what was just stored is read again
        if ended:
            settle(W1_new, S1_new, A1_new, at1, max_norm, BLOCK, E // BLOCK, ANCHOR, BOUND)
            settle(W2_new, S2_new, A2_new, at2, max_norm, BLOCK * V, E // BLOCK, ANCHOR, BOUND)


@triton.jit
def settle(
    W, S, A, at, max_norm, STEP: tl.constexpr, TILES: tl.constexpr, ANCHOR: tl.constexpr, BOUND: tl.constexpr
):  # fmt: skip
    """The end of a chunk, for one matrix of TILES tiles `at`, STEP apart: W and S back to the bound, W the next anchor.

    The tiles are those that W and S were written in, so that threads read again what they wrote themselves.
    """
    scale_W, scale_S = 1.0, 1.0
    if BOUND:
        squares_W = tl.zeros(at.shape, tl.float32)
        squares_S = tl.zeros(at.shape, tl.float32)
        for i in range(TILES):
            weight = tl.load(W + i * STEP + at)
            momentum = tl.load(S + i * STEP + at)
            squares_W += weight * weight
            squares_S += momentum * momentum
        scale_W = scale_back(tl.sum(squares_W), max_norm)
        scale_S = scale_back(tl.sum(squares_S), max_norm)
    for i in range(TILES):
        weight = tl.load(W + i * STEP + at)
        if BOUND:
            weight *= scale_W
            tl.store(W + i * STEP + at, weight)
            tl.store(S + i * STEP + at, tl.load(S + i * STEP + at) * scale_S)
        if ANCHOR:
            tl.store(A + i * STEP + at, weight)


@triton.jit
def scale_back(squares, max_norm):
    """max_norm / norm where the norm is over it, exactly 1 where it is not; a norm that is not a number shows."""
    norm = tl.sqrt(squares)
    return tl.math.div_rn(max_norm, tl.where(norm <= max_norm, max_norm, norm))
