"""What a call may name and what the kernels take: every such name and number is written here, and only here."""

READS = ("after", "before", "anchor")
"""The memory that y_t sees: M_t, M_{t−1}, or that of the chunk's start. The kernels know each by its place."""
BACKENDS = ("auto", "triton", "chunked", "reference")
CHUNK = 64
"""Tokens that share an anchor, where a call does not say."""
DEEPEST = 4
"""Layers of a memory, at most; the kernels take one or two."""

UNIT = 16
"""The kernels' widths are multiples of it, and no side of their products is shorter."""
WIDTHS = (16, 32, 64, 128)
"""Of the kernels' keys and values."""
WIDEST_HIDDEN = 512
LONGEST_CHUNK = 128
