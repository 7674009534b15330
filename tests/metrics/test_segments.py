"""Ends of predicted segments beside those of the labels."""

import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from titans_dna.metrics import TOLERANCES, evaluate_segments


def runs(numbers, stretches):
    """[class, first, last) of what does not reach a border, base by base."""
    found, start = [], 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or (numbers[i], stretches[i]) != (numbers[start], stretches[start]):
            whole = start > 0 and i < len(numbers) and stretches[start - 1] == stretches[start] == stretches[i]
            if numbers[start] and whole:
                found.append((numbers[start], start, i, stretches[start]))
            start = i
    return found


def pairs(true, said, fits):
    """The most that can be paired, each once."""
    if not true or not said:
        return 0
    table = np.array([[fits(one, other) for other in said] for one in true])
    return int(table[linear_sum_assignment(-table.astype(int))].sum())


@pytest.mark.parametrize("seed", range(12))
def test_as_many_are_found_as_can_be_paired(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 4, 60), rng.integers(1, 30, 60))
    chosen = np.roll(labels, int(rng.integers(-2, 3)))
    for place in rng.integers(0, len(labels), 12):
        chosen[place : place + int(rng.integers(1, 20))] = rng.integers(0, 4)
    stretches = np.sort(rng.integers(0, 4, len(labels)))
    backward = [2] if seed % 2 else []
    found = evaluate_segments(labels, chosen, stretches, backward=backward)
    true, said = runs(labels, stretches), runs(chosen, stretches)
    assert min(len(true), len(said)) > 10
    for within in TOLERANCES:
        for what in ("segment", "start", "end"):

            def fits(one, other, what=what, within=within):
                near = [abs(one[1] - other[1]) <= within, abs(one[2] - other[2]) <= within]
                near = near[::-1] if one[0] in backward else near
                chosen = {"segment": all(near), "start": near[0], "end": near[1]}
                return (one[0], one[3]) == (other[0], other[3]) and chosen[what]

            matched = pairs(true, said, fits)
            assert found[f"{what}_precision_{within}"] == matched / len(said)
            assert found[f"{what}_recall_{within}"] == matched / len(true)


def test_one_gene_by_hand():
    labels = np.array([0] * 10 + [1] * 30 + [0] * 10 + [1] * 5)
    chosen = np.array([0] * 12 + [1] * 28 + [0] * 15)
    found = evaluate_segments(labels, chosen, np.zeros(55, int))
    assert (found["start_recall_0"], found["end_recall_0"], found["segment_recall_0"]) == (0, 1, 0)
    assert found["start_recall_3"] == found["segment_precision_3"] == 1  # the gene at the border does not count
    back = evaluate_segments(labels, chosen, np.zeros(55, int), backward=[1])
    assert (back["start_recall_0"], back["end_recall_0"]) == (1, 0)
    assert math.isnan(evaluate_segments(labels, np.zeros(55, int), np.zeros(55, int))["segment_precision_0"])
