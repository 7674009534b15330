"""Metrics over bases equal scikit-learn's; intervals are those of resampled windows."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from titans_dna.metrics import evaluate_bases


def made_up(classes, n=6000, seed=0, digits=2):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    scores = rng.dirichlet(np.ones(classes), n) + np.eye(classes)[labels] * rng.random((n, 1))
    return labels.astype(np.uint8), np.round(scores / scores.sum(axis=1, keepdims=True), digits)


@pytest.mark.parametrize(("digits", "within"), [(2, 1e-9), (9, 1e-3)])
@pytest.mark.parametrize("classes", [2, 4])
def test_as_scikit_learn(classes, digits, within):
    labels, scores = made_up(classes, digits=digits)
    chosen = scores.argmax(axis=1)
    holds = (labels == 1)[:, None] if classes == 2 else np.eye(classes)[labels]
    given = scores[:, [1]] if classes == 2 else scores
    found = evaluate_bases(labels, scores, np.arange(len(labels)) // 50)
    exact = {
        "accuracy": sk.accuracy_score(labels, chosen),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, chosen),
        "macro_f1": sk.f1_score(labels, chosen, average="macro"),
        "mcc": sk.matthews_corrcoef(labels, chosen),
    }
    ranked = {
        "auroc": sk.roc_auc_score(holds, given, average="macro"),
        "auprc": sk.average_precision_score(holds, given, average="macro"),
    }
    assert {name: found[name].value for name in exact} == pytest.approx(exact, abs=1e-9)
    assert {name: found[name].value for name in ranked} == pytest.approx(ranked, abs=within)
    assert all(one.low < one.value < one.high for one in found.values())


def test_interval_is_of_windows():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(40) < 0.7, 100)  # all bases of a window right, or all wrong
    labels = rng.integers(0, 2, len(right))
    scores = np.eye(2)[np.where(right, labels, 1 - labels)]
    windows = np.repeat(rng.permutation(40) + 1000, 100)
    found = evaluate_bases(labels, scores, windows, resamples=2000)["accuracy"]
    share = right.mean()
    error = 1.96 * math.sqrt(share * (1 - share) / 40)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.15)
    as_bases = evaluate_bases(labels, scores, np.arange(4000), resamples=500)["accuracy"]
    assert as_bases.high - as_bases.low < (found.high - found.low) / 5


def test_order_and_grouping_do_not_matter(monkeypatch):
    labels, scores = made_up(3, 900)
    windows = np.arange(900) // 30
    wanted = evaluate_bases(labels, scores, windows)
    # Whole windows' blocks shuffled within: which bases a window has is all that counts.
    order = np.random.default_rng(0).permutation(900)
    assert evaluate_bases(labels[order], scores[order], windows[order]) == wanted
    monkeypatch.setattr("titans_dna.metrics.GROUP", 7 * 200)
    assert evaluate_bases(labels, scores, windows) == wanted


def test_undefined():
    scores = np.tile([0.4, 0.6], (10, 1))
    one_class = evaluate_bases(np.ones(10, int), scores, np.arange(10))
    assert one_class["accuracy"].value == 1
    assert math.isnan(one_class["auroc"].value)
    assert math.isnan(one_class["auprc"].value)
    assert one_class["mcc"].value == 0
    constant = evaluate_bases(np.arange(10) % 2, scores, np.zeros(10, int))
    assert constant["auroc"].value == 0.5
    assert constant["auprc"].value == 0.5
    assert math.isnan(constant["accuracy"].low)  # of one window
    never = evaluate_bases(np.arange(10) % 2, np.tile([0.3, 0.5, 0.2], (10, 1)), np.arange(10), resamples=0)
    assert never["balanced_accuracy"].value == 0.5  # of the classes that occur


@pytest.mark.parametrize(
    ("labels", "scores", "windows", "message"),
    [
        (np.zeros(0, int), np.zeros((0, 2)), np.zeros(0, int), "no bases"),
        (np.zeros(3, int), np.zeros((2, 2)), np.zeros(3, int), r"shapes \(2, 2\), labels \(3,\)"),
        (np.zeros(3, int), np.zeros((3, 2)), np.zeros(2, int), "windows"),
        (np.full(3, 2), np.zeros((3, 2)), np.zeros(3, int), "class 2, but scores of 2"),
        (np.zeros(1, int), np.full((1, 2), math.nan), np.zeros(1, int), "not finite"),
    ],
)
def test_bad_arguments(labels, scores, windows, message):
    with pytest.raises(ValueError, match=message):
        evaluate_bases(labels, scores, windows)
