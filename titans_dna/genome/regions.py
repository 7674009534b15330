"""Sets of bases as lists of intervals: merge, subtract, leave out runs of N."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from titans_dna.genome.genome import Genome

PIECE = 1 << 24


@dataclass(frozen=True, order=True, slots=True)
class Interval:
    """Bases [start, end) of a contig, 0-based half-open; `len()` is its bases."""

    contig: str
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.contig}:{self.start}-{self.end}"


def whole_contigs(genome: Genome) -> list[Interval]:
    """Every contig that has bases, in file order."""
    return [Interval(name, 0, bases) for name, bases in genome.contigs.items() if bases]


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """The same bases in intervals that neither overlap nor touch, sorted; contigs in the order they first appear."""
    by_contig: dict[str, list[Interval]] = {}
    for one in intervals:
        by_contig.setdefault(one.contig, []).append(one)
    merged: list[Interval] = []
    for contig, found in by_contig.items():
        found.sort()
        start, end = found[0].start, found[0].end
        for one in found[1:]:
            if one.start > end:
                merged.append(Interval(contig, start, end))
                start = one.start
            end = max(end, one.end)
        merged.append(Interval(contig, start, end))
    return merged


def subtract(intervals: Iterable[Interval], holes: Iterable[Interval], margin: int = 0) -> list[Interval]:
    """The merged intervals without the bases of the holes and without `margin` bases on either side of them."""
    cuts: dict[str, list[Interval]] = {}
    for hole in merge(Interval(hole.contig, hole.start - margin, hole.end + margin) for hole in holes):
        cuts.setdefault(hole.contig, []).append(hole)
    left = []
    for one in merge(intervals):
        start, found = one.start, cuts.get(one.contig, [])
        first = bisect_right(found, one.start, key=lambda hole: hole.end)
        while first < len(found) and found[first].start < one.end:
            if found[first].start > start:
                left.append(Interval(one.contig, start, found[first].start))
            start = found[first].end
            first += 1
        if start < one.end:
            left.append(Interval(one.contig, start, one.end))
    return left


def drop_n_runs(genome: Genome, intervals: Iterable[Interval], min_run: int) -> list[Interval]:
    """The merged intervals without the runs of at least `min_run` N (either case) inside them."""
    if min_run < 1:
        raise ValueError(f"min_run: got {min_run}, want at least 1 base")
    intervals = merge(intervals)
    runs = [run for one in intervals for run in _n_runs(genome, one) if len(run) >= min_run]
    return subtract(intervals, runs)


def _n_runs(genome: Genome, interval: Interval) -> list[Interval]:
    edges, inside = [], False
    for start in range(interval.start, interval.end, PIECE):
        bases = genome.fetch(interval.contig, start, min(start + PIECE, interval.end))
        is_n = (np.frombuffer(bases, np.uint8) | 0x20) == ord("n")
        edges.append(start + np.flatnonzero(np.diff(is_n, prepend=inside)))
        inside = bool(is_n[-1])
    borders = np.concatenate([*edges, [interval.end] * inside]).astype(int).reshape(-1, 2).tolist()
    return [Interval(interval.contig, start, end) for start, end in borders]
