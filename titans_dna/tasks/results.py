"""What a run ends in: the table of our rows beside the baselines', on all test rows and on those that train does not have;
each row's prediction; and the pictures, a confusion matrix and ROC curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from titans_dna.labels.data import LabelledData, Task, label_text
from titans_dna.metrics import Estimate, predicted, spread
from titans_dna.run.files import NONE, cell, markdown, write_csv, write_figure, write_text

OURS, ENSEMBLE = "Titans (ours)", "Titans (ours), ensemble"
MARKDOWN, CSV, JSON = "results.md", "results.csv", "results.json"
SHOWN: dict[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "mcc", "macro_f1", "auroc", "auprc"),
    "multiclass": ("accuracy", "mcc", "macro_f1", "auroc", "auprc"),
    "multilabel": ("exact_match", "macro_f1", "auroc", "auprc"),
    "regression": ("pearson", "spearman", "mse"),
}
"""Metrics of the Markdown table; the CSV file has all."""
MANY = 12
"""Classes from which on numbers in cells, and curves of single classes, would be too many to read."""


class Scored(NamedTuple):
    """A model or baseline, with what it reached with each seed."""

    name: str
    seeds: list[int]
    all: list[dict[str, Estimate]]
    """On all test rows."""
    unseen: list[dict[str, Estimate]]
    """On the test rows that stand neither in train nor in validation, on either strand; empty where there are none."""


def write_results(directory: Path, task: Task, scored: Sequence[Scored], about: dict[str, Any], notes: str) -> None:
    """`results.csv`, `results.json` and `results.md`; `notes` stands below the table."""
    rows = [
        (one.name, seed, which, metric, *map(cell, found))
        for one in scored
        for which, runs in (("all", one.all), ("unseen", one.unseen))
        for seed, run in zip(one.seeds, runs, strict=False)
        for metric, found in run.items()
    ]
    write_csv(directory / CSV, ("model", "seed", "test_rows", "metric", "value", "low", "high"), rows)
    values = {**about, "results": [_plain(one) for one in scored]}
    write_text(directory / JSON, json.dumps(values, indent=2) + "\n")
    write_text(directory / MARKDOWN, table(task, scored) + "\n" + notes)


def table(task: Task, scored: Sequence[Scored]) -> str:
    """Markdown: mean ± deviation over seeds, or for a single run its value and 95 % interval."""
    shown = SHOWN[task]
    unseen = any(one.unseen for one in scored)
    heads = ["model", "seeds", *(name.replace("_", " ") for name in shown)]
    heads += [f"{name.replace('_', ' ')}, unseen rows" for name in shown[:2]] * unseen
    rows = [
        [
            one.name,
            str(len(one.seeds)),
            *(summary(one.all, name) for name in shown),
            *(summary(one.unseen, name) for name in shown[:2] if unseen),
        ]
        for one in scored
    ]
    return markdown(heads, rows)


def summary(runs: Sequence[dict[str, Estimate]], metric: str) -> str:
    """A metric in few characters."""
    if not runs:
        return NONE
    if len(runs) > 1:
        found = spread(runs)[metric]
        return f"{found.mean:.3f} ± {found.deviation:.3f}" if math.isfinite(found.mean) else NONE
    value, low, high = runs[0][metric]
    if not math.isfinite(value):
        return NONE
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if math.isfinite(low) else "")


def write_predictions(path: Path, data: LabelledData, scores: np.ndarray) -> None:
    """One row for each of `data.test`: name, label, prediction, and the probability of each class.

    scores: as `evaluate` takes them; the prediction itself is the only value for regression.
    """
    chosen = predicted(data.task, scores)
    probabilities = scores if data.classes else np.empty((len(scores), 0))
    rows = [
        (name, label_text(data, label), label_text(data, choice), *(f"{p:.6g}" for p in row))
        for name, label, choice, row in zip(data.test.names, data.test.labels, chosen, probabilities, strict=True)
    ]
    write_csv(path, ("name", "label", "prediction", *(f"probability_{name}" for name in data.classes)), rows)


def plot_confusion(path: Path, data: LabelledData, scores: np.ndarray) -> None:
    """Rows of the test split by class and by prediction, as a PNG; the colour is the share of the class."""
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix

    assert data.task in ("binary", "multiclass"), "a confusion matrix is of classes that exclude each other"
    numbers = np.arange(len(data.classes))
    counts = confusion_matrix(data.test.labels, predicted(data.task, scores), labels=numbers)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.5 * min(len(numbers), 20)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class")
    axes.set(xlabel="prediction", ylabel="label", xticks=numbers, yticks=numbers)
    axes.set_xticklabels(data.classes, rotation=45, ha="right")
    axes.set_yticklabels(data.classes)
    if len(numbers) <= MANY:
        for i, j in np.ndindex(counts.shape):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=colour)
    write_figure(path, figure)


def plot_roc(path: Path, data: LabelledData, scores: np.ndarray) -> None:
    """ROC curves on the test split, as a PNG: of the second class for binary, else of each one against the rest."""
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_auc_score, roc_curve

    assert data.classes, "a ROC curve is of classes"
    labels = data.test.labels
    holds = labels == 1 if data.task == "multilabel" else labels[:, None] == np.arange(len(data.classes))
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    for number in [1] if data.task == "binary" else range(len(data.classes)):
        if holds[:, number].all() or not holds[:, number].any():
            continue
        false, true, _ = roc_curve(holds[:, number], scores[:, number])
        area = roc_auc_score(holds[:, number], scores[:, number])
        shown = f"{data.classes[number]}: {area:.3f}" if len(data.classes) <= MANY else None
        axes.plot(false, true, label=shown, linewidth=1.2)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=0.8)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, title="area", loc="lower right")
    write_figure(path, figure)


def _plain(one: Scored) -> dict[str, Any]:
    runs = {
        rows: [
            {metric: found.value if math.isfinite(found.value) else None for metric, found in run.items()}
            for run in some
        ]
        for rows, some in (("all", one.all), ("unseen", one.unseen))
    }
    return {"model": one.name, "seeds": one.seeds, **runs}
