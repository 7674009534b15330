"""AdamW's parameter groups, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from titans_dna.train.options import OptimiserOptions

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


def learning_rate(step: int, options: OptimiserOptions) -> float:
    """Learning rate of step number `step` (from 0): linear warm-up to `lr`, then a cosine that ends at `min_lr`.

    A pure function of the step, so that there is no schedule to save.
    """
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    span = options.steps - 1 - options.warmup
    done = min((step - options.warmup) / span, 1.0) if span > 0 else 1.0
    return options.min_lr + 0.5 * (options.lr - options.min_lr) * (1 + math.cos(math.pi * done))
