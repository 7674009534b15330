"""Which parameters decay, and how large each step is."""

import math

import pytest
import torch
from torch import nn

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.train.learner import adamw, muon_adamw, parameter_groups, warmup_cosine


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
    model[1].bias.requires_grad_(False)
    assert [len(group["params"]) for group in adamw(model, 0.1, (0.9, 0.95)).param_groups] == [1]


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(variant):
    model = TitansDNA(TitansConfig.preset("tiny", variant=variant))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, *rest = muon_adamw(model, 0.1, (0.9, 0.95), relative=5.0).param_groups
    matrices = [names[id(one)] for one in muon["params"]]
    others = [names[id(one)] for group in rest for one in group["params"]]
    assert sorted(matrices + others) == sorted(names.values())
    assert all(name.startswith("blocks.") and name.endswith(".weight") for name in matrices)
    for layer in ("qkv", "output", "output_gate", "gate_up", "down"):
        assert sum(f".{layer}." in name for name in matrices) >= 2
    for other in ("embedding.", "head.", "norm", "convolution", ".gates.", "bias", "initial_memory", "persistent"):
        assert not any(other in name for name in matrices)
        assert other == "persistent" or any(other in name for name in others)
    assert (muon["weight_decay"], muon["relative"]) == (0.1, 5.0)
    assert [group["weight_decay"] for group in rest] == [0.1, 0.0]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(24, 16)])
        self.head = nn.Linear(16, 3)


def gradients(model):
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def test_a_step_of_muon_is_the_orthogonal_factor_of_the_gradients():
    """Against the singular value decomposition, in float64: Muon's iteration brings every singular value near to 1."""
    model = Small()
    before = model.blocks[0].weight.detach().clone()
    optimiser = muon_adamw(model, 0.1, (0.9, 0.95), relative=4.0)
    for group in optimiser.param_groups:
        group["lr"] = 0.01 * group.get("relative", 1.0)
    gradients(model)
    left, _, right = torch.linalg.svd(model.blocks[0].weight.grad.double(), full_matrices=False)
    optimiser.step()
    moved = (
        before * (1 - 0.04 * 0.1) - model.blocks[0].weight.detach()
    ).double() / 0.04  # 16 x 24: no factor for its shape
    along = left.T @ moved @ right.T
    assert along.diag().min() > 0.6
    assert along.diag().max() < 1.3
    assert (along - along.diag().diag()).abs().max() < 0.1


def test_the_rest_is_stepped_by_adamw_bit_for_bit():
    models = [Small(), Small()]
    both = muon_adamw(models[0], 0.1, (0.9, 0.95), relative=4.0), adamw(models[1], 0.1, (0.9, 0.95))
    for model, optimiser in zip(models, both, strict=True):
        for step in range(3):
            torch.manual_seed(step)
            gradients(model)
            for group in optimiser.param_groups:
                group["lr"] = 0.01
            optimiser.step()
            optimiser.zero_grad()
            assert all(parameter.grad is None for parameter in model.parameters())
    for (name, one), (_, other) in zip(*(model.named_parameters() for model in models), strict=True):
        assert torch.equal(one, other) is (name != "blocks.0.weight")


def test_muon_without_a_matrix_is_refused():
    with pytest.raises(
        ValueError, match="--optimizer: got muon for a model in whose blocks no matrix is trained, want adamw"
    ):
        muon_adamw(nn.Linear(2, 2), 0.1, (0.9, 0.95), relative=1.0)


@pytest.mark.parametrize(
    ("step", "wanted"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (9, 0.1 + 0.45 * (1 + math.cos(math.pi / 2))), (14, 0.1), (99, 0.1)],
)
def test_warm_up_then_cosine(step, wanted):
    found = warmup_cosine(step, warmup=4, rise=4, fall=10, high=1.0, low=0.1)
    assert found == pytest.approx(wanted, rel=1e-12)
    assert warmup_cosine(step, warmup=4, rise=4, fall=10, high=1.0, low=0.1, scale=3.0) == pytest.approx(3 * wanted)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 1), (3, 5)])
def test_short_runs_have_a_rate(steps, warmup):
    rates = [
        warmup_cosine(step, warmup=warmup, rise=warmup, fall=steps - 1 - warmup, high=1.0, low=0.1)
        for step in range(steps)
    ]
    assert all(0 < rate <= 1 for rate in rates)


def test_the_rates_of_version_0_1_0():
    """Bit for bit: pretraining's, and fine-tuning's, whose warm-up is a share of the steps and may end between two."""
    for steps, warmup in ((1, 0), (7, 3), (1000, 100), (4, 9)):
        for step in range(steps):
            found = warmup_cosine(step, warmup=warmup, rise=warmup, fall=steps - 1 - warmup, high=2e-3, low=3e-4)
            if step < warmup:
                assert found == 2e-3 * (step + 1) / warmup
            else:
                span = steps - 1 - warmup
                done = min((step - warmup) / span, 1.0) if span > 0 else 1.0
                assert found == 3e-4 + 0.5 * (2e-3 - 3e-4) * (1 + math.cos(math.pi * done))
    for steps, share in ((1, 0.05), (2, 0.5), (27, 0.05), (901, 0.1)):
        warmup = share * steps
        for step in range(steps):
            fall = max(1.0, steps - 1 - warmup)
            found = warmup_cosine(step, warmup=warmup, rise=warmup + 1, fall=fall, high=1.0, low=0.05, scale=1.7e-3)
            if step < warmup:
                assert found == 1.7e-3 * (step + 1) / (warmup + 1)
            else:
                done = (step - warmup) / fall
                assert found == 1.7e-3 * (0.05 + (1 - 0.05) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
