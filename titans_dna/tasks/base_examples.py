"""Labelled windows of a genome as batches, and scores of every base of a window."""

from __future__ import annotations

import math

import numpy as np
import torch

from titans_dna.baselines.bases import Bases, gather
from titans_dna.genome.stretches import Window
from titans_dna.labels.windows import LabelledGenome
from titans_dna.metrics.bases import evaluate_bases
from titans_dna.metrics.sequences import Estimate, validation_loss
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.reading.stream import group, padded
from titans_dna.tasks.score import score_bases
from titans_dna.tokens.nucleotide import NucleotideTokenizer
from titans_dna.tokens.strands import reverse_complement


class BaseExamples:
    """Windows of a `LabelledGenome` for one seed; see `examples.Examples`."""

    def __init__(
        self,
        data: LabelledGenome,
        question: Question,
        *,
        batch_size: int,
        batch_bases: int,
        augment: bool,
        seed: int,
    ) -> None:
        self.data, self.question = data, question
        self.batch_size, self.batch_bases, self.augment, self.seed = batch_size, batch_bases, augment, seed
        bases = sum(map(len, data.split.train))
        self.epoch_steps = math.ceil(bases / (batch_size * data.context))
        self._bases: dict[str, Bases] = {}

    def step(self, number: int) -> list[Batch]:
        """Windows at random places of the training intervals."""
        windows = self.data.draw(self.seed, number, self.batch_size, reverse_complement=self.augment)
        lengths = np.array([window.end - window.start for window in windows])
        return [self._batch([windows[i] for i in part]) for part in group(lengths, bases=self.batch_bases)]

    def scores(self, model: FineTuned, split: str) -> np.ndarray:
        """Probabilities of the windows of a split, laid end to end: float64 [bases, classes]."""
        windows: list[Window] = getattr(self.data, split)
        sequences = [self.data.example(window).bases for window in windows]
        return np.concatenate(score_bases(model, sequences, batch_bases=self.batch_bases))

    def metrics(self, scores: np.ndarray, split: str, resamples: int = 0) -> dict[str, Estimate]:
        """Over the known bases, with intervals over windows."""
        labels, known, windows = self._of(split)
        return evaluate_bases(labels[known], scores[known], windows[known], resamples=resamples)

    def loss(self, scores: np.ndarray, split: str) -> float:
        """Mean cross-entropy of the known bases."""
        labels, known, _ = self._of(split)
        return validation_loss(self.question.task, labels[known], scores[known])

    def _of(self, split: str) -> Bases:
        if split not in self._bases:
            self._bases[split] = gather(self.data, getattr(self.data, split))
        return self._bases[split]

    def _batch(self, windows: list[Window]) -> Batch:
        examples = [self.data.example(window) for window in windows]
        tokenizer, letters = NucleotideTokenizer(), [one.bases for one in examples]
        ids, widths = padded(letters, tokenizer)
        labels = np.full(ids.shape, -1)
        for row, one in enumerate(examples):
            labels[row, : len(one.labels)] = np.where(one.known, one.labels.astype(np.int64), -1)
        turned = [reverse_complement(one) for one in letters]
        other = padded(turned, tokenizer)[0] if self.question.both_strands else None
        return Batch(ids, widths, torch.from_numpy(labels), other)
