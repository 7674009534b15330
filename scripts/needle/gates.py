"""What a trained model's gates do: they say why its curve falls, or does not."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from needle.probe import Test
from titans_dna.nn.model import TitansDNA
from titans_dna.train.loss import watched_gates


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
def read_gates(model: nn.Module, test: Test) -> Gates | None:
    """The gates while the planted part of a test is read; None for a model without a memory."""
    if not isinstance(model, TitansDNA):
        return None
    with watched_gates(model) as seen:
        model(torch.from_numpy(test.planted).long())
    if not seen:
        return None
    # Persistent tokens come first, and MAC calls its memory segment by segment.
    length = test.planted.shape[1]
    raw = torch.stack([torch.cat(parts, dim=1)[:, -length:] for _, parts in seen])  # [blocks, rows, t, gates]
    memory = seen[0][0]
    gates = memory.by_gate(raw.double().sigmoid())
    rate = gates["theta"]
    forget = gates.get("alpha", torch.zeros_like(rate))
    if memory.config.forget_on_write:
        forget = forget * rate
    needle = torch.from_numpy(test.inside)
    slowest = float(forget[:, ~needle].mean(1).min())
    means = [float(gate[:, part].mean()) for gate in (forget, rate) for part in (~needle, needle)]
    forgets, forgets_needle, learns, learns_needle = means
    return Gates(forgets, forgets_needle, learns, learns_needle, math.log(2) / slowest if slowest > 0 else math.inf)
