"""Metrics equal scikit-learn's; intervals cover; files and pictures are whole."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from titans_dna.metrics import Estimate, evaluate, predicted, spread


def made_up(classes, n=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    scores = rng.dirichlet(np.ones(classes), n) + np.eye(classes)[labels] * rng.random((n, 1))
    return labels, np.round(scores / scores.sum(axis=1, keepdims=True), 2)  # rounded: with ties


@pytest.mark.parametrize("classes", [2, 4])
def test_classes_as_scikit_learn(classes):
    labels, scores = made_up(classes)
    chosen = scores.argmax(axis=1)
    holds = (labels == 1)[:, None] if classes == 2 else np.eye(classes)[labels]
    given = scores[:, [1]] if classes == 2 else scores
    wanted = {
        "accuracy": sk.accuracy_score(labels, chosen),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, chosen),
        "macro_f1": sk.f1_score(labels, chosen, average="macro"),
        "mcc": sk.matthews_corrcoef(labels, chosen),
        "auroc": sk.roc_auc_score(holds, given, average="macro"),
        "auprc": sk.average_precision_score(holds, given, average="macro"),
    }
    found = evaluate("binary" if classes == 2 else "multiclass", labels, scores)
    assert {name: one.value for name, one in found.items()} == pytest.approx(wanted, abs=1e-6)
    assert all(one.low < one.value < one.high for one in found.values())


def test_multilabel_as_scikit_learn():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 3)) < [0.2, 0.5, 0.7]).astype(np.uint8)
    scores = np.clip(labels * 0.4 + rng.random((200, 3)) * 0.6, 0, 1)
    chosen = scores >= 0.5
    pairs = [(labels[:, i], chosen[:, i]) for i in range(3)]
    wanted = {
        "accuracy": np.mean(labels == chosen),
        "balanced_accuracy": np.mean([sk.balanced_accuracy_score(*pair) for pair in pairs]),
        "mcc": np.mean([sk.matthews_corrcoef(*pair) for pair in pairs]),
        "macro_f1": sk.f1_score(labels, chosen, average="macro"),
        "exact_match": sk.accuracy_score(labels, chosen),
        "auroc": sk.roc_auc_score(labels, scores, average="macro"),
        "auprc": sk.average_precision_score(labels, scores, average="macro"),
    }
    found = evaluate("multilabel", labels, scores, resamples=0)
    assert {name: one.value for name, one in found.items()} == pytest.approx(wanted, abs=1e-6)
    assert math.isnan(found["auroc"].low)


def test_regression():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=100)
    scores = labels + rng.normal(size=100)
    found = evaluate("regression", labels, scores)
    assert found["pearson"].value == pytest.approx(np.corrcoef(labels, scores)[0, 1])
    ranks = [stats.rankdata(one) for one in (labels, scores)]
    assert found["spearman"].value == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["mse"].value == pytest.approx(sk.mean_squared_error(labels, scores))
    assert math.isnan(evaluate("regression", labels, np.ones(100))["pearson"].value)


def test_degenerate():
    """A class that never occurs, and one that alone is predicted."""
    found = evaluate("multiclass", np.array([0, 0, 1, 1]), np.tile([0.1, 0.2, 0.7], (4, 1)))
    assert (found["accuracy"].value, found["balanced_accuracy"].value, found["mcc"].value) == (0, 0, 0)
    assert found["auroc"].value == 0.5
    same = evaluate("binary", np.zeros(4, dtype=np.int64), np.tile([0.9, 0.1], (4, 1)))
    assert (same["accuracy"].value, same["mcc"].value) == (1, 0)
    assert math.isnan(same["auroc"].value)
    assert math.isnan(same["auroc"].high)


def test_intervals_are_those_of_the_binomial():
    labels = np.arange(1000) % 2
    right = np.arange(1000) < 800
    scores = np.eye(2)[np.where(right, labels, 1 - labels)]
    found = evaluate("binary", labels, scores, resamples=400)["accuracy"]
    low, high = stats.binom.interval(0.95, 1000, 0.8)
    assert (found.low, found.high) == pytest.approx((low / 1000, high / 1000), abs=0.006)
    one, again, other = (evaluate("binary", labels, scores, resamples=20, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.zeros(0, dtype=np.int64), np.zeros((0, 2)), "labels: got no rows"),
        (np.zeros(3, dtype=np.int64), np.zeros((2, 2)), r"scores: got shape \(2, 2\)"),
        (np.zeros(1, dtype=np.int64), np.array([[np.nan, 1]]), "scores: got values that are not finite"),
    ],
)
def test_bad_scores(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate("binary", labels, scores)


def test_spread():
    found = spread([{"mcc": Estimate(0.1)}, {"mcc": Estimate(0.3)}])["mcc"]
    assert found == pytest.approx((0.2, math.sqrt(0.02), 2))
    assert math.isnan(spread([{"mcc": Estimate(0.1)}])["mcc"].deviation)


def test_predicted():
    np.testing.assert_array_equal(predicted("multiclass", np.array([[0.2, 0.5, 0.3]])), [1])
    np.testing.assert_array_equal(predicted("multilabel", np.array([[0.2, 0.5]])), [[0, 1]])
