"""Intervals of a genome, from BED or by hand, and splits of them into train, valid and test that keep one context apart."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from titans_dna.genome.genome import Genome, known_names
from titans_dna.run.files import open_text, replacing

SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a split is called in files, in either case, and what it is called here."""
_LIKE_A_SPLIT = re.compile(
    r"(fold|split|part|set|group|cv)?[ _.-]?\d+|eval|evaluation|hold[ _-]?out|held[ _-]?out|predict", re.I
)

_LIKE_A_STRAND = re.compile(r"[+-].+|1|plus|minus|fwd|rev|forward|reverse|w|c", re.I)


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


def cut(intervals: Iterable[Interval], width: int) -> list[Interval]:
    """Pieces of `width` bases, each interval's from its start, the last of each shorter; none over a border."""
    return [
        Interval(one.contig, start, min(start + width, one.end))
        for one in intervals
        for start in range(one.start, one.end, width)
    ]


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


class BedRow(NamedTuple):
    """One line of a BED file."""

    interval: Interval
    split: str | None
    """train, valid or test where the fourth column says so, else None."""
    name: str = "."
    """The fourth column, `.` where there is none."""
    strand: str = "."
    """The sixth column: +, -, or `.` where there is none."""
    line: int = 0
    """Its number in the file, from 1."""


class Split(NamedTuple):
    """Intervals to train on and intervals held out. No held-out base lies within one context of a training base."""

    train: tuple[Interval, ...]
    valid: tuple[Interval, ...]
    test: tuple[Interval, ...] = ()


def read_bed(path: str | Path, genome: Genome, absent: Counter[str] | None = None) -> list[BedRow]:
    """The rows of a BED file (three columns and up, plain or gzipped), in file order.

    Blank lines and lines that start with `#`, `track` or `browser` are skipped, unless a contig has that name.
    A fourth column of train, valid or test (see `SPLIT_NAMES`) is the split; any other fourth column is a name alone.

    absent: counts the rows of contigs that `genome` lacks, which are then left out; without it such a row is an error.

    Raises FileNotFoundError, and ValueError with file and line for a contig that `genome` lacks, columns that are no
    integers, an empty or negative interval, or one past the contig's end; also for a file without rows.
    """
    with open_text(path, "a BED file") as text:
        lines = text.read().splitlines()
    rows, missing = [], ""
    for number, line in enumerate(lines, start=1):
        columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
        first, *_ = line.split() or [""]
        comment = not first or first[0] == "#" or first in ("track", "browser")
        if comment and first not in genome.contigs:
            continue
        if absent is not None and len(columns) > 2 and columns[0] not in genome.contigs:
            missing = missing or f"line {number}: {_missing(columns[0], genome)}"
            absent[columns[0]] += 1
            continue
        try:
            rows.append(_bed_row(columns, genome, number))
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from None
    if not rows and missing:
        raise ValueError(f"{path}: {missing}; nor is any other")
    if not rows:
        raise ValueError(f"{path}: no intervals, want at least one BED line")
    return rows


