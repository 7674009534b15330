"""How good per-base predictions are: metrics over bases, with intervals over windows.

Neighbouring bases share their features and, for a model, its input, so that they are far from independent: what is
resampled is the windows. All that a resample needs is counted once for each window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from titans_dna.metrics.sequences import Estimate

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
    _check(labels, scores, windows, bins)
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
        rankings.append(_ranking(found.reshape(-1, used, 2)))
    area, precision = np.stack(rankings, axis=-1)
    return {**_decisions(counts), "auroc": _mean_defined(area), "auprc": _mean_defined(precision)}


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


def _decisions(counts: np.ndarray) -> dict[str, np.ndarray]:
    """From confusion matrices [draws, labels, predictions]; as `metrics.evaluate` defines them, for all draws at once."""
    hits = np.einsum("dcc->dc", counts)
    labels, chosen, bases = counts.sum(axis=2), counts.sum(axis=1), counts.sum(axis=(1, 2))
    above = hits.sum(axis=1) * bases - np.einsum("dc,dc->d", labels, chosen)
    spread = (bases**2 - (labels**2).sum(axis=1)) * (bases**2 - (chosen**2).sum(axis=1))
    return {
        "accuracy": hits.sum(axis=1) / bases,
        "balanced_accuracy": _mean_defined(_ratio(hits, labels)),
        "macro_f1": _mean_defined(_ratio(2 * hits, labels + chosen)),
        "mcc": np.divide(above, np.sqrt(spread), out=np.zeros_like(above), where=spread > 0),
    }


def _ranking(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is no NaN; NaN where nothing is."""
    return _ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def _estimate(column: np.ndarray, sides: tuple[float, float]) -> Estimate:
    """The first value, and the quantiles of the others that are defined."""
    again = column[1:][np.isfinite(column[1:])]
    low, high = np.quantile(again, sides) if len(again) else (math.nan, math.nan)
    return Estimate(float(column[0]), float(low), float(high))


def _check(labels: np.ndarray, scores: np.ndarray, windows: np.ndarray, bins: int) -> None:
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
