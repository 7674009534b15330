"""Which parameters decay, and how large each step is."""

import math

import pytest
from torch import nn

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.train.optimiser import learning_rate, parameter_groups
from titans_dna.train.options import OptimiserOptions


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
@pytest.mark.parametrize("tied", [True, False])
def test_only_matrices_decay(variant, tied):
    model = TitansDNA(TitansConfig.preset("tiny", variant=variant, tie_embeddings=tied))
    decayed, spared = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = ([names[id(one)] for one in group["params"]] for group in (decayed, spared))
    assert sorted(decayed + spared) == sorted(names.values())
    assert "embedding.weight" in spared
    assert ("head.weight" in decayed) is not tied
    assert any("memory" in name for name in decayed)
    assert not any(name.endswith("bias") or "norm" in name or "initial_memory" in name for name in decayed)
    assert not any("persistent" in name for name in decayed)
    assert any("initial_memory" in name for name in spared)
    assert any("persistent" in name for name in spared) is (variant != "lmm")


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, 0.1)] == [1, 1]


@pytest.mark.parametrize(
    ("step", "wanted"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (9, 0.1 + 0.45 * (1 + math.cos(math.pi / 2))), (14, 0.1), (99, 0.1)],
)
def test_warm_up_then_cosine(step, wanted):
    options = OptimiserOptions(steps=15, lr=1.0, min_lr=0.1, warmup=4)
    assert learning_rate(step, options) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 1), (3, 5)])
def test_short_runs_have_a_rate(steps, warmup):
    options = OptimiserOptions(steps=steps, lr=1.0, min_lr=0.1, warmup=warmup)
    assert all(0 < learning_rate(step, options) <= 1 for step in range(steps))
