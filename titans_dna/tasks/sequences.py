"""An answer for each sequence: labelled rows as batches, baselines, scores, and what is written of them.

A step's batches are a pure function of (seed, step); a split is scored in order of length.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from titans_dna.baselines.sequences import kmers, length, majority, places_tell, positions
from titans_dna.labels.data import LabelledData, Rows
from titans_dna.labels.read import read_labelled
from titans_dna.labels.report import deduplicated, report
from titans_dna.metrics import Estimate, evaluate, validation_loss
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.reading.stream import group, padded
from titans_dna.run.progress import duration, say
from titans_dna.tasks.cnn import cnn
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.results import Scored, plot_confusion, plot_roc, write_predictions
from titans_dna.tasks.score import score_sequences
from titans_dna.tasks.votes import Votes, fit_votes
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import Tokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

PREDICTIONS, CONFUSION, ROC = "predictions.csv", "confusion.png", "roc.png"
RESAMPLES = 200
SHUFFLED_TOGETHER = 32
"""Batches whose rows are sorted by length among themselves: enough for little padding, few enough for mixed batches."""

_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)


class SequenceJob:
    """An answer for each sequence."""

    seeded: tuple[str, ...] = ("cnn",)

    def __init__(self, options: FinetuneOptions) -> None:
        """Raises what `read_labelled` raises."""
        self.options = options
        self.data = read_data(options)
        self.question = _question(self.data, options)
        self._votes: Votes | None = None
        self._placed: bool | None = None
        self.split = "test" if len(self.data.test) else "valid"
        alike = len(set(self.data.train.lengths().tolist())) == 1
        self.baselines = ("majority", "length", "kmers", *(["positions"] if alike else []), "cnn")
        self._shown = scored_part(self.data)
        self._unseen = unseen_rows(self.data) if self.split == "test" else None

    def describe(self) -> dict[str, Any]:
        """See `finetune.Job`."""
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
        """See `finetune.Job`."""
        data = self.data
        rows = ", ".join(f"{len(some):,} {name}" for name, some in data.splits())
        classes = f" ({', '.join(_counted(data)[:8])}{', …' * (len(data.classes) > 8)})" if data.classes else ""
        return [f"data: {data.source}: {rows} rows; {data.task}{classes}"]

    def report(self) -> str:
        """See `finetune.Job`."""
        return report(self.data).markdown()

    def check(self, tokenizer: Tokenizer) -> None:
        """See `finetune.Job`: any will do."""

    def prepare(self, tokenizer: Tokenizer) -> None:
        """See `finetune.Job`: which pool it is, and k-mers, of single bases alone."""
        tune = self.options.tune
        if tune.pool == "auto" and self._placed is None and isinstance(tokenizer, NucleotideTokenizer):
            self._placed = places_tell(self.data)
            if self._placed:
                say("pool: every base side by side, since single positions foretell the validation rows")
                bins, both = int(self.data.train.lengths().max()), tune.rc is True
                self.question = dataclasses.replace(self.question, pool="bins", bins=bins, stretch=1, both_strands=both)
        if self._votes is not None or not tune.kmers or not isinstance(tokenizer, NucleotideTokenizer):
            return
        began = time.monotonic()
        say("k-mers: a regression, and what it says of rows that it has not seen")
        self._votes = votes = fit_votes(self.data, tune.rc or None)
        self.question = dataclasses.replace(
            self.question,
            both_strands=votes.both and not self._placed if tune.rc is None else tune.rc,
            kmers=votes.sizes,
            kmers_root=votes.root,
            kmers_both=votes.both,
        )
        strands = "both strands" if self.question.both_strands else "the strand that is given"
        say(f"k-mers: {duration(time.monotonic() - began)}; sequences are read from {strands}")

    def examples(self, tokenizer: Tokenizer, seed: int) -> SequenceExamples:
        """See `finetune.Job`."""
        train, tune = self.options.train, self.options.tune
        return SequenceExamples(
            self.data,
            self.question,
            tokenizer,
            batch_size=self.options.batch_size,
            batch_bases=train.batch_bases,
            augment=self.question.both_strands if tune.rc_augment is None else tune.rc_augment,
            mutate=tune.mutate,
            seed=seed,
            votes=self._votes,
        )

    def baseline(self, name: str, seed: int) -> np.ndarray:
        """See `finetune.Job`. The k-mers that the model began with are not fitted again, where they are the baseline's."""
        if name == "kmers" and self._votes is not None and not self.options.tune.rc:
            return self._votes.scores(self._shown.test)
        methods: dict[str, Callable[[LabelledData, int], np.ndarray]] = {
            "majority": majority, "length": length, "kmers": kmers, "positions": positions, "cnn": cnn
        }  # fmt: skip
        return methods[name](self._shown, seed)

    def scored(self, name: str, seeds: list[int], scores: list[np.ndarray]) -> Scored:
        """See `finetune.Job`."""
        return score_rows(name, seeds, scores, self._shown, self._unseen)

    def more(self, scored: list[Scored]) -> str:
        """See `finetune.Job`: nothing."""
        del scored
        return ""

    def write(self, directory: Path, scores: np.ndarray) -> None:
        """See `finetune.Job`."""
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


