"""Pools that take the hidden states of a batch piece by piece: mean, maximum, last, and none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Piece(NamedTuple):
    """The same stretch of tokens of some rows of a batch."""

    rows: list[int]
    """Their numbers."""
    hidden: Tensor
    """[rows, tokens, width]"""
    widths: Tensor
    """Bases that each token adds, [rows, tokens], 0 in the padding."""
    counts: Tensor
    """Tokens of each row before its padding, [rows], each at least 1."""


class MeanPool:
    """The mean over the bases: every token counts as often as it adds bases."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self._sum = torch.zeros(rows, width, dtype=torch.float64, device=device)
        self._bases = torch.zeros(rows, 1, dtype=torch.float64, device=device)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        widths = piece.widths.double()
        self._sum[piece.rows] += torch.einsum("btd,bt->bd", piece.hidden.double(), widths)
        self._bases[piece.rows] += widths.sum(1, keepdim=True)

    def vectors(self) -> list[np.ndarray]:
        """One vector [width] a row."""
        return list((self._sum / self._bases).cpu().numpy())


class MaxPool:
    """The largest value of each feature."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self._most = torch.full((rows, width), -torch.inf, dtype=torch.float64, device=device)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        most = piece.hidden.masked_fill(piece.widths[..., None] == 0, -torch.inf).amax(1)
        self._most[piece.rows] = torch.maximum(self._most[piece.rows], most.double())

    def vectors(self) -> list[np.ndarray]:
        """One vector [width] a row."""
        return list(self._most.cpu().numpy())


class LastPool:
    """The state after the last base: what the model knows once it has read everything."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self._last = torch.zeros(rows, width, dtype=torch.float64, device=device)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        each = torch.arange(len(piece.rows), device=piece.hidden.device)
        self._last[piece.rows] = piece.hidden[each, piece.counts - 1].double()

    def vectors(self) -> list[np.ndarray]:
        """One vector [width] a row."""
        return list(self._last.cpu().numpy())


class NoPool:
    """Every base's vector: that of the token that adds it."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self._found: list[list[np.ndarray]] = [[] for _ in range(rows)]

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        for row, hidden, widths in zip(piece.rows, piece.hidden, piece.widths, strict=True):
            precise = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # NumPy has no bfloat16
            self._found[row].append(precise.repeat_interleave(widths, dim=0).cpu().numpy())

    def vectors(self) -> list[np.ndarray]:
        """Vectors [bases, width] a row."""
        return [np.concatenate(parts) for parts in self._found]


Pool = MeanPool | MaxPool | LastPool | NoPool
POOLS: dict[str, type[Pool]] = {"mean": MeanPool, "max": MaxPool, "last": LastPool, "none": NoPool}
