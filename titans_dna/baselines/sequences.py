"""What a model has to beat: each a function of (data, seed) that gives scores [n, …] for `data.test`.

Scores are as `metrics.evaluate` takes them. Everything is fitted on train and chosen on the validation split; of the test
split the sequences are read once, at the end, and the labels never. The GenomicBenchmarks CNN is in `cnn.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from scipy import sparse
from sklearn.pipeline import make_union
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler

from titans_dna.baselines.kmers import kmer_counts
from titans_dna.baselines.linear import Scores, fit_linear
from titans_dna.labels.data import LabelledData, Rows


def majority(data: LabelledData, seed: int) -> np.ndarray:
    """The shares of the classes in train, or the mean label, for every sequence. Nothing depends on the seed."""
    data.want_test()
    labels = data.train.labels
    if data.task in ("multilabel", "regression"):
        return np.repeat(labels.mean(axis=0, keepdims=True), len(data.test), axis=0)
    shares = np.bincount(labels, minlength=len(data.classes)) / len(labels)
    return np.tile(shares, (len(data.test), 1))


def length(data: LabelledData, seed: int) -> np.ndarray:
    """Logistic (or ridge) regression on the length alone, as a spline and as single lengths of ten rows and more.

    Lengths alone tell the classes of human_ensembl_regulatory apart: many are exactly 200, 400, 599 or 600 bases.
    Nothing depends on the seed.
    """
    data.want_test()
    logs = _log_lengths(data.train)
    knots: Any = np.unique(np.quantile(logs, np.linspace(0, 1, 16)))
    if len(knots) < 2:
        return majority(data, seed)
    curve = SplineTransformer(knots=knots[:, None])
    single = OneHotEncoder(min_frequency=10, handle_unknown="infrequent_if_exist")
    union = make_union(curve, single).fit(logs)
    _, scores = fit_linear(data, lambda rows: union.transform(_log_lengths(rows)))
    return scores(data.test)


def kmers(
    data: LabelledData, seed: int, *, sizes: Sequence[int] = (4, 5, 6), both_strands: bool | None = None
) -> np.ndarray:
    """Logistic (or ridge) regression on the counts of k-mers.

    sizes: what k is chosen from. both_strands: whether to add up the counts of both strands; None chooses. Choices, with
        C, go by the loss on the validation split. Features are square roots of counts over their standard deviation.
        Nothing depends on the seed.
    """
    data.want_test()
    tried: list[tuple[float, Scores]] = []
    for k in sizes:
        for both in (False, True) if both_strands is None else (both_strands,):
            tried.append(fit_linear(data, _RootCounts(data.train, k, both)))
    return min(tried, key=lambda one: one[0])[1](data.test)


def positions(data: LabelledData, seed: int) -> np.ndarray:
    """Logistic (or ridge) regression on which of A, C, G, T stands at each place, for sequences cut at one place.

    In prom_300_tata it is beyond k-mers and the CNN: the TATA box of the negatives stands one base off that of the positives.
    Sequences longer than any of train lose their end. Nothing depends on the seed.
    """
    data.want_test()
    width = int(data.train.lengths().max())
    _, scores = fit_linear(data, lambda rows: _letters_at(rows, width))
    return scores(data.test)


def _letters_at(rows: Rows, width: int) -> sparse.csr_array:
    letters = np.array([np.frombuffer(one[:width].ljust(width, b"N"), np.uint8) for one in rows.sequences])
    found = letters[:, :, None] == np.frombuffer(b"ACGT", np.uint8)
    return sparse.csr_array(found.reshape(len(letters), -1), dtype=np.float64)


class _RootCounts:
    """Rows to scaled counts; the scale is that of train."""

    def __init__(self, train: Rows, k: int, both_strands: bool) -> None:
        self._k, self._both_strands = k, both_strands
        # Without the mean, so that the matrix stays sparse.
        self._scaler = StandardScaler(with_mean=False).fit(self._counts(train))

    def __call__(self, rows: Rows) -> sparse.csr_array:
        return self._scaler.transform(self._counts(rows))  # pyright: ignore[reportReturnType]

    def _counts(self, rows: Rows) -> sparse.csr_array:
        counts = kmer_counts(rows.sequences, self._k, both_strands=self._both_strands)
        return cast(Any, counts).sqrt()


def _log_lengths(rows: Rows) -> np.ndarray:
    return np.log(rows.lengths())[:, None]
