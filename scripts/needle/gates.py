"""What a trained model's gates do: they say why its curve falls, or does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from needle.probe import Test
from titans_dna.nn.memory import NeuralMemory
from titans_dna.nn.model import TitansDNA


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


@contextmanager
def watched(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """While it lasts, each block's gates before the sigmoid, [b, t, heads * gates] call by call.

    An empty list for a model without a memory.
    """
    memories = [module for module in model.modules() if isinstance(module, NeuralMemory)]
    seen: list[list[Tensor]] = [[] for _ in memories]
    hooks = [
        memory.gates.register_forward_hook(lambda module, inputs, raw, kept=kept: kept.append(raw))
        for memory, kept in zip(memories, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def read_gates(model: nn.Module, test: Test) -> Gates | None:
    """The gates while the planted part of a test is read; None for a model without a memory."""
    if not isinstance(model, TitansDNA):
        return None
    with watched(model) as seen:
        model(torch.from_numpy(test.planted).long())
    # Persistent tokens come first, and MAC calls its memory segment by segment.
    length = test.planted.shape[1]
    raw = torch.stack([torch.cat(parts, dim=1)[:, -length:] for parts in seen])  # [blocks, rows, t, gates]
    memory = next(module for module in model.modules() if isinstance(module, NeuralMemory))
    gates = memory.by_gate(raw.double().sigmoid())
    rate = gates["theta"]
    forget = gates.get("alpha", torch.zeros_like(rate))
    needle = torch.from_numpy(test.inside)
    slowest = float(forget[:, ~needle].mean(1).min())
    means = [float(gate[:, part].mean()) for gate in (forget, rate) for part in (~needle, needle)]
    forgets, forgets_needle, learns, learns_needle = means
    return Gates(forgets, forgets_needle, learns, learns_needle, math.log(2) / slowest if slowest > 0 else math.inf)
