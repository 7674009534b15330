"""A class for each base of a genome, painted from features; and labelled windows, held out by region.

They are what per-base labelling trains, validates and tests on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from titans_dna.genome.genome import Genome
from titans_dna.genome.intervals import SPLITS, Interval, Split, cut, merge
from titans_dna.genome.sampler import Stretches, Window, find_gaps
from titans_dna.labels.annotation import Feature
from titans_dna.run.files import markdown
from titans_dna.tokens.strands import reverse_complement, reverse_complement_ids
from titans_dna.tokens.vocabulary import base_digits

NONE = "none"
"""The first class: bases of no feature."""
MOST = 255
"""Classes that one byte can number, besides NONE."""
_PIECE = 1 << 20


class BaseLabels:
    """Classes of bases: `none`, then those of the features, sorted. Holds intervals alone; tracks are painted when asked for.

    features: what `read_annotation` gives.
    stranded: tell the strands apart: `CDS` becomes `CDS+` and `CDS-` (both, even where one does not occur). A feature
        without a strand keeps the plain name.
    priority: class names, without strand, whose bases win where classes overlap, the first one most; classes that are not
        named come after them, sorted. Of one name, `+` wins over `-`, and `-` over no strand.

    Raises ValueError for no features, a class called `none`, more than 255 classes, or a priority that is no class.
    """

    def __init__(self, features: Sequence[Feature], *, stranded: bool = False, priority: Sequence[str] = ()) -> None:
        names = sorted({one.name for one in features})
        _check(names, priority)
        self.stranded = stranded
        self.features = dict(sorted(Counter(one.name for one in features).items()))
        """Number of features by name, without strand."""
        ranked = [*priority, *(name for name in names if name not in priority)]
        with_strand = {one.name for one in features if one.strand != "."} if stranded else set()
        without = {one.name for one in features if one.strand == "." or not stranded}
        labels = {name: [name + strand for strand in "+-" if name in with_strand] for name in names}
        for name in without:
            labels[name].append(name)
        self.classes: tuple[str, ...] = (NONE, *sorted(label for some in labels.values() for label in some))
        """Names; a base's label is the number of its class here."""
        if len(self.classes) > MOST + 1 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"features: got {len(self.classes) - 1} classes, want at most {MOST}, no two of one name")
        number = {label: i for i, label in enumerate(self.classes)}
        swapped = {number[f"{name}+"]: number[f"{name}-"] for name in with_strand}
        swapped |= {minus: plus for plus, minus in swapped.items()}
        self.other_strand: tuple[int, ...] = tuple(swapped.get(i, i) for i in range(len(self.classes)))
        """Number of the class that a base has when it is read from the other strand: `+` for `-`."""
        self._order = [number[label] for name in ranked for label in labels[name]]
        by_class: dict[int, list[Interval]] = {}
        for one in features:
            label = one.name + (one.strand if stranded and one.strand != "." else "")
            by_class.setdefault(number[label], []).append(one.interval)
        self._borders = _borders(by_class)

    def track(self, contig: str, start: int, end: int) -> np.ndarray:
        """The label of each base of [start, end), 0-based half-open: uint8 [end - start]. Other contigs are all `none`."""
        return self._paint(contig, start, end)[0]

    def overlapping(self, contig: str, start: int, end: int) -> np.ndarray:
        """Which bases of [start, end) are of features of several classes: bool [end - start]."""
        return self._paint(contig, start, end)[1] > 1

    def reverse_complement(self, labels: np.ndarray) -> np.ndarray:
        """Labels [..., n] of a window as read from the other strand."""
        return reverse_complement_labels(labels, self.other_strand)

    def fingerprint(self) -> str:
        """Digest of the classes, which of them win, and the bases of each: 32 hexadecimal digits."""
        digest = hashlib.blake2b(repr((self.classes, self.other_strand, self._order)).encode(), digest_size=16)
        for (contig, number), (starts, ends) in sorted(self._borders.items()):
            digest.update(f"\n{contig}\t{number}\t".encode())
            digest.update(np.stack([starts, ends]).astype("<i8").tobytes())
        return digest.hexdigest()

    def _paint(self, contig: str, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels, and how many classes want each base."""
        if not 0 <= start <= end:
            raise ValueError(f"interval: got {contig}:{start}-{end}, want 0 <= start <= end")
        labels, depth = np.zeros(end - start, np.uint8), np.zeros(end - start, np.uint8)
        for number in reversed(self._order):  # what wins is painted last
            starts, ends = self._borders.get((contig, number), (_NOWHERE, _NOWHERE))
            # Neither overlapping nor touching, so that both borders are sorted.
            first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end)
            for low, high in zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True):
                inside = slice(max(low - start, 0), high - start)
                labels[inside] = number
                depth[inside] += 1
        return labels, depth


def reverse_complement_labels(labels: np.ndarray, other_strand: Sequence[int]) -> np.ndarray:
    """Labels [..., n] as read from the other strand: reversed, `+` and `-` swapped as `BaseLabels.other_strand` says.

    By number, not by name: `CD4+` and `CD4-` may as well be two kinds of cells.
    """
    return reverse_complement_ids(labels, np.asarray(other_strand, dtype=labels.dtype))


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
        return Example(bases, labels, base_digits(bases) < 4)

    def around(self, window: Window, margin: int) -> tuple[bytes, slice]:
        """Letters of a window with so many more on either side, as far as the contig goes, and where it stands in them; forward
        strand."""
        first, last = max(0, window.start - margin), min(self.genome.contigs[window.contig], window.end + margin)
        letters = self.genome.fetch(window.contig, first, last).upper().replace(b"U", b"T")
        return letters, slice(window.start - first, window.end - first)

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
        rows = []
        for one in self.splits:
            shares = [f"{some:,} ({some / max(1, sum(one.classes)):.1%})" for some in one.classes]
            numbers = (one.intervals, one.windows, one.bases, one.unknown, one.several)
            rows.append((one.name, *(f"{number:,}" for number in numbers), *shares))
        about = f"Bases: {self.source}; features: {named}; fingerprint `{self.fingerprint}`\n\n"
        return about + markdown(head, rows)


def tile(intervals: Iterable[Interval], width: int) -> list[Window]:
    """The intervals cut into windows of `width` bases, the last of each shorter; none over a border."""
    return [Window(one.contig, one.start, one.end) for one in cut(intervals, width)]


_NOWHERE = np.empty(0, np.int64)


def _check(names: Sequence[str], priority: Sequence[str]) -> None:
    if not names:
        raise ValueError("features: got none, want at least one")
    if NONE in names:
        raise ValueError(f"features: got a class {NONE!r}, which is what bases of no feature are called; rename it")
    if len(names) > MOST:
        raise ValueError(
            f"features: got {len(names):,} classes, such as {names[0]!r} and {names[1]!r}, want at most {MOST}; "
            "name the classes after something else (class_by)"
        )
    if isinstance(priority, str) or len(set(priority)) < len(priority):
        raise ValueError(f"priority: got {priority!r}, want a list of classes, each once")
    for name in priority:
        if name not in names:
            raise ValueError(f"priority: got {name!r}, want one of {', '.join(names[:12])}")


def _borders(by_class: dict[int, list[Interval]]) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Contig and class to starts and ends of its merged intervals, int64, sorted."""
    pairs: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for number, intervals in by_class.items():
        for one in merge(intervals):
            pairs.setdefault((one.contig, number), []).append((one.start, one.end))
    return {key: (*np.array(found, np.int64).T,) for key, found in pairs.items()}  # pyright: ignore[reportReturnType]
