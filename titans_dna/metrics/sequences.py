"""How good predictions are: metrics with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from titans_dna.labels.data import Task


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
    classes = scores.shape[1]
    counts = np.bincount(labels * classes + scores.argmax(axis=1), minlength=classes**2).reshape(classes, classes)
    numbers = [1] if classes == 2 else range(classes)
    rankings = [_ranking(labels == number, scores[:, number]) for number in numbers]
    return {**_decisions(counts), "macro_f1": float(np.nanmean(_f1(counts))), **_mean_defined(rankings)}


def _multilabel(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    chosen = predicted("multilabel", scores)
    width = range(labels.shape[1])
    each = [np.bincount(labels[:, i] * 2 + chosen[:, i], minlength=4).reshape(2, 2) for i in width]
    decisions = [_decisions(counts) for counts in each]
    return {
        **{name: float(np.mean([one[name] for one in decisions])) for name in decisions[0]},
        "macro_f1": float(np.mean([np.nan_to_num(_f1(counts)[1]) for counts in each])),
        "exact_match": float((labels == chosen).all(axis=1).mean()),
        **_mean_defined([_ranking(labels[:, i] == 1, scores[:, i]) for i in width]),
    }


def _decisions(counts: np.ndarray) -> dict[str, float]:
    """From a confusion matrix, labels down and predictions across. (The libraries' functions check their input each time;
    with hundreds of resamples that takes minutes.)"""
    hits, labels, chosen, rows = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0), int(counts.sum())
    # Gorodkin's R_K, which is Matthews' coefficient for two classes; whole numbers, exact to 9e15.
    above = float(hits.sum() * rows - labels @ chosen)
    below = float(rows**2 - labels @ labels) * float(rows**2 - chosen @ chosen)
    return {
        "accuracy": float(hits.sum() / rows),
        "balanced_accuracy": float((hits[labels > 0] / labels[labels > 0]).mean()),
        "mcc": above / math.sqrt(below) if below else 0.0,
    }


def _f1(counts: np.ndarray) -> np.ndarray:
    """Of each class; NaN for one that neither occurs nor is predicted."""
    total = counts.sum(axis=0) + counts.sum(axis=1)
    return np.divide(2 * np.diag(counts), total, out=np.full(len(counts), math.nan), where=total > 0)


def _ranking(holds: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve, average precision; NaN where all or none hold."""
    if holds.all() or not holds.any():
        return math.nan, math.nan
    given, wanted = torch.from_numpy(np.ascontiguousarray(score)), torch.from_numpy(holds.astype(np.int64))
    both = (binary_auroc, binary_average_precision)
    area, precision = (float(metric(given, wanted, validate_args=False)) for metric in both)
    return area, precision


def _regression(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    varied = np.ptp(labels) > 0 and np.ptp(scores) > 0
    return {
        "pearson": _coefficient(stats.pearsonr(labels, scores)) if varied else math.nan,
        "spearman": _coefficient(stats.spearmanr(labels, scores)) if varied else math.nan,
        "mse": float(np.mean((labels - scores) ** 2)),
    }


def _coefficient(result: Any) -> float:
    return float(result.statistic)


def _mean_defined(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    defined = np.array([pair for pair in pairs if math.isfinite(pair[0])])
    area, precision = defined.mean(axis=0).tolist() if len(defined) else (math.nan, math.nan)
    return {"auroc": area, "auprc": precision}