def _counted(data: LabelledData) -> list[str]:
    """Each class with its rows in all splits."""
    labels = [some.labels for _, some in data.splits()]
    if data.task == "multilabel":
        counts = sum(one.sum(axis=0, dtype=np.int64) for one in labels)
    else:
        counts = np.bincount(np.concatenate(labels), minlength=len(data.classes))
    return [f"{name}: {number:,}" for name, number in zip(data.classes, np.asarray(counts).tolist(), strict=True)]


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
        data.task,
        data.classes,
        "sequence",
        "mean" if tune.pool == "auto" else tune.pool,
        bins,
        stretch,
        tune.rc is not False,
        mean=mean,
        deviation=deviation,
        hidden=tune.hidden,
    )


class SequenceExamples:
    """Rows of `LabelledData` for one seed; see `fit.Examples`."""

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
        votes: Votes | None = None,
    ) -> None:
        self.votes = votes
        self.data, self.question, self.tokenizer, self.mutate = data, question, tokenizer, mutate
        self.batch_size, self.batch_bases, self.augment, self.seed = batch_size, batch_bases, augment, seed
        self.epoch_steps = math.ceil(len(data.train) / batch_size)
        self._lengths = data.train.lengths()
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def step(self, number: int) -> list[Batch]:
        """See `fit.Examples`."""
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
        votes = None if self.votes is None else torch.from_numpy(self.votes.train[chosen])
        return [
            Batch(
                *padded([sequences[i] for i in part], self.tokenizer),
                labels[torch.tensor(part)],
                votes=None if votes is None else votes[torch.tensor(part)],
            )
            for part in group(self._lengths[chosen], bases=self.batch_bases)
        ]

    def scores(self, model: FineTuned, split: str, title: str = "") -> np.ndarray:
        """See `fit.Examples`."""
        rows = self._rows(split).sequences
        return score_sequences(model, rows, batch_size=256, batch_bases=self.batch_bases, title=title)

    def metrics(self, scores: np.ndarray, split: str, resamples: int = 0) -> dict[str, Estimate]:
        """See `fit.Examples`."""
        return evaluate(self.data.task, self._rows(split).labels, scores, resamples=resamples)

    def loss(self, scores: np.ndarray, split: str) -> float:
        """See `fit.Examples`."""
        loss = validation_loss(self.data.task, self._rows(split).labels, scores)
        # Regression is learned in units of the deviation.
        return loss / self.question.deviation**2

    def segments(self, scores: np.ndarray, split: str) -> float:
        """See `fit.Examples`."""
        raise AssertionError("a question about bases")

    def smoothed(self, scores: np.ndarray, split: str, question: Question) -> np.ndarray:
        """See `fit.Examples`."""
        raise AssertionError("a question about bases")

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
