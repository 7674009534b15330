"""Training on planted words: short sequences first, the loss on the values that are asked for."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from needle.models import PRICE, PRICED, NeedleModel, build
from needle.options import NeedleOptions
from needle.words import training_rows
from titans_dna.train import learner as learning
from titans_dna.train.learner import Learner
from titans_dna.train.loop import Loop, Machine, Settings
from titans_dna.train.loss import WRITE_FROM, price_of_writing, watched_gates

FIRST_LENGTH = 128
TIMED = 8
"""Steps by which the time of one is measured."""
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
    model: NeedleModel, background: np.ndarray, options: NeedleOptions, seed: int, name: str = "", title: str = ""
) -> list[Step]:
    """All steps. Sequences are a function of seed and step alone, so every model sees the same ones.

    Only the bases of questions are learned. name: of the model, which says whether it pays for what it writes. title: of the
    progress; none: silent. Raises ValueError where the loss is not finite.
    """
    wanted, learner = options.train, _Recall(model, background, options, seed, PRICE if name in PRICED else 0.0)

    def rate(step: int) -> float:
        # Of its own: the cosine begins with the warm-up, not after it, and the figures in the documents are of this one.
        number = step + 1
        return wanted.lr * min(1, number / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * number / wanted.steps))

    model.train()
    done = Loop(
        learner,
        torch.optim.AdamW(model.parameters(), lr=wanted.lr, weight_decay=WEIGHT_DECAY),
        Settings(wanted.steps, rate, clip=CLIP, most_skipped=1),
        Machine("cpu"),
        title=title,
    ).run(lambda step, fabric: ([learner.rows(number)] for number in itertools.count(step + 1)))
    if done.outcome == "diverged":
        raise ValueError(
            f"--lr: got {wanted.lr}, and loss or gradient was not finite at step {done.step}; want a lower one"
        )
    model.eval()
    return learner.done


def length_at(step: int, steps: int, longest: int) -> int:
    """Tokens of the sequences of a step: a doubling from 128 up, the first half of all steps before the longest."""
    lengths = [longest]
    while lengths[0] > FIRST_LENGTH:
        lengths.insert(0, lengths[0] // 2)
    shorter = len(lengths) - 1
    return lengths[min(shorter, (step - 1) * 2 * shorter // steps)] if shorter else longest


def steps_in(name: str, background: np.ndarray, options: NeedleOptions) -> int:
    """Steps of a model that take `--seconds` of CPU time: a few are timed, at the full length."""
    few = dataclasses.replace(options, train=dataclasses.replace(options.train, steps=TIMED))
    model = build(name, options)
    train(model, background, few, 0, name)  # the first steps make threads and tables
    began = time.process_time()
    learner = _Recall(model.train(), background, few, 0, PRICE if name in PRICED else 0.0)
    for number in range(TIMED // 2 + 1, TIMED + 1):
        learner.loss(learner.rows(number)).backward()
    return max(1, round(options.train.seconds / ((time.process_time() - began) / (TIMED - TIMED // 2))))


class _Recall(Learner):
    """A model that learns the values of planted pairs; a part is ids [b, t] and which of them are asked for."""

    def __init__(
        self, model: NeedleModel, background: np.ndarray, options: NeedleOptions, seed: int, price: float
    ) -> None:
        super().__init__(model, seed)
        self.price, self._number = price, 0
        self.background, self.options, self.done = background, options, list[Step]()
        self._length, self._accuracy = 0, 0.0

    def rows(self, number: int) -> tuple[Tensor, Tensor]:
        """The sequences of a step, counted from 1."""
        task, wanted = self.options.task, self.options.train
        self._number = number
        length = length_at(number, wanted.steps, wanted.train_length)
        rows = max(1, wanted.batch * wanted.train_length // length)
        rng = np.random.default_rng((self.seed, number))
        ids, asked = training_rows(rng, self.background, rows, length, task.key_lengths, task.value_length)
        return torch.from_numpy(ids).long(), torch.from_numpy(asked)

    def loss(self, part: tuple[Tensor, Tensor]) -> Tensor:
        ids, asked = part
        targets, at = ids[:, 1:], asked[:, 1:]
        priced = self.price > 0 and self._number > WRITE_FROM * self.options.train.steps
        with watched_gates(self.model) if priced else nullcontext() as seen:
            logits = self.model(ids[:, :-1]).logits[at]
        self._length = ids.shape[1]
        self._accuracy = float((logits.argmax(-1) == targets[at]).float().mean())
        loss = F.cross_entropy(logits, targets[at])
        return loss + self.price * price_of_writing(seen) if seen else loss

    def row(self, step: learning.Step, found: dict[str, float] | None) -> None:
        del found
        self.done.append(Step(step.number, self._length, step.loss, self._accuracy))

    def note(self, step: learning.Step) -> str:
        return f"{self._length:,} tokens, loss {step.loss:.3f}, {100 * self._accuracy:.0f} % of the asked bases"
