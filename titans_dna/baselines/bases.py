"""What a per-base model has to beat: each a function of (data, seed) that gives probabilities for the test windows.

Scores are float32 [bases, classes], the bases of `data.test` in order, those of unknown letters included. Everything is
fitted on the training intervals and chosen on validation windows; a baseline sees of a test window what a model would:
its bases, and none beyond its ends.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from titans_dna.baselines.evidence import KmerEvidence, orf_lengths
from titans_dna.genome.stretches import Window
from titans_dna.labels.windows import LabelledGenome
from titans_dna.metrics.sequences import validation_loss
from titans_dna.tokens.strands import reverse_complement

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


def _from_orfs(data: LabelledGenome, curve: IsotonicRegression, lengths: np.ndarray) -> np.ndarray:
    coding = np.asarray(curve.predict(lengths.max(axis=0)), dtype=np.float32)
    scores = np.zeros((lengths.shape[1], len(data.classes)), np.float32)
    scores[:, 0] = 1 - coding
    if not data.labels.stranded:
        scores[:, 1] = coding
        return scores
    plus = np.where(lengths[0] == lengths[1], 0.5, lengths[0] > lengths[1])
    scores[:, 1], scores[:, 2] = coding * plus, coding * (1 - plus)
    return scores
