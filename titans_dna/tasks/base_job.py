"""An answer for each base: features of an annotation, held out by region; see `job.Job`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from titans_dna.baselines.bases import baselines, gather
from titans_dna.genome.genome import open_genomes
from titans_dna.genome.intervals import Split, read_bed, split_by_bed, split_by_contig
from titans_dna.genome.regions import Interval
from titans_dna.labels.annotation import read_annotation
from titans_dna.labels.windows import LabelledGenome, split_bases_by_blocks
from titans_dna.metrics.bases import evaluate_bases
from titans_dna.run.files import replacing
from titans_dna.tasks.base_examples import BaseExamples
from titans_dna.tasks.intervals_out import IntervalWriter
from titans_dna.tasks.model import Question
from titans_dna.tasks.options import BaseOptions, FinetuneOptions
from titans_dna.tasks.results import Scored
from titans_dna.tokens.tokenizer import NucleotideTokenizer, Tokenizer

PREDICTIONS = "predictions.bed"
RESAMPLES = 200


class BaseJob:
    """Bases of a genome, and the features that they lie in."""

    split: str = "test"
    seeded: tuple[str, ...] = ()

    def __init__(self, options: FinetuneOptions) -> None:
        """Raises what `read_labelled_genome` raises."""
        self.options = options
        self.data = read_labelled_genome(options.bases)
        task = "binary" if len(self.data.classes) == 2 else "multiclass"
        both, window = options.tune.rc, options.bases.context
        self.question = Question(task, self.data.classes, "base", both_strands=both, window=window)
        self._methods = {one.__name__: one for one in baselines(self.data)}
        self.baselines = tuple(self._methods)

    def describe(self) -> dict[str, Any]:
        """See `Job`."""
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
        """See `Job`."""
        bases = ", ".join(f"{sum(map(len, part)):,} {name}" for name, part in self.data.split._asdict().items())
        return [
            f"data: {self.data.genome}: {bases} bases in windows of {self.data.context:,}; {', '.join(self.data.classes)}"
        ]

    def report(self) -> str:
        """See `Job`."""
        return self.data.report().markdown()

    def check(self, tokenizer: Tokenizer) -> None:
        """See `Job`."""
        if not isinstance(tokenizer, NucleotideTokenizer):
            raise ValueError(f"--model: its tokenizer is {tokenizer.name}, want one token per base to label bases")

    def examples(self, tokenizer: Tokenizer, seed: int) -> BaseExamples:
        """See `Job`."""
        return BaseExamples(
            self.data,
            self.question,
            batch_size=self.options.batch_size,
            batch_bases=self.options.train.batch_bases,
            augment=self.options.tune.rc_augment,
            seed=seed,
        )

    def baseline(self, name: str, seed: int) -> np.ndarray:
        """See `Job`."""
        return self._methods[name](self.data, seed)

    def scored(self, name: str, seeds: list[int], scores: list[np.ndarray]) -> Scored:
        """See `Job`."""
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


def read_labelled_genome(options: BaseOptions) -> LabelledGenome:
    """Genome, features and split as the options say; raises what reading them raises."""
    genome = open_genomes(options.fasta)
    features = read_annotation(
        options.annotation or "", genome, features=options.features or None, class_by=options.class_by
    )
    return LabelledGenome(genome, features, _split(options, genome), context=options.context, stranded=options.stranded)


def _split(options: BaseOptions, genome: Any) -> Split:
    if options.bed is not None:
        return split_by_bed(read_bed(options.bed, genome), context=options.context)
    if options.test_contigs:
        return split_by_contig(genome, valid=options.valid_contigs, test=options.test_contigs, context=options.context)
    return split_bases_by_blocks(genome, block=options.block, context=options.context)
