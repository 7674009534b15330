"""An answer for each base: windows of a genome as batches, features of an annotation as labels, held out by region."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
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
from titans_dna.metrics import SIDES, TOLERANCES, Estimate, evaluate_bases, evaluate_segments, validation_loss
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.reading.stream import group, padded
from titans_dna.run.files import markdown, replacing
from titans_dna.tasks.options import BaseOptions, FinetuneOptions
from titans_dna.tasks.predict import IntervalWriter
from titans_dna.tasks.results import Scored, summary
from titans_dna.tasks.score import score_bases, smooth_rows
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
        margin = options.tune.margin
        self.question = Question(task, self.data.classes, "base", both_strands=both, window=window, margin=margin)
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
        stretches = stretches_of(self.data.test)
        for run, one in zip(runs, scores, strict=True):
            chosen = np.where(known, one.argmax(axis=1), labels)
            found = evaluate_segments(labels, chosen, stretches, backward=self._backward)
            run |= {metric: Estimate(value, math.nan, math.nan) for metric, value in found.items()}
        return Scored(name, seeds, runs, [])

    @property
    def _backward(self) -> list[int]:
        """Numbers of the classes of the reverse strand."""
        other = self.data.labels.other_strand
        return [number for number, one in enumerate(other) if one < number]

    def more(self, scored: list[Scored]) -> str:
        """See `finetune.Job`: how many segments are found, and how well their ends are."""
        names = [f"{what}_{one}" for what in ("segment", "start", "end") for one in SIDES]
        heads = ["model", "within, bases", *(name.replace("_", " ") for name in names)]
        rows = [
            [one.name, str(within), *(summary(one.all, f"{name}_{within}") for name in names)]
            for one in scored
            for within in TOLERANCES
        ]
        return (
            "\nSegments are runs of bases of one class. Precision: the share of those that are predicted whose start, end, or "
            "both lie within so many bases of those of a true one; recall: the share of the true ones that are found so. Of a "
            "class of the reverse strand the start is the right end. What a border of held-out sequence cuts is left out.\n\n"
            + markdown(heads, rows)
        )

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


def stretches_of(windows: list[Window]) -> np.ndarray:
    """The number of the stretch of sequence of each base of windows; windows that touch are of one."""
    new = [0, *((one.contig, one.end) != (other.contig, other.start) for one, other in pairwise(windows))]
    return np.repeat(np.cumsum(new), [window.end - window.start for window in windows])


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
        found = [self.data.around(window, model.question.margin) for window in windows]
        sequences, kept = [letters for letters, _ in found], [wanted for _, wanted in found]
        return np.concatenate(score_bases(model, sequences, kept=kept, batch_bases=self.batch_bases, title=title))

    def metrics(self, scores: np.ndarray, split: str, resamples: int = 0) -> dict[str, Estimate]:
        """Over the known bases, with intervals over windows."""
        labels, known, windows = self._of(split)
        return evaluate_bases(labels[known], scores[known], windows[known], resamples=resamples)

    def segments(self, scores: np.ndarray, split: str) -> float:
        """F1 of segments whose ends are within the largest tolerance; 0 where there are none."""
        labels, known, _ = self._of(split)
        chosen = np.where(known, scores.argmax(axis=1), labels)
        found = evaluate_segments(labels, chosen, stretches_of(getattr(self.data, split)))
        precision, recall = (found[f"segment_{side}_{TOLERANCES[-1]}"] for side in SIDES)
        return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0

    def smoothed(self, scores: np.ndarray, split: str, question: Question) -> np.ndarray:
        """Window by window, each alone."""
        sizes = np.bincount(self._of(split).windows)
        return np.concatenate(smooth_rows(np.split(scores, np.cumsum(sizes)[:-1]), question))

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
