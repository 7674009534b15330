"""An answer for each base: windows of a genome as batches, features of an annotation as labels, held out by region."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_dna.baselines.bases import Bases, baselines, gather
from titans_dna.genome.genome import open_genomes
from titans_dna.genome.intervals import (
    Interval,
    Split,
    read_bed,
    split_by_bed,
    split_by_blocks,
    split_by_contig,
    want_split,
)
from titans_dna.genome.sampler import Window
from titans_dna.labels.annotation import Met, read_annotation
from titans_dna.labels.windows import LabelledGenome
from titans_dna.metrics import Estimate, evaluate_bases, validation_loss
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.reading.stream import group, padded
from titans_dna.run.files import replacing
from titans_dna.tasks.options import BaseOptions, FinetuneOptions
from titans_dna.tasks.predict import IntervalWriter
from titans_dna.tasks.results import Scored
from titans_dna.tasks.score import score_bases, smoothed
from titans_dna.tasks.votes import Votes
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import Tokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

PREDICTIONS = "predictions.bed"
RESAMPLES = 200


class BaseJob:
    """Bases of a genome, and the features that they lie in."""

    split: str = "test"
    seeded: tuple[str, ...] = ()

    def __init__(self, options: FinetuneOptions) -> None:
        """Raises what `read_labelled_genome` raises."""
        self.options = options
        self._met = Met(Counter(), {})
        self.data = read_labelled_genome(options.bases, self._met)
        task = "binary" if len(self.data.classes) == 2 else "multiclass"
        both, window = options.tune.rc is not False, options.bases.context
        self.question = Question(task, self.data.classes, "base", both_strands=both, window=window)
        self._methods = {one.__name__: one for one in baselines(self.data)}
        self.baselines = tuple(self._methods)

    def describe(self) -> dict[str, Any]:
        """See `finetune.Job`."""
        classes = {name: number for number, name in enumerate(self.data.classes)}
        return {
            "source": str(self.data.genome),
            "fingerprint": self.data.fingerprint(),
            "task": self.question.task,
            "label_map": classes,
            "rows": {name: sum(map(len, part)) for name, part in self.data.split._asdict().items()},
            "baselines": list(self.baselines),
        }

    def lines(self) -> list[str]:
        """See `finetune.Job`."""
        bases = ", ".join(f"{sum(map(len, part)):,} {name}" for name, part in self.data.split._asdict().items())
        features = ", ".join(f"{number:,} {name}" for name, number in self.data.labels.features.items())
        lines = [
            f"data: {self.data.genome}: {bases} bases in windows of {self.data.context:,}; {', '.join(self.data.classes)}",
            f"features: {features}",
        ]
        absent, renamed = self._met
        if absent:
            named = _some([f"{number:,} of {name}" for name, number in absent.most_common()])
            lines.append(f"left out: {absent.total():,} feature(s) of contigs that the genome does not have ({named})")
        if renamed:
            lines.append(f"contigs: {_some([f'{name} is {contig}' for name, contig in renamed.items()])}")
        return lines

    def report(self) -> str:
        """See `finetune.Job`."""
        return self.data.report().markdown()

    def check(self, tokenizer: Tokenizer) -> None:
        """See `finetune.Job`."""
        if not isinstance(tokenizer, NucleotideTokenizer):
            raise ValueError(f"--model: its tokenizer is {tokenizer.name}, want one token per base to label bases")

    def prepare(self, tokenizer: Tokenizer) -> None:
        """See `finetune.Job`: nothing."""

    def examples(self, tokenizer: Tokenizer, seed: int) -> BaseExamples:
        """See `finetune.Job`."""
        return BaseExamples(
            self.data,
            self.question,
            batch_size=self.options.batch_size,
            batch_bases=self.options.train.batch_bases,
            augment=self.options.tune.rc_augment is not False,
            seed=seed,
        )

    def baseline(self, name: str, seed: int) -> np.ndarray:
        """See `finetune.Job`."""
        return self._methods[name](self.data, seed)

    def scored(self, name: str, seeds: list[int], scores: list[np.ndarray]) -> Scored:
        """See `finetune.Job`."""
        labels, known, windows = gather(self.data, self.data.test)
        runs = [evaluate_bases(labels[known], one[known], windows[known], resamples=RESAMPLES) for one in scores]
        return Scored(name, seeds, runs, [])

    def write(self, directory: Path, scores: np.ndarray) -> None:
        """Predicted features of the test windows as BED."""
        with replacing(directory / PREDICTIONS) as aside, open(aside, "w", encoding="utf-8", newline="\n") as out:
            writer, start = IntervalWriter(out, self.data.classes), 0
            for window in self.data.test:
                letters = self.data.example(window).bases
                writer.add(Interval(*window[:3]), letters, scores[start : start + len(letters)])
                start += len(letters)
            writer.close()


def _some(parts: list[str], most: int = 3) -> str:
    return ", ".join([*parts[:most], *["…"] * (len(parts) > most)])


def read_labelled_genome(options: BaseOptions, met: Met | None = None) -> LabelledGenome:
    """Genome, features and split as the options say; raises what reading them raises. met: as `read_annotation` has it."""
    genome = open_genomes(options.fasta)
    features = read_annotation(
        options.annotation or "",
        genome,
        features=options.features or None,
        class_by=options.class_by,
        met=met,
    )
    return LabelledGenome(genome, features, _split(options, genome), context=options.context, stranded=options.stranded)


def _split(options: BaseOptions, genome: Any) -> Split:
    if options.bed is not None:
        rows = read_bed(options.bed, genome)
        want_split(options.bed, rows, every=True)
        return split_by_bed(rows, context=options.context)
    if options.test_contigs:
        return split_by_contig(genome, valid=options.valid_contigs, test=options.test_contigs, context=options.context)
    return split_by_blocks(genome, valid_fraction=0.1, test_fraction=0.1, block=options.block, context=options.context)


class BaseExamples:
    """Windows of a `LabelledGenome` for one seed; see `fit.Examples`."""

    votes: Votes | None = None

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

    def scores(self, model: FineTuned, split: str, title: str = "") -> np.ndarray:
        """Probabilities of the windows of a split, laid end to end: float64 [bases, classes]."""
        windows: list[Window] = getattr(self.data, split)
        sequences = [self.data.example(window).bases for window in windows]
        return np.concatenate(score_bases(model, sequences, batch_bases=self.batch_bases, title=title))

    def metrics(self, scores: np.ndarray, split: str, resamples: int = 0) -> dict[str, Estimate]:
        """Over the known bases, with intervals over windows."""
        labels, known, windows = self._of(split)
        return evaluate_bases(labels[known], scores[known], windows[known], resamples=resamples)

    def transitions(self) -> tuple[tuple[float, ...], ...]:
        """How often a base of each class is followed by one of each in the training windows."""
        classes = len(self.data.classes)
        counts = np.full((classes, classes), 0.5)
        for window in self.data.train:
            _, labels, known = self.data.example(window)
            pairs = labels[:-1].astype(np.int64) * classes + labels[1:]
            found = np.bincount(pairs[known[:-1] & known[1:]], minlength=classes**2)
            counts += found.reshape(classes, classes)
        shares = counts / counts.sum(1, keepdims=True)
        return tuple(tuple(row) for row in shares.tolist())

    def smoothed(self, scores: np.ndarray, split: str, question: Question) -> np.ndarray:
        """Window by window, each alone."""
        if not question.transitions:
            return scores
        sizes = np.bincount(self._of(split).windows)
        there = np.arange(sizes.max()) < sizes[:, None]
        rows = np.zeros((*there.shape, scores.shape[1]))
        rows[there] = scores
        return smoothed(rows, there, question)[there]

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
