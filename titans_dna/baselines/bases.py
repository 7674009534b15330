"""What a per-base model has to beat: each a function of (data, seed) that gives probabilities for the test windows.

Scores are float32 [bases, classes], the bases of `data.test` in order, those of unknown letters included. Everything is
fitted on the training intervals and chosen on validation windows; a baseline sees of a test window its bases, and none
beyond its ends.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from titans_dna.genome.intervals import Interval, merge
from titans_dna.genome.sampler import Window
from titans_dna.labels.annotation import Feature
from titans_dna.labels.windows import LabelledGenome
from titans_dna.metrics import validation_loss
from titans_dna.tokens.kmers import kmer_codes
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import base_digits

STRENGTHS = (1e-3, 0.1, 10.0)
"""What C is chosen from, the strongest penalty first."""
RADII = (12, 36, 108, 324)
"""Bases on either side of a base from which k-mers speak."""


class Bases(NamedTuple):
    """The bases of windows, laid end to end: what scores are compared with."""

    labels: np.ndarray
    """uint8 [n]"""
    known: np.ndarray
    """bool [n], False for letters other than A, C, G, T, which do not count."""
    windows: np.ndarray
    """int64 [n], the number of each base's window."""


def gather(data: LabelledGenome, windows: Sequence[Window]) -> Bases:
    """Labels of windows; `evaluate_bases(bases.labels[known], scores[known], bases.windows[known])`."""
    examples = [data.example(window) for window in windows]
    numbers = np.repeat(np.arange(len(windows)), [len(one.labels) for one in examples])
    return Bases(np.concatenate([e.labels for e in examples]), np.concatenate([e.known for e in examples]), numbers)


def majority(data: LabelledGenome, seed: int) -> np.ndarray:
    """The shares of the classes among the known training bases, for every base. Nothing depends on the seed."""
    counts = np.zeros(len(data.classes), np.int64)
    for window in data.train:
        _, labels, known = data.example(window)
        counts += np.bincount(labels[known], minlength=len(counts))
    rows = sum(window.end - window.start for window in data.test)
    return np.tile((counts / counts.sum()).astype(np.float32), (rows, 1))


def kmers(
    data: LabelledGenome,
    seed: int,
    *,
    sizes: Sequence[int] = (4, 6),
    radii: Sequence[int] = RADII,
    sample: int = 50_000,
) -> np.ndarray:
    """Logistic regression on what `KmerEvidence` says around each base.

    sizes: what k is chosen from, with C by the loss on validation bases.
    sample: training bases, and validation bases, that the regression sees, about; the seed draws them. (The k-mers
        themselves are counted on all training bases.)
    """
    rng = np.random.default_rng(seed)
    train, valid = (_sample(data, windows, sample, rng) for windows in (data.train, data.valid))
    tried = [_fit(data, KmerEvidence(data, k, radii), train, valid) for k in sizes]
    _, evidence, model = min(tried, key=lambda one: one[0])
    return np.concatenate([_probabilities(data, model, evidence(data.example(one).bases)) for one in data.test])


def orf(data: LabelledGenome, seed: int) -> np.ndarray:
    """The longest open reading frame over each base, of either strand; for features of one name, which should be CDS.

    A frame of so many bases codes with the probability that isotonic regression finds on the validation windows; the
    length from which it is above a half is what a threshold would have been chosen as. With strands told apart, the strand
    of the longer frame has it. Nothing depends on the seed.

    Raises ValueError for features of several names.
    """
    from sklearn.isotonic import IsotonicRegression

    if len(data.labels.features) > 1:
        raise ValueError(f"orf: got features {', '.join(data.labels.features)}, want those of one name, which code")
    labels, known, _ = gather(data, data.valid)
    longest = np.concatenate([_lengths(data, window).max(axis=0) for window in data.valid])
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(longest[known], (labels > 0)[known])
    return np.concatenate([_from_orfs(data, curve, _lengths(data, window)) for window in data.test])


def baselines(data: LabelledGenome) -> tuple[Callable[[LabelledGenome, int], np.ndarray], ...]:
    """Those that apply to the data; `orf` where all features are CDS."""
    return (majority, kmers, orf) if set(data.labels.features) == {"CDS"} else (majority, kmers)


class _Sample(NamedTuple):
    """Some bases of each of some windows."""

    windows: list[Window]
    places: list[np.ndarray]
    labels: np.ndarray


def _sample(data: LabelledGenome, windows: Sequence[Window], bases: int, rng: np.random.Generator) -> _Sample:
    """About so many known bases, spread over at most 256 windows."""
    chosen = [windows[i] for i in np.sort(rng.permutation(len(windows))[:256])]
    share = min(1.0, bases / sum(window.end - window.start for window in chosen))
    places, labels = [], []
    for window in chosen:
        _, found, known = data.example(window)
        places.append(np.flatnonzero(known & (rng.random(len(known)) < share)))
        labels.append(found[places[-1]])
    return _Sample(chosen, places, np.concatenate(labels).astype(np.int64))


def _fit(
    data: LabelledGenome, evidence: KmerEvidence, train: _Sample, valid: _Sample
) -> tuple[float, KmerEvidence, Any]:
    """The least validation loss, and the model that has it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, held = (
        np.concatenate(
            [evidence(data.example(one).bases)[at] for one, at in zip(some.windows, some.places, strict=True)]
        )
        for some in (train, valid)
    )
    best, best_model = math.inf, None
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200, tol=1e-3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline near its optimum will do
            model.fit(rows, train.labels)
        loss = validation_loss("multiclass", valid.labels, _probabilities(data, model, held))
        if loss < best:
            best, best_model = loss, model
    return best, evidence, best_model


def _probabilities(data: LabelledGenome, model: Any, rows: np.ndarray) -> np.ndarray:
    """float32 [n, classes], 0 for a class of which the sample has no base."""
    found = np.zeros((len(rows), len(data.classes)), np.float32)
    found[:, model.classes_] = model.predict_proba(rows)
    return found


def _lengths(data: LabelledGenome, window: Window) -> np.ndarray:
    """Of each strand: [2, n]."""
    bases = data.example(window).bases
    return np.stack([orf_lengths(bases), orf_lengths(reverse_complement(bases))[::-1]])


def _from_orfs(data: LabelledGenome, curve: Any, lengths: np.ndarray) -> np.ndarray:
    coding = np.asarray(curve.predict(lengths.max(axis=0)), dtype=np.float32)
    scores = np.zeros((lengths.shape[1], len(data.classes)), np.float32)
    scores[:, 0] = 1 - coding
    if not data.labels.stranded:
        scores[:, 1] = coding
        return scores
    plus = np.where(lengths[0] == lengths[1], 0.5, lengths[0] > lengths[1])
    scores[:, 1], scores[:, 2] = coding * plus, coding * (1 - plus)
    return scores


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
