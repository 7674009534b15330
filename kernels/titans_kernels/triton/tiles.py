"""What all kernels share: where a lane's chunk lies, loads and stores of its tiles, products, and SiLU's derivatives.

A *lane* is one (sequence, head); its tile is one chunk, C rows, of which those that hold tokens are `live`. Rows that
hold none come before the first token of a call that begins inside a chunk, after the last token of a call that ends
inside one, and where C was rounded up to a power of two. They are read as zeros and never stored.
"""

import triton
import triton.language as tl

from titans_kernels.options import READS

READ_ANCHOR = tl.constexpr(READS.index("anchor"))
"""READ is 0 or 1, by how many tokens the memory that is read lies back, or this."""
INFO = tl.constexpr(5)
"""Fields of a sequence: first token, length, position in its first chunk, first gate where one serves a chunk, and
first entry among the kept states."""
VECTORS = tl.constexpr(5)
"""Vectors of a chunk, C numbers each: β, f, m at each token; G_c, H_c, the shares of each token's gradient at the end."""
NUMBERS = tl.constexpr(8)
"""After them: β_c, f_c, m_c at the chunk's end, one unused; what the bound multiplied W₁, S₁, W₂, S₂ with."""
D_VECTORS = tl.constexpr(4)
"""Vectors of their gradient: of β and f as read; of G_c, H_c as written. """
D_NUMBERS = tl.constexpr(4)
"""After them: of β_c, f_c, m_c, and one unused."""


@triton.jit
def sequence(info, lane, heads):
    """token, length, position, gate and entry of the lane's sequence, and its head."""
    at = info + (lane // heads).to(tl.int64) * INFO
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4), lane % heads


@triton.jit
def live_rows(i, length, position, CHUNK: tl.constexpr):
    """First row of chunk i that holds a token, and the row after the last."""
    first = tl.maximum(position - i * CHUNK, 0).to(tl.int32)
    stop = tl.minimum(position + length - i * CHUNK, CHUNK).to(tl.int32)
    return first, stop


@triton.jit
def load_tokens(x, token, head, heads, first, stop, C: tl.constexpr, W: tl.constexpr):
    """[C, W] of x [tokens, heads, W]; `token` is the one that row 0 holds or would hold."""
    rows, columns = tl.arange(0, C), tl.arange(0, W)
    at = x + ((token + rows) * heads + head)[:, None] * W + columns[None, :]
    return tl.load(at, mask=((rows >= first) & (rows < stop))[:, None], other=0.0)


@triton.jit
def store_tokens(x, value, token, head, heads, first, stop, C: tl.constexpr, W: tl.constexpr):
    rows, columns = tl.arange(0, C), tl.arange(0, W)
    at = x + ((token + rows) * heads + head)[:, None] * W + columns[None, :]
    tl.store(at, value.to(x.dtype.element_ty), mask=((rows >= first) & (rows < stop))[:, None])


@triton.jit
def block(x, first_row, first_column, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Pointers to [ROWS, COLUMNS] of a row-major matrix of width WIDTH."""
    return x + (first_row + tl.arange(0, ROWS))[:, None] * WIDTH + (first_column + tl.arange(0, COLUMNS))[None, :]


@triton.jit
def read_shares(shares, first, stop, C: tl.constexpr, SHIFT: tl.constexpr):
    """β and f of the memory that each row reads, [C] each: its own token's, or with SHIFT = 1 the token's before."""
    source = tl.arange(0, C) - SHIFT
    known = (source >= first) & (source < stop)
    return tl.load(shares + source, mask=known, other=1.0), tl.load(shares + C + source, mask=known, other=0.0)


@triton.jit
def read_G(G, first, stop, C: tl.constexpr, SHIFT: tl.constexpr, PER_CHUNK: tl.constexpr):
    """G of the memory that each row reads, [C, C] lower triangular."""
    source, column = (tl.arange(0, C) - SHIFT)[:, None], tl.arange(0, C)[None, :]
    known = (column <= source) & (column >= first) & (source < stop)
    if PER_CHUNK:  # Toeplitz: one number a distance
        return tl.load(G + source - column, mask=known, other=0.0)
    return tl.load(G + source * C + column, mask=known, other=0.0)


@triton.jit
def write_shares(shares, first, stop, C: tl.constexpr):
    """G_c and H_c, [C] each."""
    rows = tl.arange(0, C)
    live = (rows >= first) & (rows < stop)
    G_c = tl.load(shares + 3 * C + rows, mask=live, other=0.0)
    return G_c, tl.load(shares + 4 * C + rows, mask=live, other=0.0)


@triton.jit
def carries(shares, C: tl.constexpr):
    """β_c, f_c, m_c."""
    at = shares + VECTORS * C
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)


@triton.jit
def product(a, b, sum, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """sum + a b, operands rounded to OPERAND, accumulated in float32."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), sum, input_precision=PRECISION, out_dtype=tl.float32)


@triton.jit
def silu(z):
    return z * tl.sigmoid(z)


@triton.jit
def silu_slope(z):
    """SiLU'."""
    s = tl.sigmoid(z)
    return s * (1 + z * (1 - s))


@triton.jit
def silu_curve(z):
    """SiLU''."""
    s = tl.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))
