"""`predictions.csv`, and the pictures: a confusion matrix and ROC curves."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from titans_dna.labels.data import LabelledData, label_text
from titans_dna.metrics.sequences import predicted
from titans_dna.run.files import replacing

MANY = 12
"""Classes from which on numbers in cells, and curves of single classes, would be too many to read."""


def write_predictions(path: Path, data: LabelledData, scores: np.ndarray) -> None:
    """One row for each of `data.test`: name, label, prediction, and the probability of each class.

    scores: as `evaluate` takes them; the prediction itself is the only value for regression.
    """
    chosen = predicted(data.task, scores)
    probabilities = scores if data.classes else np.empty((len(scores), 0))
    with replacing(path) as aside, open(aside, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("name", "label", "prediction", *(f"probability_{name}" for name in data.classes)))
        for name, label, choice, row in zip(data.test.names, data.test.labels, chosen, probabilities, strict=True):
            writer.writerow((name, label_text(data, label), label_text(data, choice), *(f"{p:.6g}" for p in row)))


def plot_confusion(path: Path, data: LabelledData, scores: np.ndarray) -> None:
    """Rows of the test split by class and by prediction, as a PNG; the colour is the share of the class."""
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
    _save(figure, path)


def plot_roc(path: Path, data: LabelledData, scores: np.ndarray) -> None:
    """ROC curves on the test split, as a PNG: of the second class for binary, else of each one against the rest."""
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
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=150, format="png")
