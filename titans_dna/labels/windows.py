"""Labelled windows of a genome, held out by region: what per-base labelling trains, validates and tests on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from titans_dna.genome.genome import Genome
from titans_dna.genome.intervals import SPLITS, Split
from titans_dna.genome.regions import Interval, merge, subtract, whole_contigs
from titans_dna.genome.stretches import Stretches, Window, find_gaps
from titans_dna.labels.annotation import Feature
from titans_dna.labels.data import reverse_complement
from titans_dna.labels.tracks import BaseLabels
from titans_dna.tokens.vocabulary import DIGITS


class Example(NamedTuple):
    """A window's bases and labels, in the direction in which it is read."""

    bases: bytes
    """[n] upper-case letters, T for U."""
    labels: np.ndarray
    """uint8 [n], numbers of classes."""
    known: np.ndarray
    """bool [n], False for letters other than A, C, G, T: their labels count nowhere."""


class LabelledGenome:
    """A genome, its features, and windows of at most `context` bases in three splits.

    train, valid, test: windows that tile the split's intervals in order, none over a border, the last of an interval
        shorter; forward strand. Training draws from the same intervals with `draw`.
    stranded, priority: as `BaseLabels` takes them.

    Raises ValueError for a context below 1, a split without test intervals or with an interval outside of the genome,
    and what `BaseLabels` raises.
    """

    def __init__(
        self,
        genome: Genome,
        features: Sequence[Feature],
        split: Split,
        *,
        context: int,
        stranded: bool = False,
        priority: Sequence[str] = (),
    ) -> None:
        if context < 1:
            raise ValueError(f"context: got {context}, want at least 1 base")
        for name, intervals in zip(SPLITS, split, strict=True):
            if not intervals:
                raise ValueError(f"split: no {name} intervals, want train, valid and test")
            for one in intervals:
                if not 0 <= one.start < one.end <= genome.contigs.get(one.contig, 0):
                    raise ValueError(f"split: {name} interval {one} is not in {genome}")
        self.genome, self.features, self.split, self.context = genome, tuple(features), split, context
        self.labels = BaseLabels(features, stranded=stranded, priority=priority)
        self.train, self.valid, self.test = (tile(intervals, context) for intervals in split)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names; a label is a number of these."""
        return self.labels.classes

    def example(self, window: Window) -> Example:
        """Bases and labels of a window; of its reverse complement where it is `reverse`."""
        bases = self.genome.fetch(window.contig, window.start, window.end).upper().replace(b"U", b"T")
        labels = self.labels.track(window.contig, window.start, window.end)
        if window.reverse:
            bases, labels = reverse_complement(bases), self.labels.reverse_complement(labels)
        return Example(bases, labels, np.frombuffer(bases.translate(DIGITS), np.uint8) < 4)

    def draw(self, seed: int, number: int, count: int = 1, *, reverse_complement: bool = True) -> list[Window]:
        """Draw number `number`: `count` windows at random places of the training intervals, on either strand.

        A pure function of its arguments, uniform over the bases of the intervals as `Stretches` says; no window has more
        than half of its bases unknown.
        """
        words = np.random.Philox(key=seed, counter=[0, number, 0, 0]).random_raw(2 * count).reshape(-1, 2)
        return self._stretches.pick(words, reverse_complement=reverse_complement)

    def fingerprint(self) -> str:
        """Digest of genome, classes, labels, split and context: 32 hexadecimal digits."""
        parts = (self.genome.fingerprint(), self.labels.fingerprint(), self.context)
        digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
        for name, intervals in zip(SPLITS, self.split, strict=True):
            digest.update(f"\n{name}\n{' '.join(map(str, intervals))}".encode())
        return digest.hexdigest()

    def report(self) -> BaseReport:
        """Bases of each class in each split; reads every base once."""
        splits = zip(SPLITS, self.split, (self.train, self.valid, self.test), strict=True)
        counted = tuple(self._count(name, intervals, windows) for name, intervals, windows in splits)
        return BaseReport(str(self.genome), self.classes, self.labels.features, self.fingerprint(), counted)

    def _count(self, name: str, intervals: Sequence[Interval], windows: Sequence[Window]) -> SplitBases:
        classes, unknown, several = np.zeros(len(self.classes), np.int64), 0, 0
        for piece in tile(intervals, _PIECE):
            _, labels, known = self.example(piece)
            classes += np.bincount(labels[known], minlength=len(classes))
            unknown += int((~known).sum())
            several += int(self.labels.overlapping(piece.contig, piece.start, piece.end).sum())
        bases = sum(map(len, intervals))
        return SplitBases(name, len(intervals), len(windows), bases, unknown, several, tuple(classes.tolist()))

    @cached_property
    def _stretches(self) -> Stretches:
        return Stretches(self.split.train, self.context, max_n=0.5, gaps=find_gaps(self.genome, self.split.train))


@dataclass(frozen=True)
class SplitBases:
    """One split."""

    name: str
    intervals: int
    windows: int
    bases: int
    unknown: int
    """Letters other than A, C, G, T."""
    several: int
    """Bases of features of several classes."""
    classes: tuple[int, ...]
    """Known bases of each class."""


@dataclass(frozen=True)
class BaseReport:
    """What to know of labelled bases before any figure is believed."""

    source: str
    classes: tuple[str, ...]
    features: dict[str, int]
    """Number of features by name."""
    fingerprint: str
    splits: tuple[SplitBases, ...]

    def markdown(self) -> str:
        """A table for people."""
        named = ", ".join(f"{number:,} {name}" for name, number in self.features.items())
        head = ("split", "intervals", "windows", "bases", "not ACGT", "of several classes", *self.classes)
        lines = [f"Bases: {self.source}; features: {named}; fingerprint `{self.fingerprint}`", ""]
        lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for one in self.splits:
            shares = [f"{some:,} ({some / max(1, sum(one.classes)):.1%})" for some in one.classes]
            numbers = (one.intervals, one.windows, one.bases, one.unknown, one.several)
            lines.append(f"| {' | '.join((one.name, *(f'{number:,}' for number in numbers), *shares))} |")
        return "\n".join(lines) + "\n"


def tile(intervals: Iterable[Interval], width: int) -> list[Window]:
    """The intervals cut into windows of `width` bases, the last of each shorter; none over a border."""
    return [
        Window(one.contig, start, min(start + width, one.end))
        for one in intervals
        for start in range(one.start, one.end, width)
    ]


def split_bases_by_blocks(
    regions: Genome | Iterable[Interval],
    *,
    block: int = 100_000,
    context: int,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int | None = None,
) -> Split:
    """Hold out blocks of the regions for test and validation, spread evenly over them.

    Blocks of `block` bases tile each region from its start, the last one being shorter; their count runs on from region to
    region. Without a `seed` a held-out block stands at the same place of each stretch of blocks; with one it is drawn.
    No training base lies within `context` bases of a held-out one. (Whole contigs: `split_by_contig`; a BED file that
    says train, valid and test: `split_by_bed`.)

    Raises ValueError for fractions that are not above 0 and at most 0.4, blocks shorter than one context, and where
    nothing is left for a split.
    """
    for name, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 < value <= 0.4:
            raise ValueError(f"{name}: got {value}, want above 0 and at most 0.4")
    if context < 0 or block < max(context, 1):
        raise ValueError(f"block: got {block} bases for a context of {context}, want at least one context")
    regions = merge(whole_contigs(regions) if isinstance(regions, Genome) else regions)
    blocks = [Interval(*window[:3]) for window in tile(regions, block)]
    rng = None if seed is None else np.random.default_rng(seed)
    test = set(_spread(blocks, test_fraction, 0.5, rng))
    others = [one for one in blocks if one not in test]
    valid = set(_spread(others, valid_fraction / (1 - test_fraction), 0.0, rng))
    train = subtract([one for one in others if one not in valid], [*test, *valid], margin=context)
    parts = (train, merge(one for one in blocks if one in valid), merge(one for one in blocks if one in test))
    for name, part in zip(SPLITS, parts, strict=True):
        if not part:
            raise ValueError(
                f"block: no {name} bases of {len(blocks)} block(s) of {block} bases with context {context}, "
                "want smaller blocks or a shorter context"
            )
    return Split(*map(tuple, parts))


_PIECE = 1 << 20


def _spread(
    blocks: Sequence[Interval], share: float, place: float, rng: np.random.Generator | None
) -> Iterator[Interval]:
    """A share of the blocks, at least one: of each stretch of them the one at `place` (0 to 1), or a random one."""
    stretches = max(1, round(share * len(blocks)))
    borders = [i * len(blocks) // stretches for i in range(stretches + 1)]
    for first, end in pairwise(borders):
        if first < end:
            yield blocks[first + int(place * (end - first)) if rng is None else int(rng.integers(first, end))]
