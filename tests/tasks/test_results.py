"""What a run ends in: predictions, pictures and the table."""

import csv
import json
import math

import numpy as np
import pytest

from titans_dna.labels.data import LabelledData, Rows
from titans_dna.metrics import Estimate
from titans_dna.tasks.results import OURS, Scored, plot_confusion, plot_roc, write_predictions, write_results


def labelled(task, classes, labels):
    rows = Rows(tuple(f"row,{i}" for i in range(len(labels))), (b"ACGT",) * len(labels), np.asarray(labels))
    return LabelledData("made-up", task, classes, rows, rows, rows)


@pytest.mark.parametrize(
    ("task", "classes", "labels", "scores", "first"),
    [
        ("binary", ("n", "y"), [1, 0], [[0.75, 0.25], [0.5, 0.5]], ["row,0", "y", "n", "0.75", "0.25"]),
        ("multilabel", ("p", "q"), [[1, 1], [0, 0]], [[0.5, 0.25], [0, 1]], ["row,0", "p;q", "p", "0.5", "0.25"]),
        ("regression", (), [1.5, 2.0], [0.125, 3.0], ["row,0", "1.5", "0.125"]),
    ],
)
def test_predictions(task, classes, labels, scores, first, tmp_path):
    data = labelled(task, classes, labels)
    write_predictions(tmp_path / "predictions.csv", data, np.array(scores))
    with open(tmp_path / "predictions.csv", newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["name", "label", "prediction", *(f"probability_{name}" for name in classes)]
    assert found[0] == first
    assert len(found) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["predictions.csv"]


@pytest.mark.parametrize("classes", [2, 3, 15])
def test_pictures(classes, tmp_path):
    rng = np.random.default_rng(0)
    labels, scores = np.arange(60) % classes, rng.dirichlet(np.ones(classes), 60)
    data = labelled("binary" if classes == 2 else "multiclass", tuple(f"c{i}" for i in range(classes)), labels)
    plot_confusion(tmp_path / "confusion.png", data, scores)
    plot_roc(tmp_path / "roc.png", data, scores)
    for name in ("confusion.png", "roc.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


def test_results(tmp_path):
    """Cells as they have always been: digits, the interval or the deviation, and what is not defined."""
    once = {"pearson": Estimate(0.12345, 0.1, 0.2), "spearman": Estimate(math.nan), "mse": Estimate(2.0)}
    again = {"pearson": Estimate(0.5), "spearman": Estimate(0.25), "mse": Estimate(1.0)}
    scored = [Scored(OURS, [0], [once], [again]), Scored("kmers", [0, 1], [again, again], [])]
    write_results(tmp_path, "regression", scored, {"task": "regression"}, "notes\n")
    assert (tmp_path / "results.md").read_text() == (
        "| model | seeds | pearson | spearman | mse | pearson, unseen rows | spearman, unseen rows |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {OURS} | 1 | 0.123 (0.100 to 0.200) | – | 2.000 | 0.500 | 0.250 |\n"
        "| kmers | 2 | 0.500 ± 0.000 | 0.250 ± 0.000 | 1.000 ± 0.000 | – | – |\n"
        "\nnotes\n"
    )
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [
        ["model", "seed", "test_rows", "metric", "value", "low", "high"],
        [OURS, "0", "all", "pearson", "0.12345", "0.1", "0.2"],
        [OURS, "0", "all", "spearman", "", "", ""],
    ]
    assert len(rows) == 1 + 6 + 6
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["results"][0]["all"] == [{"pearson": 0.12345, "spearman": None, "mse": 2.0}]
