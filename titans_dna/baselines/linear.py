"""Linear models of every task, their penalty chosen on the validation split."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from titans_dna.labels.data import LabelledData, Rows, Task

STRENGTHS = tuple(10.0**power for power in range(-5, 3))
"""What C is chosen from, the strongest penalty first."""

Features = Callable[[Rows], Any]
"""Rows to a matrix [n, features], dense or sparse."""
Scores = Callable[[Rows], np.ndarray]
"""Rows to scores as `metrics.evaluate` takes them."""


def fit_linear(data: LabelledData, features: Features) -> tuple[float, Scores]:
    """Logistic regression (one for each label of a multilabel task), or ridge regression, fitted on train.

    Returns the least loss on the validation split (cross-entropy, mean over labels; squared error) and the model that
    has it. Of the strengths C in ascending order those after two failures in a row to improve are not tried.
    """
    train, valid = features(data.train), features(data.valid)
    best, best_model, failures = math.inf, None, 0
    model: _Linear | None = None
    for strength in STRENGTHS:
        model = _Linear(data.task, max(1, len(data.classes)), strength, model)
        model.fit(train, data.train.labels)
        loss = validation_loss(data.task, data.valid.labels, model.scores(valid))
        failures = 0 if loss < best else failures + 1
        if loss < best:
            best, best_model = loss, model
        if failures == 2:
            break
    assert best_model is not None, "the first strength has a finite loss"
    return best, lambda rows: best_model.scores(features(rows))


def validation_loss(task: Task, labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean cross-entropy of probabilities, or squared error."""
    if task == "regression":
        return float(np.mean((labels - scores) ** 2))
    least = 1e-7
    if task == "multilabel":
        given = np.where(labels == 1, scores, 1 - scores)
    else:
        given = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(given, least, 1)).mean())


class _Linear:
    """One strength; starts from the coefficients of another one."""

    def __init__(self, task: Task, classes: int, strength: float, start: _Linear | None) -> None:
        self._task, self._classes, self._strength = task, classes, strength
        self._start: Sequence[Any] = start._models if start else []
        self._models: list[Any] = []

    def fit(self, matrix: Any, labels: np.ndarray) -> None:
        columns = [*labels.T] if self._task == "multilabel" else [labels]
        for number, column in enumerate(columns):
            start = self._start[number] if self._start else None
            self._models.append(self._fit(matrix, column, start))

    def _fit(self, matrix: Any, labels: np.ndarray, start: Any) -> Any:
        if self._task == "regression":
            return Ridge(alpha=1 / self._strength).fit(matrix, labels)
        if len(np.unique(labels)) == 1:  # of a multilabel task
            return _Constant(labels[0])
        model = LogisticRegression(C=self._strength, max_iter=200, tol=3e-3, warm_start=start is not None)
        if start is not None:
            model.coef_, model.intercept_ = start.coef_.copy(), start.intercept_.copy()
            model.classes_ = start.classes_
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline near its optimum will do
            return model.fit(matrix, labels)

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
