"""Labelled sequences as batches: of a step, a pure function of (seed, step); of a split, in order of length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from titans_dna.labels.data import LabelledData, Rows
from titans_dna.metrics.sequences import Estimate, evaluate, validation_loss
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.reading.stream import group, padded
from titans_dna.tasks.score import score_sequences
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import Tokenizer

SHUFFLED_TOGETHER = 32
"""Batches whose rows are sorted by length among themselves: enough for little padding, few enough for mixed batches."""

_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)


class Examples(Protocol):
    """What training and scoring need of labelled data."""

    question: Question
    epoch_steps: int
    """Steps of a pass over train."""

    def step(self, number: int) -> list[Batch]:
        """The batches of an optimiser step, a pure function of the seed and the number."""
        ...

    def scores(self, model: FineTuned, split: str) -> np.ndarray:
        """Scores of a split, in the order of its labels, as its metrics take them."""
        ...

    def metrics(self, scores: np.ndarray, split: str, resamples: int = 0) -> dict[str, Estimate]:
        """Metrics of such scores."""
        ...

    def loss(self, scores: np.ndarray, split: str) -> float:
        """Mean cross-entropy of such scores, or squared error."""
        ...


class SequenceExamples:
    """Rows of `LabelledData` for one seed."""

    def __init__(
        self,
        data: LabelledData,
        question: Question,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        batch_bases: int,
        augment: bool,
        mutate: float,
        seed: int,
    ) -> None:
        self.data, self.question, self.tokenizer, self.mutate = data, question, tokenizer, mutate
        self.batch_size, self.batch_bases, self.augment, self.seed = batch_size, batch_bases, augment, seed
        self.epoch_steps = math.ceil(len(data.train) / batch_size)
        self._lengths = data.train.lengths()
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def step(self, number: int) -> list[Batch]:
        """See `Examples`."""
        epoch, place = divmod(number, self.epoch_steps)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, shuffled_batches(self._lengths, self.batch_size, [self.seed, epoch]))
        chosen = self._epoch[1][place]
        rng = np.random.default_rng([self.seed, epoch, place])
        turn = rng.random(len(chosen)) < (0.5 if self.augment else 0.0)
        sequences = [self.data.train.sequences[i] for i in chosen]
        sequences = [reverse_complement(one) if other else one for one, other in zip(sequences, turn, strict=True)]
        if self.mutate:
            sequences = [mutated(one, self.mutate, rng) for one in sequences]
        labels = torch.from_numpy(self.data.train.labels[chosen].copy())
        return [
            Batch(*padded([sequences[i] for i in part], self.tokenizer), labels[torch.tensor(part)])
            for part in group(self._lengths[chosen], bases=self.batch_bases)
        ]

    def scores(self, model: FineTuned, split: str) -> np.ndarray:
        """See `Examples`."""
        return score_sequences(model, self._rows(split).sequences, batch_size=256, batch_bases=self.batch_bases)

    def metrics(self, scores: np.ndarray, split: str, resamples: int = 0) -> dict[str, Estimate]:
        """See `Examples`."""
        return evaluate(self.data.task, self._rows(split).labels, scores, resamples=resamples)

    def loss(self, scores: np.ndarray, split: str) -> float:
        """See `Examples`."""
        loss = validation_loss(self.data.task, self._rows(split).labels, scores)
        # Regression is learned in units of the deviation.
        return loss / self.question.deviation**2

    def _rows(self, split: str) -> Rows:
        return dict(self.data.splits())[split]


def shuffled_batches(lengths: np.ndarray, batch_size: int, seed: Sequence[int]) -> list[np.ndarray]:
    """Row numbers in batches of like lengths, the batches in random order; every row once, none longer than wanted."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), batch_size * SHUFFLED_TOGETHER):
        some = order[start : start + batch_size * SHUFFLED_TOGETHER]
        some = some[np.argsort(lengths[some], kind="stable")]
        batches += [some[i : i + batch_size] for i in range(0, len(some), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def mutated(letters: bytes, share: float, rng: np.random.Generator) -> bytes:
    """The sequence with each base replaced, with this probability, by one of A, C, G, T, the same one included."""
    found = np.frombuffer(letters, dtype=np.uint8)
    random = _LETTERS[rng.integers(4, size=len(found))]
    return np.where(rng.random(len(found)) < share, random, found).tobytes()
