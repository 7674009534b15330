"""What a trained model's gates do: they say why its curve falls, or does not."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from titans_dna.bench.needle_probe import Test
from titans_dna.model import TitansDNA


class Gates(NamedTuple):
    """Means over rows, tokens, heads and blocks, unless it says otherwise."""

    forget_background: float
    """Forget gate alpha on bases of background."""
    forget_needle: float
    """On the tokens of planted pairs."""
    rate_background: float
    """Inner learning rate theta, as a share of the largest one."""
    rate_needle: float
    half_life: float
    """Bases of background in which the head that forgets least forgets half; infinite without forgetting."""


@torch.no_grad()
def read_gates(model: object, test: Test) -> Gates | None:
    """The gates while the planted part of a test is read; None for a model without a memory."""
    if not isinstance(model, TitansDNA):
        return None
    seen: dict[int, list[Tensor]] = {number: [] for number in range(len(model.blocks))}
    hooks = [
        block.memory.gates.register_forward_hook(  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
            lambda module, inputs, raw, kept=seen[number]: kept.append(raw)
        )
        for number, block in enumerate(model.blocks)
    ]
    try:
        model(torch.from_numpy(test.planted).long())
    finally:
        for hook in hooks:
            hook.remove()
    # Persistent tokens come first, and MAC calls its memory segment by segment.
    length = test.planted.shape[1]
    raw = torch.stack([torch.cat(parts, dim=1)[:, -length:] for parts in seen.values()])  # [blocks, rows, t, gates]
    rate, *rest = raw.double().sigmoid().unflatten(-1, (-1, model.config.heads)).unbind(-2)
    forget = rest[-1] if model.config.forgetting else torch.zeros_like(rate)
    needle = torch.from_numpy(test.inside)
    slowest = float(forget[:, ~needle].mean(1).min())
    means = [float(gate[:, part].mean()) for gate in (forget, rate) for part in (~needle, needle)]
    forgets, forgets_needle, learns, learns_needle = means
    return Gates(forgets, forgets_needle, learns, learns_needle, math.log(2) / slowest if slowest > 0 else math.inf)
