"""What a run needs of its data, whether there is an answer for each sequence or for each base."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from titans_dna.baselines.cnn import cnn
from titans_dna.baselines.sequences import kmers, length, majority, positions
from titans_dna.labels.data import LabelledData
from titans_dna.labels.read import read_labelled
from titans_dna.labels.report import deduplicated, report
from titans_dna.metrics.predictions import plot_confusion, plot_roc, write_predictions
from titans_dna.metrics.sequences import Estimate, evaluate
from titans_dna.tasks.examples import Examples, SequenceExamples
from titans_dna.tasks.model import Question
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.results import Scored
from titans_dna.tokens.tokenizer import Tokenizer

PREDICTIONS, CONFUSION, ROC = "predictions.csv", "confusion.png", "roc.png"
RESAMPLES = 200


class Job(Protocol):
    """Data, question, baselines and what is written of them."""

    question: Question
    split: str
    """The split that the table is about: test, or valid where there is no test split."""
    baselines: tuple[str, ...]
    """Those that apply."""
    seeded: tuple[str, ...]
    """Baselines that depend on the seed."""

    def describe(self) -> dict[str, Any]:
        """Plain values for data.json; `fingerprint` changes with any sequence, label or split."""
        ...

    def lines(self) -> list[str]:
        """What the data are, in words."""
        ...

    def report(self) -> str:
        """Markdown: what to know before any figure is believed."""
        ...

    def check(self, tokenizer: Tokenizer) -> None:
        """ValueError for a model's tokeniser that cannot answer."""
        ...

    def examples(self, tokenizer: Tokenizer, seed: int) -> Examples:
        """Batches and scores for one seed."""
        ...

    def baseline(self, name: str, seed: int) -> np.ndarray:
        """Scores of `split` by a method that the model has to beat."""
        ...

    def scored(self, name: str, seeds: list[int], scores: list[np.ndarray]) -> Scored:
        """Metrics of such scores, with intervals."""
        ...

    def write(self, directory: Path, scores: np.ndarray) -> None:
        """Predictions and pictures."""
        ...


class SequenceJob:
    """An answer for each sequence."""

    seeded: tuple[str, ...] = ("cnn",)

    def __init__(self, options: FinetuneOptions) -> None:
        """Raises what `read_labelled` raises."""
        self.options = options
        self.data = read_data(options)
        self.question = _question(self.data, options)
        self.split = "test" if len(self.data.test) else "valid"
        alike = len(set(self.data.train.lengths().tolist())) == 1
        self.baselines = ("majority", "length", "kmers", *(["positions"] if alike else []), "cnn")
        self._shown = scored_part(self.data)
        self._unseen = unseen_rows(self.data) if self.split == "test" else None

    def describe(self) -> dict[str, Any]:
        """See `Job`."""
        data = self.data
        rows = {name: len(some) for name, some in data.splits()}
        return {
            "source": data.source,
            "fingerprint": data.fingerprint(),
            "task": data.task,
            "label_map": data.label_map,
            "rows": rows,
            "baselines": list(self.baselines),
        }

    def lines(self) -> list[str]:
        """See `Job`."""
        data = self.data
        rows = ", ".join(f"{len(some):,} {name}" for name, some in data.splits())
        classes = f" ({', '.join(data.classes[:8])}{', …' * (len(data.classes) > 8)})" if data.classes else ""
        return [f"data: {data.source}: {rows} rows; {data.task}{classes}"]

    def report(self) -> str:
        """See `Job`."""
        return report(self.data).markdown()

    def check(self, tokenizer: Tokenizer) -> None:
        """See `Job`: any will do."""

    def examples(self, tokenizer: Tokenizer, seed: int) -> SequenceExamples:
        """See `Job`."""
        train = self.options.train
        return SequenceExamples(
            self.data,
            self.question,
            tokenizer,
            batch_size=self.options.batch_size,
            batch_bases=train.batch_bases,
            augment=self.options.tune.rc_augment,
            mutate=self.options.tune.mutate,
            seed=seed,
        )

    def baseline(self, name: str, seed: int) -> np.ndarray:
        """See `Job`."""
        methods: dict[str, Callable[[LabelledData, int], np.ndarray]] = {
            "majority": majority, "length": length, "kmers": kmers, "positions": positions, "cnn": cnn
        }  # fmt: skip
        return methods[name](self._shown, seed)

    def scored(self, name: str, seeds: list[int], scores: list[np.ndarray]) -> Scored:
        """See `Job`."""
        return score_rows(name, seeds, scores, self._shown, self._unseen)

    def write(self, directory: Path, scores: np.ndarray) -> None:
        """See `Job`."""
        write_pictures(directory, self._shown, scores)


def read_data(options: FinetuneOptions) -> LabelledData:
    """The labelled sequences that the options name."""
    labels = options.labels
    return read_labelled(
        labels.data,
        valid=labels.valid or None,
        test=labels.test or None,
        sequence=labels.sequence_column,
        label=labels.label_column,
        split=labels.split_column,
        name=labels.name_column,
        task=None if labels.task == "auto" else labels.task,
        min_length=labels.min_length or None,
        valid_fraction=labels.valid_fraction,
        root=labels.root,
    )


def scored_part(data: LabelledData) -> LabelledData:
    """With the rows that are scored as `test`: the validation rows where there is no test split."""
    return data if len(data.test) else dataclasses.replace(data, test=data.valid)


def unseen_rows(data: LabelledData) -> np.ndarray | None:
    """Numbers of the test rows that stand neither in train nor in validation; None where there are none."""
    kept = set(deduplicated(data).test.sequences)
    numbers = np.array([i for i, letters in enumerate(data.test.sequences) if letters in kept], dtype=np.int64)
    return numbers if len(numbers) else None


def score_rows(
    name: str, seeds: list[int], scores: Sequence[np.ndarray], data: LabelledData, unseen: np.ndarray | None
) -> Scored:
    """Metrics of scores for `data.test`, with intervals; `unseen` are the numbers of rows that are scored apart too."""
    labels = data.test.labels

    def metrics(rows: np.ndarray | slice) -> list[dict[str, Estimate]]:
        return [evaluate(data.task, labels[rows], one[rows], resamples=RESAMPLES) for one in scores]

    found = metrics(slice(None))
    if unseen is None:
        return Scored(name, seeds, found, [])
    return Scored(name, seeds, found, found if len(unseen) == len(data.test) else metrics(unseen))


def write_pictures(directory: Path, data: LabelledData, scores: np.ndarray) -> None:
    """`predictions.csv`, and of classes a confusion matrix and ROC curves, for `data.test`."""
    write_predictions(directory / PREDICTIONS, data, scores)
    if data.task in ("binary", "multiclass"):
        plot_confusion(directory / CONFUSION, data, scores)
    if data.classes:
        plot_roc(directory / ROC, data, scores)


def _question(data: LabelledData, options: FinetuneOptions) -> Question:
    mean, deviation = 0.0, 1.0
    if data.task == "regression":
        mean, deviation = float(data.train.labels.mean()), float(data.train.labels.std()) or 1.0
    tune = options.tune
    longest = int(data.train.lengths().max())
    stretch = -(-longest // tune.bins)
    bins = -(-longest // stretch)
    return Question(
        data.task, data.classes, "sequence", tune.pool, bins, stretch, tune.rc, mean=mean, deviation=deviation
    )
