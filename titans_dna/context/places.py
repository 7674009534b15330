"""Where to score: places that have the longest context before them, with few unknown bases in any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from titans_dna.genome.genome import Genome, known_names
from titans_dna.genome.intervals import Interval, merge, read_bed, whole_contigs
from titans_dna.genome.sampler import allowed_starts, find_gaps


class Place(NamedTuple):
    """A stretch to score: `start` is its first base, 0-based; its contexts end there."""

    contig: str
    start: int

    def __str__(self) -> str:
        return f"{self.contig}:{self.start}"


def held_out(genome: Genome, contigs: Sequence[str], bed: str | None) -> list[Interval]:
    """The intervals to take places from.

    Raises ValueError for a contig that the genome lacks, and what `read_bed` raises.
    """
    if bed is not None:
        rows = read_bed(bed, genome)
        valid = [row.interval for row in rows if row.split == "valid"]
        if not valid and any(row.split for row in rows):
            raise ValueError(f"--bed: {bed} has rows for train or test and none for valid, want held-out intervals")
        return merge(valid or [row.interval for row in rows])
    for name in contigs:
        if name not in genome.contigs:
            raise ValueError(f"--contigs: got {name!r}, want one of {known_names(genome.contigs)}")
    return [one for one in whole_contigs(genome) if not contigs or one.contig in contigs]


def choose_places(
    genome: Genome, intervals: Sequence[Interval], contexts: Sequence[int], target: int, places: int, max_n: float
) -> list[Place]:
    """Up to `places` stretches of `target` bases that do not overlap, evenly spaced among all there are.

    The longest context and the stretch lie inside one interval; letters other than A, C, G, T are at most a share
    `max_n` of the stretch, and of the stretch together with each of its contexts.

    Raises ValueError where there is no such stretch, naming the longest context or the smallest share that there is.
    """
    longest = max(contexts)
    wide = [one for one in intervals if len(one) >= longest + target]
    if not wide:
        most = max(map(len, intervals), default=0) - target
        raise ValueError(
            f"--contexts: got {longest} bases, and with --target {target} no held-out interval is as long; "
            + (f"want at most {most}" if most > 0 else "want longer intervals or a shorter --target")
        )
    gaps = find_gaps(genome, wide)
    widths = [(0, target), *((context, target + context) for context in sorted(contexts))]
    found: list[Place] = []
    for interval, runs in zip(wide, gaps, strict=True):
        ranges = []
        for context, width in widths:
            limit = int(max_n * width + 1e-6)  # the small constant undoes the rounding of a product such as 0.29 * 100
            first = interval.start + longest - context
            ranges.append(context + allowed_starts(runs, first, interval.end, width, limit))
        found += [Place(interval.contig, start) for start in _disjoint(_common(ranges), target)]
    if not found:
        least = min(_least_unknown(runs, one, longest, target) for one, runs in zip(wide, gaps, strict=True))
        raise ValueError(
            f"--max_n: got {max_n}, but no place has as few letters other than A, C, G and T in all its contexts; the "
            f"best place for {longest} bases has a share of {least:.3f}: want more than that, or shorter --contexts"
        )
    count = min(places, len(found))
    return [found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count)]


def _common(sets: list[np.ndarray]) -> np.ndarray:
    """What sorted disjoint half-open ranges [n, 2] of several sets have in common, as such ranges."""
    edges = np.concatenate([one.ravel() for one in sets])
    steps = np.concatenate([np.tile([1, -1], len(one)) for one in sets])
    order = np.lexsort((steps, edges))  # ends before starts
    inside = np.cumsum(steps[order]) == len(sets)
    low = np.flatnonzero(inside)
    return np.stack([edges[order][low], edges[order][low + 1]], axis=1)


def _disjoint(ranges: np.ndarray, target: int) -> list[int]:
    """As many starts in the ranges as there are that lie at least `target` apart."""
    starts: list[int] = []
    free = 0
    for low, high in ranges.tolist():
        starts += range(max(low, free), high, target)
        free = starts[-1] + target if starts else 0
    return starts


def _least_unknown(runs: np.ndarray, interval: Interval, context: int, target: int) -> float:
    """Smallest share of unknown bases in a context and its stretch."""
    width = context + target
    low, high = 0, width
    while low < high:
        middle = (low + high) // 2
        if len(allowed_starts(runs, interval.start, interval.end, width, middle)):
            high = middle
        else:
            low = middle + 1
    return low / width
