"""What speaks for the class of a base: k-mers around it, by frame, on both strands; and open reading frames over it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from titans_dna.genome.intervals import Interval, merge
from titans_dna.genome.stretches import Window
from titans_dna.labels.annotation import Feature
from titans_dna.labels.windows import LabelledGenome
from titans_dna.tokens.kmers import kmer_codes
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import base_digits

FRAMES = 3
SMOOTHING = 0.5
"""Added to each count."""
STARTS = (b"ATG", b"GTG", b"TTG")
"""Codons that begin a coding sequence in bacteria (most of table 11's)."""
STOPS = (b"TAA", b"TAG", b"TGA")


class KmerEvidence:
    """Log-odds of each feature class against none, by a Markov chain of order k - 1 for each frame of three.

    The chains are counted on the training intervals, in the direction in which features read, the frame being that of the
    feature's first base: for a coding sequence without introns, the place in the codon. That is what gene finders start
    from (Borodovsky and McIninch, GENMARK, Computers & Chemistry 17, 1993); for features without a frame the three
    chains come out alike.
    """

    def __init__(self, data: LabelledGenome, k: int, radii: Sequence[int]) -> None:
        self._k, self._radii = k, radii
        background = _chain(_count_none(data, k))
        names = {one.name: number for number, one in enumerate(data.features)}
        counts = {name: np.zeros((FRAMES, 4**k)) for name in sorted(names)}
        for feature, part in _within(data.features, data.split.train):
            _count_feature(counts[feature.name], data, feature, part)
        # A last column for k-mers that hold an unknown letter: they speak for nothing.
        self._odds = [np.pad(_chain(one) - background, ((0, 0), (0, 1))) for one in counts.values()]

    def __call__(self, bases: bytes) -> np.ndarray:
        """Evidence for each base of a window, float32 [n, values]: of each feature class, radius, side (left of the base,
        right of it, both) and strand (as it reads, the other one, either), from k-mers inside of the window alone."""
        forward = self._strand(bases)
        # On the other strand left and right change places.
        backward = self._strand(reverse_complement(bases))[..., (1, 0, 2), ::-1]
        both = np.stack([forward, backward, np.logaddexp(forward, backward)])
        return both.reshape(-1, len(bases)).T.astype(np.float32)

    def _strand(self, bases: bytes) -> np.ndarray:
        """[classes, radii, sides, n]: log of the summed odds of the three frames."""
        n, codes = len(bases), _codes(bases, self._k)
        places, base = np.arange(len(codes)), np.arange(n)
        found = np.empty((len(self._odds), len(self._radii), 3, n))
        for i, odds in enumerate(self._odds):
            by_frame = np.stack([odds[(places + frame) % FRAMES, codes] for frame in range(FRAMES)])
            upto = np.pad(by_frame.cumsum(axis=1), ((0, 0), (1, 0)))
            for j, radius in enumerate(self._radii):
                # K-mers inside of [low, high).
                for side, (low, high) in enumerate(
                    ((base - radius, base + 1), (base, base + radius + 1), (base - radius, base + radius + 1))
                ):
                    first = np.clip(low, 0, len(codes))
                    last = np.maximum(np.clip(high - self._k + 1, 0, len(codes)), first)
                    found[i, j, side] = np.logaddexp.reduce(upto[:, last] - upto[:, first], axis=0)
        return found


def orf_lengths(bases: bytes) -> np.ndarray:
    """Bases of the longest open reading frame that covers each base as the sequence reads: int64 [n], 0 for none.

    One reaches from the first start codon after a stop codon to the next stop codon, which it includes; or from the
    sequence's beginning, or to its end, since what lies beyond is not known. A codon with an unknown letter is neither
    start nor stop.
    """
    codes = _codes(bases, 3)
    longest = np.zeros(len(bases), np.int64)
    for frame in range(3):
        codons = codes[frame::3]
        lengths = np.repeat(_frame(codons), 3)
        covered = longest[frame : frame + len(lengths)]
        np.maximum(covered, lengths, out=covered)
    return longest


def _frame(codons: np.ndarray) -> np.ndarray:
    """Bases of the frame that each codon is in, [codons]."""
    if not len(codons):
        return codons
    is_start, is_stop = (np.isin(codons, [_codes(one, 3)[0] for one in some]) for some in (STARTS, STOPS))
    segment = np.cumsum(is_stop) - is_stop  # a stop codon ends its segment
    first = np.flatnonzero(np.diff(segment, prepend=-1))
    places = np.arange(len(codons))
    begins = np.minimum.reduceat(np.where(is_start & ~is_stop, places, len(codons)), first)
    begins[0] = 0
    ends = np.append(first[1:], len(codons))
    # Without a start codon a segment begins after its end, and no codon of it is in a frame.
    return np.where(places >= begins[segment], 3 * (ends - begins)[segment], 0)


def _codes(bases: bytes, k: int) -> np.ndarray:
    return kmer_codes(base_digits(bases), k)


def _chain(counts: np.ndarray) -> np.ndarray:
    """Counts [..., 4^k] to the log-probability of each k-mer's last base after the others."""
    counts = counts.reshape(*counts.shape[:-1], -1, 4) + SMOOTHING
    return np.log(counts / counts.sum(axis=-1, keepdims=True)).reshape(*counts.shape[:-2], -1)


def _count_none(data: LabelledGenome, k: int) -> np.ndarray:
    """K-mers of bases of no class, on both strands: [4^k]."""
    total = np.zeros(4**k + 1)
    for window in data.train:
        bases, labels, _ = data.example(window)
        none = labels == 0
        for letters, free in ((bases, none), (reverse_complement(bases), none[::-1])):
            codes = _codes(letters, k)
            ends = len(letters) - len(codes)
            total += np.bincount(codes[free[: len(codes)] & free[ends:]], minlength=len(total))
    return total[:-1]


def _count_feature(counts: np.ndarray, data: LabelledGenome, feature: Feature, part: Interval) -> None:
    """Add the k-mers of a part of a feature to counts [frames, 4^k]."""
    kmers = counts.shape[1]
    k = (kmers.bit_length() - 1) // 2
    window = Window(part.contig, part.start, part.end, feature.strand == "-")
    offset = feature.interval.end - part.end if window.reverse else part.start - feature.interval.start
    codes = _codes(data.example(window).bases, k)
    frames = (np.arange(len(codes)) + offset) % FRAMES
    known = codes < kmers
    counts += np.bincount((frames * kmers + codes)[known], minlength=counts.size).reshape(counts.shape)


def _within(features: Sequence[Feature], intervals: Sequence[Interval]) -> Iterator[tuple[Feature, Interval]]:
    """Each feature's parts inside of the intervals."""
    by_contig: dict[str, list[Interval]] = {}
    for one in merge(intervals):
        by_contig.setdefault(one.contig, []).append(one)
    for feature in features:
        contig, start, end = feature.interval.contig, feature.interval.start, feature.interval.end
        inside = by_contig.get(contig, [])
        first = bisect_right(inside, start, key=lambda one: one.end)
        last = bisect_left(inside, end, key=lambda one: one.start)
        for one in inside[first:last]:
            yield feature, Interval(contig, max(start, one.start), min(end, one.end))
