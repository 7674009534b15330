"""Places of a genome to draw from: uniformly, inside intervals, with few letters other than A, C, G and T."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from titans_dna.genome.genome import Genome
from titans_dna.genome.intervals import Interval
from titans_dna.tokens.vocabulary import base_digits

_PIECE = 1 << 22


class Window(NamedTuple):
    """A stretch of one contig, 0-based half-open; `reverse` reads its reverse complement. start == end is empty."""

    contig: str
    start: int
    end: int
    reverse: bool = False


class Stretches:
    """The stretches of `width` bases inside the intervals, where an interval that is shorter gives itself as a whole.

    gaps: of `find_gaps(genome, intervals)`, or None where there are none. Only stretches whose share of gap bases is
    at most `max_n` count; they are found once and exactly, so that no draw ever has to be repeated.

    A stretch is drawn by drawing a base uniformly from all bases of the intervals: the stretch is centred on it, then
    moved inward where it would cross a border of the interval. So bases within one width of a border come up 0.5 to
    1.5 times as often as all others.

    Raises ValueError where no stretch is left.
    """

    def __init__(
        self, intervals: Sequence[Interval], width: int, *, max_n: float, gaps: Sequence[np.ndarray] | None
    ) -> None:
        self._intervals = intervals
        self._half = width // 2
        rows = []
        for index, interval in enumerate(intervals):
            start, end = interval.start, interval.end
            if end - start < 2:
                continue
            bases = min(width, end - start)
            runs = np.empty((0, 2), np.int64) if gaps is None else gaps[index]
            # The small constant undoes the rounding of a product such as 0.29 * 100.
            for low, high in allowed_starts(runs, start, end, bases, int(max_n * bases + 1e-6)).tolist():
                centre_low = start if low == start else low + self._half
                centre_high = end if high == end - bases + 1 else high + self._half
                rows.append((index, bases, start, end - bases, centre_low, centre_high))
        if not rows:
            raise ValueError(
                f"max_n: got {max_n}, but no stretch of {width} bases has that few letters other than A, C, G, T; "
                "want a larger share, a shorter context or other intervals"
            )
        self._index, self._bases, self._first, self._last, self._centre, high = np.array(rows, np.int64).T
        self._upto = np.cumsum(high - self._centre)
        self._before = self._upto - (high - self._centre)

    def pick(self, words: np.ndarray, *, reverse_complement: bool) -> list[Window]:
        """One stretch for each pair of random 64-bit words, uint64 [n, 2]: its place, and its strand."""
        drawn = (words[:, 0] % np.uint64(self._upto[-1])).astype(np.int64)
        row = np.searchsorted(self._upto, drawn, side="right")
        centre = self._centre[row] + drawn - self._before[row]
        start = np.clip(centre - self._half, self._first[row], self._last[row])
        reverse = (words[:, 1] & np.uint64(1)).astype(bool) & reverse_complement
        columns = (self._index[row], start, start + self._bases[row], reverse)
        return [
            Window(self._intervals[index].contig, start, end, strand)
            for index, start, end, strand in zip(*(column.tolist() for column in columns), strict=True)
        ]


def find_gaps(genome: Genome, intervals: Sequence[Interval]) -> list[np.ndarray]:
    """Runs of letters other than A, C, G, T, U (either case), one int64 array [runs, 2] of (start, end) per interval.

    Positions are on the contig, 0-based half-open. Reads every base of the intervals once, piece by piece.
    """
    return [_find_runs(genome, interval) for interval in intervals]


def allowed_starts(runs: np.ndarray, start: int, end: int, width: int, limit: int) -> np.ndarray:
    """Starts of the windows of `width` bases inside [start, end) that hold at most `limit` bases of `runs`.

    runs: int64 [n, 2], sorted, no two touching; width: at most end - start. Returns sorted half-open ranges [m, 2].

    The gap bases in a window are a piecewise linear function of its start, of slope -1, 0 or 1, that bends only where
    a border of the window meets a border of a run: it is enough to look at those.
    """
    stop = end - width + 1
    if not len(runs):
        return np.array([[start, stop]], np.int64)
    edges = runs.ravel()
    bends = np.unique(np.clip(np.concatenate([[start, stop], edges, edges - width]), start, stop))
    upto = np.cumsum(np.diff(runs))
    upto = np.stack([upto - np.diff(runs)[:, 0], upto], axis=1).ravel()
    excess = np.interp(bends + width, edges, upto) - np.interp(bends, edges, upto) - limit
    left, right = excess[:-1].astype(np.int64), excess[1:].astype(np.int64)
    low = bends[:-1] + np.maximum(left, 0)
    high = np.where(right > 0, bends[1:] - right + 1, bends[1:])
    kept = ((left <= 0) | (right <= 0)) & (low < high)
    return np.stack([low, high], axis=1)[kept]


def _find_runs(genome: Genome, interval: Interval) -> np.ndarray:
    flips, inside = [], False
    for low in range(interval.start, interval.end, _PIECE):
        letters = genome.fetch(interval.contig, low, min(low + _PIECE, interval.end))
        unknown = base_digits(letters) > 3
        flips.append(low + np.flatnonzero(np.diff(unknown, prepend=inside)))
        inside = bool(unknown[-1])
    return np.concatenate([*flips, [interval.end] * inside]).astype(np.int64).reshape(-1, 2)
