"""One step of pretraining: accumulation, refusal of what is not finite, batches without a base, lanes."""

import math

import numpy as np
import pytest
import torch

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import NucleotideTokenizer
from titans_dna.train.language import Language
from titans_dna.train.learner import adamw
from titans_dna.train.loop import Loop, Machine, Settings

A, N = 7, 11


def make_learner(*, carry=False, spoil=(), accumulate=1):
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig.preset("tiny", variant="lmm", layers=1, width=16, chunk=8))
    calls = iter(range(1000))
    model.head.register_forward_hook(lambda module, inputs, out: out * math.inf if next(calls) in spoil else out)
    learner = Language(model, NucleotideTokenizer().lengths, carry=carry, accumulate=accumulate, scale=32)
    learner.steps = []
    learner.row = lambda step, found: learner.steps.append(step)
    return learner


def make_batch(number, ids, reset=True):
    return {"ids": ids, "weight": torch.ones(ids.shape), "reset": reset, "bases": ids.numel(), "batch": number}


def random_ids(seed, rows=2, width=17):
    return torch.from_numpy(np.random.default_rng(seed).integers(A, N, (rows, width)))


def fit(learner, batches, *, clip=1.0, lr=1e-2, weight_decay=0.1):
    """The loop after these batches, and its steps."""
    size = learner.accumulate
    loop = Loop(
        learner,
        adamw(learner.model, weight_decay, (0.9, 0.95)),
        Settings(len(batches) // size, lambda step: lr, clip=clip),
        Machine("cpu"),
        clipped=learner.model.parameters(),
    )
    loop.run(lambda step, fabric: (batches[i : i + size] for i in range(step * size, len(batches), size)))
    return loop, learner.steps


def weights(learner):
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_accumulation_is_one_large_batch():
    ids = random_ids(0, rows=4)
    ids[0, 5:] = N  # rows of unequal weight: the mean is over targets, not over batches
    large, small = make_learner(), make_learner(accumulate=2)
    fit(large, [make_batch(0, ids)], clip=0.5)
    loop, steps = fit(small, [make_batch(0, ids[:2]), make_batch(1, ids[2:])], clip=0.5)
    assert len(steps) == loop.step == 1
    for name, value in weights(large).items():
        torch.testing.assert_close(weights(small)[name], value, rtol=1e-4, atol=1e-6)


def test_a_non_finite_step_changes_nothing_but_its_count():
    learner, clean = make_learner(spoil={1}), make_learner()
    batches = [make_batch(number, random_ids(number)) for number in range(3)]
    fit(clean, batches[:1])
    loop, steps = fit(learner, batches[:2])
    assert [step.skipped for step in steps] == [False, True]
    assert same(weights(learner), weights(clean))
    assert (loop.skipped_in_a_row, loop.step) == (1, 2)
    assert all(int(entry["step"]) == 1 for entry in loop.optimiser.state_dict()["state"].values())


def test_skipped_in_a_row_starts_again():
    learner = make_learner(spoil={0, 1})
    loop, steps = fit(learner, [make_batch(number, random_ids(number)) for number in range(3)])
    assert [step.skipped for step in steps] == [True, True, False]
    assert loop.skipped_in_a_row == 0
    assert all(value.isfinite().all() for value in weights(learner).values())


def test_a_batch_without_a_base_is_no_step():
    learner = make_learner()
    before = weights(learner)
    loop, (step,) = fit(learner, [make_batch(0, torch.full((2, 17), N))], weight_decay=0.5)
    assert same(weights(learner), before)
    assert (step.loss, step.bases, step.gradient_norm, step.skipped) == (0.0, 0, 0.0, False)
    assert not loop.optimiser.state_dict()["state"]


def test_the_gradient_is_clipped():
    learner = make_learner()
    before = weights(learner)
    loop, (step,) = fit(learner, [make_batch(0, random_ids(0))], clip=1e-3)
    assert step.gradient_norm > 1e-3
    moments = [entry["exp_avg"] / 0.1 for entry in loop.optimiser.state_dict()["state"].values()]
    assert math.sqrt(sum(float(one.square().sum()) for one in moments)) == pytest.approx(1e-3, rel=1e-2)
    assert not same(weights(learner), before)


@pytest.mark.parametrize(("reset", "carried"), [(False, True), (True, False)])
def test_lanes_continue_until_they_start_afresh(reset, carried):
    # With a rate of 0 the second loss depends on the first batch through the state alone.
    ids = random_ids(0, width=33)
    second = []
    for first in (ids[:, :17], random_ids(1)):
        learner = make_learner(carry=True)
        batches = [make_batch(0, first), make_batch(1, ids[:, 16:], reset=reset)]
        second.append(fit(learner, batches, lr=1e-30, weight_decay=0.0)[1][1].loss)
    assert (second[0] != second[1]) is carried
