"""What k-mers say of labelled sequences, fitted before a model learns: it then learns what they do not say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from titans_dna.baselines.sequences import RootCounts, choose_kmers
from titans_dna.labels.data import LabelledData, Rows
from titans_dna.nn.finetuned import KmerVotes

FOLDS = 5


class Votes(NamedTuple):
    """A regression on k-mer counts, as `KmerVotes` holds it; of a regression in units of the labels' deviation."""

    sizes: tuple[int, ...]
    root: bool
    both: bool
    weight: np.ndarray
    """[outputs, k-mers]"""
    bias: np.ndarray
    """[outputs]"""
    train: np.ndarray
    """[rows, outputs]: what is said of each row of train by those that were fitted without it."""
    scores: Callable[[Rows], np.ndarray]
    """What the regression says of any rows, as `metrics.evaluate` takes it."""

    def put(self, votes: KmerVotes) -> None:
        """Into the model."""
        with torch.no_grad():
            votes.weight.copy_(torch.from_numpy(self.weight))
            votes.bias.copy_(torch.from_numpy(self.bias))


def fit_votes(data: LabelledData, both_strands: bool | None) -> Votes:
    """The regression that the baseline `kmers` chooses, and what it says of train when fitted on four fifths of it.
    both_strands: of counts of both strands together, so that a sequence and its reverse complement have the same votes; None
        chooses."""
    features, model = choose_kmers(data, both_strands=both_strands)
    matrix: Any = features(data.train)
    labels = data.train.labels
    mean, deviation = 0.0, 1.0
    if data.task == "regression":
        mean, deviation = float(labels.mean()), float(labels.std()) or 1.0
    weight, bias = model.weights()
    said = np.tile(bias, (len(labels), 1)) if not weight.size else matrix @ weight.T + bias
    for others, fold in _folds(data):
        again = model.again()
        again.fit(matrix[others], labels[others])
        part, shift = again.weights()
        said[fold] = (matrix[fold] @ part.T if part.size else 0.0) + shift
    if not weight.size:
        weight = np.zeros((len(bias), matrix.shape[1]))
    root = isinstance(features, RootCounts)
    if isinstance(features, RootCounts):
        weight = weight / np.asarray(features.scaler.scale_)
    return Votes(
        features.sizes,
        root,
        features.both_strands,
        weight / deviation,
        (bias - mean) / deviation,
        ((said - mean) / deviation).astype(np.float32),
        lambda rows: model.scores(features(rows)),
    )


def _folds(data: LabelledData) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of other rows and of rows, each row once; none where a class has too few rows to be left out of any."""
    from sklearn.model_selection import KFold, StratifiedKFold

    labels, places = data.train.labels, np.arange(len(data.train))
    if data.task in ("binary", "multiclass"):
        found = np.bincount(labels)
        folds = min(FOLDS, int(found[found > 0].min()))
        kind = StratifiedKFold(folds, shuffle=True, random_state=0) if folds > 1 else None
    else:
        kind = KFold(FOLDS, shuffle=True, random_state=0) if len(labels) >= FOLDS else None
    return [] if kind is None else list(kind.split(places, labels))