def split_by_blocks(
    regions: Genome | Iterable[Interval],
    *,
    valid_fraction: float,
    test_fraction: float | None = None,
    block: int,
    context: int,
    seed: int | None = None,
) -> Split:
    """Hold out blocks of the regions for validation, and for test where `test_fraction` is given, spread evenly over them.

    Blocks of `block` bases tile each region from its start, the last one being shorter; their count runs on from
    region to region, so short contigs are held out too. Without `test_fraction` every n-th block is held out,
    n = round(1 / valid_fraction). With it the blocks are cut into as many stretches as there are to be test blocks, each of
    which gives its middle one, and the others likewise for validation, each stretch its first one. With a `seed`, one block
    of each stretch is drawn instead.

    Raises ValueError where a fraction is not above 0 and at most 0.5 (with a test part 0.4), or nothing is left for a part.
    Without a test part `context` is at most the longest region; with one at most a block, and regions may be shorter.
    """
    most = 0.5 if test_fraction is None else 0.4
    for name, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if value is not None and not 0 < value <= most:
            raise ValueError(f"{name}: got {value}, want above 0 and at most {most}")
    if block < 1:
        raise ValueError(f"block: got {block}, want at least 1 base")
    if test_fraction is not None and block < context:
        raise ValueError(f"block: got {block} bases for a context of {context}, want at least one context")
    regions = merge(whole_contigs(regions) if isinstance(regions, Genome) else regions)
    blocks = cut(regions, block)
    rng = None if seed is None else np.random.default_rng(seed)
    if test_fraction is None:
        _want_room(context, regions)
        every = round(1 / valid_fraction)
        groups = -(-len(blocks) // every)
        held = np.full(groups, every // 2) if rng is None else rng.integers(every, size=groups)
        valid = [one for number, one in enumerate(blocks) if number % every == held[number // every]]
        origin = f"{len(blocks)} block(s) of {block} bases, one in {every} held out"
        return _finish(regions, valid, [], context=context, origin=origin)
    test = list(_spread(blocks, test_fraction, 0.5, rng))
    taken = set(test)
    others = [one for one in blocks if one not in taken]
    valid = list(_spread(others, valid_fraction / (1 - test_fraction), 0.0, rng))
    origin = f"{len(blocks)} block(s) of {block} bases"
    return _finish(regions, valid, test, context=context, origin=origin)


def _spread(
    blocks: Sequence[Interval], share: float, place: float, rng: np.random.Generator | None
) -> Iterator[Interval]:
    """A share of the blocks, at least one: of each stretch of them the one at `place` (0 to 1), or a random one."""
    stretches = max(1, round(share * len(blocks)))
    borders = [i * len(blocks) // stretches for i in range(stretches + 1)]
    for first, end in pairwise(borders):
        if first < end:
            yield blocks[first + int(place * (end - first)) if rng is None else int(rng.integers(first, end))]


def split_by_contig(genome: Genome, *, valid: Sequence[str], test: Sequence[str] = (), context: int = 0) -> Split:
    """Hold out whole contigs by name; all the others are for training.

    Raises ValueError for a name that `genome` lacks or that is in both lists, where `context` is longer than every
    contig, or nothing is left to train or to validate on.
    """
    for argument, names in (("valid", valid), ("test", test)):
        for name in names:
            if name not in genome.contigs:
                raise ValueError(f"{argument}: got contig {name!r}, want one of {known_names(genome.contigs)}")
    if twice := {*valid} & {*test}:
        raise ValueError(f"test: got contig {min(twice)!r}, which is in valid too, want it in one of them")
    parts = dict.fromkeys(valid, "valid") | dict.fromkeys(test, "test")
    chosen = {
        split: [one for one in whole_contigs(genome) if parts.get(one.contig, "train") == split] for split in SPLITS
    }
    _want_room(context, whole_contigs(genome))
    return _finish(**chosen, context=context, origin=f"{len(genome.contigs)} contig(s)")


def split_by_bed(
    rows: Sequence[BedRow], *, context: int, valid_fraction: float = 0.1, block: int = 100_000, seed: int | None = None
) -> Split:
    """The split that the rows of a BED file say; rows without any are regions, split as by `split_by_blocks`.

    Training intervals give way where they overlap a held-out one or come within `context` bases of it.

    Raises ValueError for rows of both kinds, for overlapping valid and test rows, where `context` is longer than every
    row, or nothing is left to train or to validate on.
    """
    regions = [row.interval for row in rows if row.split is None]
    if regions and len(regions) < len(rows):
        raise ValueError(
            f"bed: got {len(regions)} of {len(rows)} rows without train, valid or test in column 4, "
            f"such as {regions[0]}; want it in all rows or in none"
        )
    if regions:
        return split_by_blocks(regions, valid_fraction=valid_fraction, block=block, context=context, seed=seed)
    chosen = {split: [row.interval for row in rows if row.split == split] for split in SPLITS}
    _want_room(context, [row.interval for row in rows])
    return _finish(**chosen, context=context, origin=f"{len(rows)} BED row(s)")


def write_split(path: str | Path, split: Split) -> None:
    """Write a split as BED with the split in column 4; `split_by_bed(read_bed(path, genome), …)` gives it back."""
    with replacing(path) as aside, open(aside, "w", encoding="utf-8", newline="\n") as out:
        for name, intervals in zip(SPLITS, split, strict=True):
            out.writelines(f"{one.contig}\t{one.start}\t{one.end}\t{name}\n" for one in intervals)


def _want_room(context: int, intervals: Sequence[Interval]) -> None:
    longest = max(map(len, intervals), default=0)
    if context > longest:
        raise ValueError(f"context: got {context} bases, want at most {longest}, the longest contig or interval")


def _finish(train: list[Interval], valid: list[Interval], test: list[Interval], *, context: int, origin: str) -> Split:
    """Merge each part, take the held-out ones and their surroundings out of train, and check that something is left."""
    if context < 0:
        raise ValueError(f"context: got {context}, want at least 0 bases")
    valid, test = merge(valid), merge(test)
    if sum(map(len, subtract(test, valid))) < sum(map(len, test)):
        raise ValueError("test: overlaps valid, want each base in one of them")
    kept = subtract(train, [*valid, *test], margin=context)
    for name, part in (("train", kept), ("valid", valid)):
        if not part:
            raise ValueError(
                f"{name}: no bases left of {sum(map(len, train)):,} after {origin} with context {context}; "
                "want a shorter context, other blocks, or more or longer intervals"
            )
    return Split(tuple(kept), tuple(valid), tuple(test))


def want_split(path: str | Path, rows: Sequence[BedRow], every: bool = False) -> None:
    """ValueError naming line and column 4 for what is nearly a split, such as a fold: nothing that is held out there may be
    trained on. every: for a row without one too."""
    for row in rows:
        if row.split is None and (every or _LIKE_A_SPLIT.fullmatch(row.name)):
            raise ValueError(
                f"{path}: line {row.line}, column 4: got {row.name!r}, want train, valid or test"
                + ("" if every else ", or a name that is no number and no fold for what is to be split otherwise")
            )


def _missing(contig: str, genome: Genome) -> str:
    return f"contig {contig!r} is not in {', '.join(map(str, genome.paths))}, which has {known_names(genome.contigs)}"


def _bed_row(columns: list[str], genome: Genome, line: int) -> BedRow:
    if len(columns) < 3:
        raise ValueError(f"got {len(columns)} column(s), want contig, start and end")
    contig, *numbers = columns[:3]
    length = genome.contigs.get(contig)
    if length is None:
        raise ValueError(_missing(contig, genome))
    try:
        start, end = map(int, numbers)
    except ValueError:
        raise ValueError(f"got start {numbers[0]!r} and end {numbers[1]!r}, want integers") from None
    if not 0 <= start < end <= length:
        raise ValueError(f"interval {contig}:{start}-{end}, want 0 <= start < end <= {length}, the contig's length")
    name = columns[3] if len(columns) > 3 and columns[3] else "."
    strand = columns[5] if len(columns) > 5 else "."
    if strand not in ("+", "-") and _LIKE_A_STRAND.fullmatch(strand):
        raise ValueError(f"column 6: got strand {strand!r}, want +, - or .")
    strand = strand if strand in ("+", "-") else "."  # wider tables have other things there
    return BedRow(Interval(contig, start, end), SPLIT_NAMES.get(name.lower()), name, strand, line)
