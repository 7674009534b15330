"""How good predictions are: scikit-learn's metrics with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from titans_dna.labelled.data import Task


class Estimate(NamedTuple):
    """A metric of one set of predictions; NaN where it is not defined (AUROC with one class only, for instance)."""

    value: float
    low: float = math.nan
    high: float = math.nan
    """Ends of the bootstrap interval."""


class Spread(NamedTuple):
    """A metric over several seeds."""

    mean: float
    deviation: float
    """Standard deviation with n - 1; NaN for one seed."""
    seeds: int


def evaluate(
    task: Task, labels: np.ndarray, scores: np.ndarray, *, resamples: int = 200, level: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """The metrics of a task, with percentile intervals over resampled rows.

    labels: as `Rows.labels`.
    scores: probabilities float [n, classes] (a row sums to one, but for multilabel); regression values float [n].
    resamples: 0 leaves the intervals out.

    Binary and multiclass: accuracy, balanced_accuracy (mean recall of the classes that occur), macro_f1, mcc, auroc,
    auprc (average precision); the latter two of the second class for binary, and of each class against the rest,
    averaged, for multiclass. Multilabel: the mean over labels of the binary ones, f1 being that of the label, and
    exact_match. Regression: pearson, spearman, mse.

    Raises ValueError for no rows, or shapes that do not fit.
    """
    _check(task, labels, scores)
    values = _values(task, labels, scores)
    if not resamples:
        return {name: Estimate(value) for name, value in values.items()}
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(labels), size=len(labels)) for _ in range(resamples))
    again = [list(_values(task, labels[draw], scores[draw]).values()) for draw in draws]
    sides = (0.5 - level / 2, 0.5 + level / 2)
    found = {}
    for (name, value), column in zip(values.items(), np.array(again).T, strict=True):
        defined = column[np.isfinite(column)]
        low, high = np.quantile(defined, sides) if len(defined) else (math.nan, math.nan)
        found[name] = Estimate(value, float(low), float(high))
    return found


def predicted(task: Task, scores: np.ndarray) -> np.ndarray:
    """What scores amount to, as `Rows.labels`: the likeliest class, each label of 0.5 and more, or the value."""
    if task == "regression":
        return scores
    return (scores >= 0.5).astype(np.uint8) if task == "multilabel" else scores.argmax(axis=1)


def spread(runs: Sequence[Mapping[str, Estimate]]) -> dict[str, Spread]:
    """Mean and standard deviation of each metric over runs that differ in their seed."""
    columns = {name: np.array([run[name].value for run in runs]) for name in runs[0]}
    return {
        name: Spread(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan, len(values))
        for name, values in columns.items()
    }


def _check(task: Task, labels: np.ndarray, scores: np.ndarray) -> None:
    if not len(labels):
        raise ValueError("labels: got no rows, want at least one to score")
    wanted = labels.shape if task in ("regression", "multilabel") else (len(labels), scores.shape[-1])
    if scores.shape != wanted:
        raise ValueError(f"scores: got shape {scores.shape} for labels of shape {labels.shape} (task {task})")
    if not np.isfinite(scores).all():
        raise ValueError("scores: got values that are not finite")


def _values(task: Task, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    if task == "regression":
        return _regression(labels, scores)
    if task == "multilabel":
        return _multilabel(labels, scores)
    return {**_decisions(labels, scores.argmax(axis=1)), **_rankings(labels, scores)}


def _decisions(labels: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    occur = np.unique(labels)
    named = np.union1d(occur, chosen)
    return {
        "accuracy": float(np.mean(labels == chosen)),
        # balanced_accuracy_score warns where a class is predicted that does not occur
        "balanced_accuracy": float(sk.recall_score(labels, chosen, labels=occur, average="macro", zero_division=0)),
        "macro_f1": float(sk.f1_score(labels, chosen, labels=named, average="macro", zero_division=0)),
        "mcc": float(sk.matthews_corrcoef(labels, chosen)) if len(named) > 1 else 0.0,
    }


def _rankings(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    numbers = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    found = [_ranking(labels == number, scores[:, number]) for number in numbers]
    return dict(zip(("auroc", "auprc"), _mean_defined(found), strict=True))


def _ranking(holds: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve, average precision; NaN where all or none hold."""
    if holds.all() or not holds.any():
        return math.nan, math.nan
    return float(sk.roc_auc_score(holds, score)), float(sk.average_precision_score(holds, score))


def _multilabel(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    chosen = predicted("multilabel", scores)
    each = [_decisions(labels[:, i], chosen[:, i]) for i in range(labels.shape[1])]
    found = {name: float(np.mean([one[name] for one in each])) for name in ("accuracy", "balanced_accuracy", "mcc")}
    found["macro_f1"] = float(np.mean([
        sk.f1_score(labels[:, i], chosen[:, i], zero_division=0) for i in range(labels.shape[1])
    ]))  # fmt: skip
    found["exact_match"] = float((labels == chosen).all(axis=1).mean())
    rankings = [_ranking(labels[:, i] == 1, scores[:, i]) for i in range(labels.shape[1])]
    return {**found, **dict(zip(("auroc", "auprc"), _mean_defined(rankings), strict=True))}


def _regression(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    varied = np.ptp(labels) > 0 and np.ptp(scores) > 0
    return {
        "pearson": float(stats.pearsonr(labels, scores)[0]) if varied else math.nan,
        "spearman": float(stats.spearmanr(labels, scores)[0]) if varied else math.nan,
        "mse": float(sk.mean_squared_error(labels, scores)),
    }


def _mean_defined(pairs: Sequence[tuple[float, float]]) -> list[float]:
    defined = np.array([pair for pair in pairs if math.isfinite(pair[0])])
    return defined.mean(axis=0).tolist() if len(defined) else [math.nan, math.nan]
