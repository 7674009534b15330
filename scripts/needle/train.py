"""Training on planted words: short sequences first, the loss on the values that are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from needle.models import NeedleModel
from needle.options import NeedleOptions
from needle.words import training_rows

FIRST_LENGTH = 128
WARM_UP, CLIP, WEIGHT_DECAY = 30, 1.0, 0.01


class Step(NamedTuple):
    """One step of the optimiser."""

    number: int
    length: int
    """Tokens of its sequences."""
    loss: float
    """Nats per asked base; ln 4 = 1.39 is chance."""
    accuracy: float
    """Share of the asked bases."""


def train(
    model: NeedleModel,
    background: np.ndarray,
    options: NeedleOptions,
    seed: int,
    said: Callable[[Step], None] = lambda step: None,
) -> list[Step]:
    """All steps. Sequences are a function of seed and step alone, so every model sees the same ones.

    Only the bases of questions are learned.
    Raises ValueError where the loss is not finite.
    """
    task, wanted = options.task, options.train
    optimiser = torch.optim.AdamW(model.parameters(), lr=wanted.lr, weight_decay=WEIGHT_DECAY)
    model.train()
    done = []
    for number in range(1, wanted.steps + 1):
        length = length_at(number, wanted.steps, wanted.train_length)
        rows = max(1, wanted.batch * wanted.train_length // length)
        rng = np.random.default_rng((seed, number))
        ids, asked = training_rows(rng, background, rows, length, task.key_lengths, task.value_length)
        for group in optimiser.param_groups:
            group["lr"] = wanted.lr * min(1, number / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * number / wanted.steps))
        loss, accuracy = _learn(model, optimiser, torch.from_numpy(ids).long(), torch.from_numpy(asked))
        if not math.isfinite(loss):
            raise ValueError(f"--lr: got {wanted.lr}, and the loss was not finite at step {number}; want a lower one")
        done.append(Step(number, length, loss, accuracy))
        said(done[-1])
    model.eval()
    return done


def length_at(step: int, steps: int, longest: int) -> int:
    """Tokens of the sequences of a step: a doubling from 128 up, the first half of all steps before the longest."""
    lengths = [longest]
    while lengths[0] > FIRST_LENGTH:
        lengths.insert(0, lengths[0] // 2)
    shorter = len(lengths) - 1
    return lengths[min(shorter, (step - 1) * 2 * shorter // steps)] if shorter else longest


def _learn(model: NeedleModel, optimiser: torch.optim.Optimizer, ids: Tensor, asked: Tensor) -> tuple[float, float]:
    targets, at = ids[:, 1:], asked[:, 1:]
    logits = model(ids[:, :-1]).logits[at]
    loss = F.cross_entropy(logits, targets[at])
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimiser.step()
    return loss.item(), float((logits.argmax(-1) == targets[at]).float().mean())
