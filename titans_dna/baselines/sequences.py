"""What a model has to beat: each a function of (data, seed) that gives scores [n, …] for `data.test`.

Scores are as `metrics.evaluate` takes them. Everything is fitted on train and chosen on the validation split; of the test
split the sequences are read once, at the end, and the labels never. The CNN of GenomicBenchmarks is a module of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from titans_dna.labels.data import LabelledData, Rows, Task
from titans_dna.metrics import row_losses, validation_loss
from titans_dna.tokens.kmers import complementary_kmers, kmer_codes
from titans_dna.tokens.vocabulary import base_digits

if TYPE_CHECKING:  # SciPy and scikit-learn take seconds: functions import what they need of them
    from scipy import sparse

BLOCK = 1 << 22
"""Bases that are counted at a time."""
_SURE = 20.0
"""What stands for an infinity."""
STRENGTHS = tuple(10.0**power for power in range(-5, 3))
"""What C is chosen from, the strongest penalty first."""

Features = Callable[[Rows], Any]
"""Rows to a matrix [n, features], dense or sparse."""


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
    from sklearn.pipeline import make_union
    from sklearn.preprocessing import OneHotEncoder, SplineTransformer

    data.want_test()
    logs = _log_lengths(data.train)
    knots: Any = np.unique(np.quantile(logs, np.linspace(0, 1, 16)))
    if len(knots) < 2:
        return majority(data, seed)
    curve = SplineTransformer(knots=knots[:, None])
    single = OneHotEncoder(min_frequency=10, handle_unknown="infrequent_if_exist")
    union = make_union(curve, single).fit(logs)
    _, model = fit_linear(data, lambda rows: union.transform(_log_lengths(rows)))
    return model.scores(union.transform(_log_lengths(data.test)))


def kmers(
    data: LabelledData, seed: int, *, sizes: Sequence[int] = (4, 5, 6), both_strands: bool | None = None
) -> np.ndarray:
    """Logistic (or ridge) regression on the counts of k-mers.

    sizes: what k is chosen from. both_strands: whether to add up the counts of both strands; None chooses. Choices, with
        C, go by the loss on the validation split. Features are square roots of the counts of one k over their standard
        deviation, or the counts of all k from 1 to the largest side by side, as they are. Nothing depends on the seed.
    """
    data.want_test()
    features, model = choose_kmers(data, sizes, both_strands)
    return model.scores(features(data.test))


def choose_kmers(
    data: LabelledData, sizes: Sequence[int] = (4, 5, 6), both_strands: bool | None = None
) -> tuple[RootCounts | AllCounts, Linear]:
    """The features and the model that `kmers` takes."""
    tried: list[tuple[float, RootCounts | AllCounts, Linear]] = []
    for both in (False, True) if both_strands is None else (both_strands,):
        for features in [*(RootCounts(data.train, k, both) for k in sizes), AllCounts(max(sizes), both)]:
            loss, model = fit_linear(data, features)
            tried.append((loss, features, model))
    return min(tried, key=lambda one: one[0])[1:]


def positions(data: LabelledData, seed: int) -> np.ndarray:
    """Logistic (or ridge) regression on which of A, C, G, T stands at each place, for sequences cut at one place.

    In prom_300_tata it is beyond k-mers and the CNN: the TATA box of the negatives stands one base off that of the positives.
    Sequences longer than any of train lose their end. Nothing depends on the seed.
    """
    data.want_test()
    width = int(data.train.lengths().max())
    _, model = fit_linear(data, lambda rows: _letters_at(rows, width))
    return model.scores(_letters_at(data.test, width))


MOST_PLACES = 1024
"""Bases of sequences up to which `places_tell` looks."""


def places_tell(data: LabelledData) -> bool:
    """Whether it counts where a base stands: sequences of one length, of whose validation rows single positions say clearly
    more (two standard errors of the loss) than the share of each base does."""
    lengths = np.unique(data.train.lengths())
    if len(lengths) > 1 or lengths[0] > MOST_PLACES or len(data.valid) < 2:
        return False
    width = int(lengths[0])
    features: list[Features] = [AllCounts(1, False), lambda rows: _letters_at(rows, width)]
    losses = []
    for one in features:
        _, model = fit_linear(data, one)
        found = row_losses(data.task, data.valid.labels, model.scores(one(data.valid)))
        losses.append(found.reshape(len(found), -1).mean(axis=1))
    gain = losses[0] - losses[1]
    return bool(gain.mean() > 2 * gain.std(ddof=1) / math.sqrt(len(gain)))


def _letters_at(rows: Rows, width: int) -> sparse.csr_array:
    from scipy import sparse

    letters = np.array([np.frombuffer(one[:width].ljust(width, b"N"), np.uint8) for one in rows.sequences])
    found = letters[:, :, None] == np.frombuffer(b"ACGT", np.uint8)
    return sparse.csr_array(found.reshape(len(letters), -1), dtype=np.float64)


class RootCounts:
    """Rows to scaled counts; the scale is that of train."""

    def __init__(self, train: Rows, k: int, both_strands: bool) -> None:
        from sklearn.preprocessing import StandardScaler

        self.sizes, self.both_strands = (k,), both_strands
        # Without the mean, so that the matrix stays sparse.
        self.scaler = StandardScaler(with_mean=False).fit(self._counts(train))

    def __call__(self, rows: Rows) -> sparse.csr_array:
        return self.scaler.transform(self._counts(rows))  # pyright: ignore[reportReturnType]

    def _counts(self, rows: Rows) -> sparse.csr_array:
        counts = kmer_counts(rows.sequences, self.sizes[0], both_strands=self.both_strands)
        return cast(Any, counts).sqrt()


class AllCounts:
    """Rows to the counts of k-mers of every size."""

    def __init__(self, largest: int, both_strands: bool) -> None:
        self.sizes, self.both_strands = tuple(range(1, largest + 1)), both_strands

    def __call__(self, rows: Rows) -> sparse.csr_array:
        from scipy import sparse

        counts = [kmer_counts(rows.sequences, k, both_strands=self.both_strands) for k in self.sizes]
        return sparse.csr_array(sparse.hstack(counts, format="csr"))


def _log_lengths(rows: Rows) -> np.ndarray:
    return np.log(rows.lengths())[:, None]


def kmer_counts(sequences: Sequence[bytes], k: int, *, both_strands: bool = False) -> sparse.csr_array:
    """How often each k-mer stands in each sequence, float32 [n, 4^k], columns in the order of the alphabet.

    A k-mer that holds anything but A, C, G, T counts nowhere. both_strands: plus the counts in the reverse complement.
    """
    from scipy import sparse

    blocks = [_count(part, k) for part in _parts(sequences)]
    counts = sparse.csr_array(sparse.vstack(blocks, format="csr", dtype=np.float32))
    return sparse.csr_array(counts + counts[:, complementary_kmers(k)]) if both_strands else counts


def _parts(sequences: Sequence[bytes]):
    """Consecutive sequences, about BLOCK bases together."""
    part: list[bytes] = []
    bases = 0
    for letters in sequences:
        part.append(letters)
        bases += len(letters)
        if bases >= BLOCK:
            yield part
            part, bases = [], 0
    if part or not sequences:
        yield part


def _count(sequences: list[bytes], k: int) -> sparse.csr_array:
    from scipy import sparse

    # One separator after each sequence keeps a k-mer from running over the border.
    codes = kmer_codes(base_digits(b"-".join(sequences) + b"-"), k)
    row = np.repeat(np.arange(len(sequences)), [len(letters) + 1 for letters in sequences] or 0)
    known = codes < 4**k
    keys, counts = np.unique(row[: len(codes)][known] * 4**k + codes[known], return_counts=True)
    found = (counts.astype(np.float32), (keys // 4**k, keys % 4**k))
    return sparse.coo_array(found, shape=(len(sequences), 4**k)).tocsr()


def fit_linear(data: LabelledData, features: Features) -> tuple[float, Linear]:
    """Logistic regression (one for each label of a multilabel task), or ridge regression, fitted on train.

    Returns the least loss on the validation split (cross-entropy, mean over labels; squared error) and the model that
    has it. Of the strengths C in ascending order those after two failures in a row to improve are not tried.
    """
    train, valid = features(data.train), features(data.valid)
    best, best_model, failures = math.inf, None, 0
    model: Linear | None = None
    for strength in STRENGTHS:
        model = Linear(data.task, max(1, len(data.classes)), strength, model)
        model.fit(train, data.train.labels)
        loss = validation_loss(data.task, data.valid.labels, model.scores(valid))
        failures = 0 if loss < best else failures + 1
        if loss < best:
            best, best_model = loss, model
        if failures == 2:
            break
    assert best_model is not None, "the first strength has a finite loss"
    return best, best_model


class Linear:
    """One strength; starts from the coefficients of another one."""

    def __init__(self, task: Task, classes: int, strength: float, start: Linear | None) -> None:
        self._task: Task = task
        self._classes, self.strength = classes, strength
        self._start: Sequence[Any] = start._models if start else []
        self._models: list[Any] = []

    def fit(self, matrix: Any, labels: np.ndarray) -> None:
        columns = [*labels.T] if self._task == "multilabel" else [labels]
        for number, column in enumerate(columns):
            start = self._start[number] if self._start else None
            self._models.append(self._fit(matrix, column, start))

    def _fit(self, matrix: Any, labels: np.ndarray, start: Any) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, Ridge

        if self._task == "regression":
            return Ridge(alpha=1 / self.strength).fit(matrix, labels)
        if len(np.unique(labels)) == 1:  # of a multilabel task
            return _Constant(labels[0])
        model = LogisticRegression(C=self.strength, max_iter=200, tol=3e-3, warm_start=start is not None)
        if start is not None:
            model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
            model.classes_ = start.classes_
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline near its optimum will do
            return model.fit(matrix, labels)

    def again(self) -> Linear:
        """The same, not fitted."""
        return Linear(self._task, self._classes, self.strength, None)

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights [outputs, features] and biases [outputs], whose softmax, or sigmoid for labels, are the scores."""
        if self._task == "regression":
            return self._models[0].coef_[None], np.array([self._models[0].intercept_])
        width = next((model.coef_.shape[1] for model in self._models if not isinstance(model, _Constant)), 0)
        weight, bias = np.zeros((self._classes, width)), np.zeros(self._classes)
        if self._task == "multilabel":
            for number, model in enumerate(self._models):
                constant = isinstance(model, _Constant)
                weight[number] = 0 if constant else model.coef_[0]
                bias[number] = (_SURE if model.classes_[0] else -_SURE) if constant else model.intercept_[0]
            return weight, bias
        coefficients = self._models[0].coef_  # of two classes those of the second one
        weight[-len(coefficients) :], bias[-len(coefficients) :] = coefficients, self._models[0].intercept_
        return weight, bias

    def scores(self, matrix: Any) -> np.ndarray:
        if self._task == "regression":
            return self._models[0].predict(matrix)
        if self._task == "multilabel":
            return np.stack([_probabilities(model, matrix, 2)[:, 1] for model in self._models], axis=1)
        return _probabilities(self._models[0], matrix, self._classes)


class _Constant:
    """A label that all rows of train have, or none."""

    def __init__(self, label: int) -> None:
        self.classes_ = np.array([label], dtype=np.int64)

    def predict_proba(self, matrix: Any) -> np.ndarray:
        return np.ones((matrix.shape[0], 1))


def _probabilities(model: Any, matrix: Any, classes: int) -> np.ndarray:
    """[n, classes], 0 for a class that train does not have."""
    found = np.zeros((matrix.shape[0], classes))
    found[:, np.asarray(model.classes_, dtype=np.int64)] = model.predict_proba(matrix)
    return found / found.sum(axis=1, keepdims=True)  # the model's are float32 where the features are
