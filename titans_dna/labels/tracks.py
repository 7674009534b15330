"""A class for each base of a genome, painted from features window by window."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from titans_dna.genome.regions import Interval, merge
from titans_dna.labels.annotation import Feature

NONE = "none"
"""The first class: bases of no feature."""
MOST = 255
"""Classes that one byte can number, besides NONE."""


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
    return np.asarray(other_strand, dtype=labels.dtype)[labels[..., ::-1]]


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
