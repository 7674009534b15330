"""AdamW, its parameter groups, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

# Learned starting points and input-independent tokens: to pull them towards zero would be to forget them. A norm's
# gain is spared whatever its shape: there is one for each head.
UNDECAYED_NAMES = ("initial_memory", "persistent", "norm")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for AdamW: matrices, which decay, and the rest, which does not.

    The rest: parameters of one dimension (norms, biases), embeddings, initial memories and persistent tokens. A shared
    parameter (tied embedding) comes once, as an embedding. Order and membership depend on the model's structure alone.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed, undecayed = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim < 2 or id(parameter) in embeddings or any(part in name for part in UNDECAYED_NAMES)
        (undecayed if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]


def adamw(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, those without a parameter left out; the learning rate is set at each step."""
    groups = [group for group in parameter_groups(model, weight_decay) if group["params"]]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas)


def warmup_cosine(
    step: int, *, warmup: float, rise: float, fall: float, high: float, low: float, scale: float = 1.0
) -> float:
    """Learning rate of a step (from 0): linear until `warmup`, then a cosine from `high` to `low` over `fall` steps.

    rise: steps in which the line would reach `high`. fall: below 1, `low` comes at once. scale: of the whole curve.
    A pure function of the step, so that there is no schedule to save.
    """
    if step < warmup:
        return scale * high * (step + 1) / rise
    done = min((step - warmup) / fall, 1.0) if fall > 0 else 1.0
    return scale * (low + 0.5 * (high - low) * (1 + math.cos(math.pi * done)))
