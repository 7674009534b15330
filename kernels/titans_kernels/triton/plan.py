"""How a call is laid out for the kernels: sequences, groups of chunks, sizes, launch configurations."""

# Triton comes without types:
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton import knobs

from titans_kernels.options import UNIT
from titans_kernels.state import integers

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether the kernels run under Triton's interpreter (TRITON_INTERPRET=1), on the CPU: settled when they are imported."""
SMALL_CALL, SMALL_SCRATCH = 2**28, 2**26
"""A call whose inputs, outputs and gradients take less bytes than the first is granted the second as scratch: few
launches for short sequences."""
SCRATCH_SHARE = 20
"""Scratch may take this part, 1/20, of inputs, outputs and their gradients: few launches for long ones."""


class Shape(NamedTuple):
    """What the kernels are specialised on."""

    heads: int
    key: int
    hidden: int
    """Width between the two layers of the memory; 0 for a memory of one layer."""
    value: int
    chunk: int
    dtype: torch.dtype
    """Of the products' operands."""

    @property
    def tile(self) -> int:
        """Rows of a chunk's tile."""
        return max(UNIT, 1 << (self.chunk - 1).bit_length())

    @property
    def weights(self) -> int:
        """Numbers in one memory of one lane."""
        return self.hidden * (self.key + self.value) or self.key * self.value

    @property
    def errors(self) -> torch.dtype:
        """Of what the reverse of the reads hands to the reverse of the recurrence: float16 would overflow."""
        return torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32

    def scratch(self, per_chunk: bool, backward: bool) -> int:
        """Bytes of scratch for one chunk of one lane."""
        c, operand, error = self.tile, self.dtype.itemsize, self.errors.itemsize
        tokens = c * (2 * self.hidden + self.value)
        numbers = operand * (2 * self.weights + tokens) + 4 * (9 * c + (c if per_chunk else c * c))
        if backward:
            numbers += error * (2 * self.weights + tokens + c * self.key) + 4 * (4 * c + 2 * c * c)
        return numbers

    def group(self, chunks: int, lanes: int, backward: bool) -> int:
        """Chunks worked off at a time, the state kept at the start of each group.

        With s bytes of state and w bytes of scratch, n/g states kept and g chunks of scratch take least together at
        g = √(n s / w). More are taken, for fewer and larger launches, while scratch stays below a 1/20 of inputs,
        outputs and their gradients, or for a small call below 64 MiB.
        """
        state, scratch = 8 * self.weights, self.scratch(False, backward)
        passed = 2 * self.chunk * (self.dtype.itemsize * 2 * (self.key + self.value) + 12)
        least = math.isqrt(max(1, chunks * state // scratch))
        small = SMALL_SCRATCH // lanes if chunks * passed * lanes < SMALL_CALL else 0
        granted = max(chunks * passed // SCRATCH_SHARE, small) // scratch
        return max(1, min(max(least, granted), chunks))


class Sequences(NamedTuple):
    """The sequences of a call, on the host and on the device."""

    info: Tensor
    """int64 [rows, 5]: first token, length, position, first gate where one serves a chunk, first kept state."""
    lengths: list[int]
    each: list[int]
    """Chunks of each."""

    @property
    def chunks(self) -> int:
        """Of the longest."""
        return max(self.each, default=0)


def sequences(
    q: Tensor, cu_seqlens: Tensor | None, position: Tensor | None, gates: int, chunk: int, group: int, untied: bool,
    keep: bool,
) -> Sequences:  # fmt: skip
    """gates: the length of the gates' second axis. keep: a state for each group, not one a sequence."""
    rows = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    positions = [0] * rows if position is None else integers(position)
    if cu_seqlens is None:
        lengths = [q.shape[1]] * rows
    else:
        lengths = [stop - start for start, stop in pairwise(integers(cu_seqlens))]
    chunks = [-(-(p + n) // chunk) if n else 0 for p, n in zip(positions, lengths, strict=True)]
    kept = [max(1, sum(1 for _ in groups(n, group, untied))) if keep else 1 for n in chunks]
    if cu_seqlens is None and len(set(positions)) == 1:
        info = _even(rows, lengths[0], positions[0], gates, kept[0], q.device)
    else:
        first_gate = [row * gates for row in range(rows)] if cu_seqlens is None else [0, *accumulate(chunks)][:-1]
        first = [[0, *accumulate(x)][:-1] for x in (lengths, kept)]
        table = list(zip(first[0], lengths, positions, first_gate, first[1], strict=True))
        info = torch.tensor(table, dtype=torch.int64).to(q.device, non_blocking=True)
    return Sequences(info, lengths, chunks)


def _even(rows: int, length: int, position: int, gates: int, kept: int, device: torch.device) -> Tensor:
    """The table of rows that are alike, made on the device: nothing is copied there, as a CUDA graph needs."""
    row = torch.arange(rows, device=device)
    same = torch.ones_like(row)
    return torch.stack([row * length, same * length, same * position, row * gates, row * kept], 1)


def groups(chunks: int, group: int, untied: bool) -> Iterator[tuple[int, int, bool]]:
    """First chunk, number of chunks, and whether the anchor is another than the memory, as it can be for the first."""
    first = 0
    if untied and chunks:
        yield 0, 1, True
        first = 1
    for n0 in range(first, chunks, group):
        yield n0, min(group, chunks - n0), False


def operand(dtype: torch.dtype) -> tl.dtype:
    """Triton's name for it. The interpreter multiplies bfloat16 wrongly, so there products take float32."""
    if INTERPRETED and dtype == torch.bfloat16:
        return tl.float32
    return {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]


def precision() -> str:
    """Of float32 products: full float32, or TF32 where torch's own products may take it (its setting for matmul)."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
