"""How good predictions are, of sequences and of every base: metrics with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

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
    return float(row_losses(task, labels, scores).mean())


def row_losses(task: Task, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The same of each row, [n]; of several labels [n, labels]."""
    if task == "regression":
        return (labels - scores) ** 2
    least = 1e-7
    if task == "multilabel":
        given = np.where(labels == 1, scores, 1 - scores)
    else:
        given = scores[np.arange(len(labels)), labels]
    return -np.log(np.clip(given, least, 1))


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
    # Here, because it brings along all that it knows how to measure, which takes seconds.
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    both = (binary_auroc, binary_average_precision)
    area, precision = (float(metric(given, wanted, validate_args=False)) for metric in both)
    return area, precision


def _regression(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    from scipy import stats

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


GROUP = 1 << 23
"""Numbers of histograms held at a time."""


def evaluate_bases(
    labels: np.ndarray,
    scores: np.ndarray,
    windows: np.ndarray,
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    bins: int = 1000,
) -> dict[str, Estimate]:
    """Accuracy, balanced_accuracy, macro_f1, mcc, auroc, auprc, with percentile intervals over resampled windows.

    labels: numbers of classes, [n]; bases that do not count are left out before.
    scores: probabilities float [n, classes].
    windows: which window each base is of, whole numbers [n].
    resamples: 0 leaves the intervals out; so does a single window.
    bins: scores are ranked into so many bins of about as many bases each, or into one for each score that occurs where
        these are no more; within a bin they count as tied. So auroc is within 1 / bins of the exact one.

    Metrics are those of `metrics.evaluate`: auroc and auprc (average precision) of the second class where there are two,
    else of each class against the rest, averaged over the classes for which they are defined.

    Raises ValueError for no bases, shapes that do not fit, scores that are not finite, or bins below 2.
    """
    _check_bases(labels, scores, windows, bins)
    order = np.argsort(windows, kind="stable")
    _, number = np.unique(windows[order], return_inverse=True)
    labels, scores = labels[order].astype(np.int64), scores[order]
    many = int(number[-1]) + 1
    draws = np.ones((1, many))
    if resamples and many > 1:
        rng = np.random.default_rng(seed)
        draws = np.concatenate([draws, rng.multinomial(many, np.full(many, 1 / many), size=resamples)])
    columns = _metrics(labels, scores, number, draws, bins)
    sides = (0.5 - level / 2, 0.5 + level / 2)
    return {name: _estimate(column, sides) for name, column in columns.items()}


TOLERANCES, SIDES = (0, 3, 30), ("precision", "recall")
"""Bases by which the end of a segment may be off, and the two kinds of share."""


def evaluate_segments(
    labels: np.ndarray, chosen: np.ndarray, stretches: np.ndarray, *, backward: Sequence[int] = ()
) -> dict[str, float]:
    """How well predicted runs of bases of one class are those of the labels: `segment_precision_3`, and so on for segment
    (both ends), start and end, precision and recall, within 0, 3 and 30 bases.

    labels, chosen: numbers of classes [n], of which 0 is no segment. stretches: the number of the stretch of sequence of each
    base, ascending [n]; a segment that reaches a stretch's border is left out, as its end is not known there. backward: classes
    whose start is at their right end. One true segment counts for one predicted one at most. NaN where there are none.
    """
    true, said = (_segments(one, stretches, backward) for one in (labels, chosen))
    found = {}
    for within in TOLERANCES:
        for what, columns in (("segment", (1, 2)), ("start", (1,)), ("end", (2,))):
            matched = sum(
                _matched(true[true[:, 0] == one][:, columns], said[said[:, 0] == one][:, columns], within)
                for one in np.unique(true[:, 0])
            )
            for side, among in zip(SIDES, (said, true), strict=True):
                found[f"{what}_{side}_{within}"] = matched / len(among) if len(among) else math.nan
    return found


def _segments(numbers: np.ndarray, stretches: np.ndarray, backward: Sequence[int]) -> np.ndarray:
    """[class, start, end] of each run, by its first base; of backward classes the start is beyond the end."""
    new = np.flatnonzero((np.diff(numbers) != 0) | (np.diff(stretches) != 0)) + 1
    first, last = np.concatenate([[0], new]), np.concatenate([new, [len(numbers)]])
    inside = (numbers[first] > 0) & (first > 0) & (last < len(numbers))
    first, last = first[inside], last[inside]
    whole = (stretches[first - 1] == stretches[first]) & (stretches[last - 1] == stretches[last])
    first, last = first[whole], last[whole]
    kinds = numbers[first].astype(np.int64)
    apart = stretches[first] * (max(TOLERANCES) + 1)  # so that ends in two stretches are never near
    first, last, turned = first + apart, last + apart, np.isin(kinds, backward)
    return np.stack([kinds, np.where(turned, last, first), np.where(turned, first, last)], axis=1)


def _matched(true: np.ndarray, said: np.ndarray, within: int) -> int:
    """How many of the rows can be paired, each once, so that no number differs by more than `within`; ascending rows."""
    count = place = 0
    for row in said:
        while place < len(true) and (true[place] < row - within).any():
            place += 1  # nor can it be that of a later one
        if place < len(true) and (abs(true[place] - row) <= within).all():
            count, place = count + 1, place + 1
    return count


def _metrics(
    labels: np.ndarray, scores: np.ndarray, number: np.ndarray, draws: np.ndarray, bins: int
) -> dict[str, np.ndarray]:
    """Each metric of each draw, float [draws]. draws: how often each window counts, [draws, windows]."""
    classes = scores.shape[1]
    pairs = labels * classes + scores.argmax(axis=1)
    counts = _totals(number, pairs, classes**2, draws).reshape(-1, classes, classes)
    rankings = []
    for one in [1] if classes == 2 else range(classes):
        binned, used = _binned(scores[:, one], bins)
        found = _totals(number, binned * 2 + (labels == one), 2 * used, draws)
        rankings.append(_base_ranking(found.reshape(-1, used, 2)))
    area, precision = np.stack(rankings, axis=-1)
    return {**_base_decisions(counts), "auroc": _mean_of_defined(area), "auprc": _mean_of_defined(precision)}


def _totals(number: np.ndarray, kind: np.ndarray, kinds: int, draws: np.ndarray) -> np.ndarray:
    """How many bases of each kind each draw has: float64 [draws, kinds], whole numbers. number: of the window, sorted."""
    total = np.zeros((len(draws), kinds))
    for first, last in _groups(draws.shape[1], max(1, GROUP // kinds)):
        low, high = np.searchsorted(number, [first, last])
        keys = (number[low:high] - first) * kinds + kind[low:high]
        counts = np.bincount(keys, minlength=(last - first) * kinds).reshape(last - first, kinds)
        total += draws[:, first:last] @ counts.astype(np.float64)
    return total


def _groups(many: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, many, size):
        yield first, min(first + size, many)


def _binned(score: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    """The bin of each score, ascending, and how many bins there are."""
    values = np.unique(score)
    edges = values[1:]
    if len(values) > bins:
        edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    return np.searchsorted(edges, score, side="right"), len(edges) + 1


def _base_decisions(counts: np.ndarray) -> dict[str, np.ndarray]:
    """From confusion matrices [draws, labels, predictions]; as `metrics.evaluate` defines them, for all draws at once."""
    hits = np.einsum("dcc->dc", counts)
    labels, chosen, bases = counts.sum(axis=2), counts.sum(axis=1), counts.sum(axis=(1, 2))
    above = hits.sum(axis=1) * bases - np.einsum("dc,dc->d", labels, chosen)
    spread = (bases**2 - (labels**2).sum(axis=1)) * (bases**2 - (chosen**2).sum(axis=1))
    return {
        "accuracy": hits.sum(axis=1) / bases,
        "balanced_accuracy": _mean_of_defined(_ratio(hits, labels)),
        "macro_f1": _mean_of_defined(_ratio(2 * hits, labels + chosen)),
        "mcc": np.divide(above, np.sqrt(spread), out=np.zeros_like(above), where=spread > 0),
    }


def _base_ranking(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve, average precision, [draws] each, of bases [draws, bins, (others, holds)], bins ascending."""
    others, holds = found[:, ::-1, 0], found[:, ::-1, 1]  # the highest scores first
    others_upto, holds_upto = others.cumsum(axis=1), holds.cumsum(axis=1)
    all_others, all_holds = others_upto[:, -1], holds_upto[:, -1]
    # A base that holds is above the others that come after its bin, and above half of those within it.
    above = all_others[:, None] - others_upto + others / 2
    area = _ratio((holds * above).sum(axis=1), all_others * all_holds)
    precision = np.nan_to_num(_ratio(holds_upto, holds_upto + others_upto))
    average = _ratio((holds * precision).sum(axis=1), all_holds)
    return area, np.where(all_others > 0, average, math.nan)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where it is not defined."""
    return np.divide(above, below, out=np.full(above.shape, math.nan), where=below > 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is no NaN; NaN where nothing is."""
    return _ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def _estimate(column: np.ndarray, sides: tuple[float, float]) -> Estimate:
    """The first value, and the quantiles of the others that are defined."""
    again = column[1:][np.isfinite(column[1:])]
    low, high = np.quantile(again, sides) if len(again) else (math.nan, math.nan)
    return Estimate(float(column[0]), float(low), float(high))


def _check_bases(labels: np.ndarray, scores: np.ndarray, windows: np.ndarray, bins: int) -> None:
    if not len(labels):
        raise ValueError("labels: got no bases, want at least one to score")
    if scores.ndim != 2 or len(scores) != len(labels) or windows.shape != labels.shape:
        raise ValueError(f"scores: got shapes {scores.shape}, labels {labels.shape} and windows {windows.shape}")
    if labels.max() >= scores.shape[1]:
        raise ValueError(f"labels: got class {labels.max()}, but scores of {scores.shape[1]} classes")
    if not np.isfinite(scores).all():
        raise ValueError("scores: got values that are not finite")
    if bins < 2:
        raise ValueError(f"bins: got {bins}, want at least 2")
