"""What hidden states that come piece by piece go to: a pool or a head that is carried along, or an array of every base's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from titans_dna.nn.heads import State
from titans_dna.nn.model import take_rows
from titans_dna.reading.stream import Piece


class Pooled:
    """One vector a row, from a pool or a head of `nn.heads`; rows that have ended leave, the longest stay."""

    def __init__(self, pool: Callable[[Tensor, Tensor, State | None], tuple[Tensor, State]], rows: int) -> None:
        self._pool, self._found = pool, [torch.empty(0)] * rows
        self._state: State | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        if self._state is not None and len(self._state[0]) > len(piece.rows):
            self._state = take_rows(self._state, slice(len(piece.rows)))
        found, self._state = self._pool(piece.out, piece.widths, self._state)
        for row, one in zip(piece.rows, found, strict=True):
            self._found[row] = one

    def out(self) -> Tensor:
        """What is said of each row, [rows, …]."""
        return torch.stack(self._found)


class Unpooled:
    """Every base's vector, that of the token that adds it; of both strands, their mean."""

    def __init__(self, arrays: Sequence[np.ndarray], both: bool = False) -> None:
        """arrays: [bases, width] of each sequence, all 0, to be filled. both: every second row is the other strand of the
        row before, whose base j stands at base n - 1 - j."""
        self.arrays = arrays
        self._both = both
        self._done = [0] * (len(arrays) * (1 + both))

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        for row, hidden, widths in zip(piece.rows, piece.out, piece.widths, strict=True):
            precise = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # NumPy has no bfloat16
            found = precise.repeat_interleave(widths, dim=0).cpu().numpy()
            array = self.arrays[row // (1 + self._both)]
            start, end = self._done[row], self._done[row] + len(found)
            self._done[row] = end
            if not self._both:
                array[start:end] = found
            elif row % 2:
                array[len(array) - end : len(array) - start] += found[::-1] / 2
            else:
                array[start:end] += found / 2
