"""`titans-dna predict`: what a fine-tuned model says of sequences that have no label, as a table or as BED."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from titans_dna.checkpoint import UNSAVED, open_model
from titans_dna.genome.genome import open_genomes
from titans_dna.genome.intervals import Interval, merge, read_bed, whole_contigs
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import weights_fingerprint
from titans_dna.nn.state import load_state
from titans_dna.reading.parts import PART_BASES, Unfinished, fingerprint
from titans_dna.reading.source import GenomeSource, Record, genome_source
from titans_dna.reading.table import PLACES, PREDICTIONS, Block, Kinds, check_format, record_places, write_table
from titans_dna.run.files import replacing
from titans_dna.run.progress import Progress
from titans_dna.tasks.score import Windows, answers, check_one, score_batches, score_groups, score_shape, score_windows
from titans_dna.tasks.use_options import PredictOptions
from titans_dna.tokens.vocabulary import base_digits


class Predicted(NamedTuple):
    """What was written."""

    path: Path
    rows: int


def predict_files(options: PredictOptions, resume: bool = False) -> Predicted:
    """Predict for the records of files, or intervals of them, and write a table; of a model with an answer for each base, the
    predicted features as BED.

    The output appears whole or not at all; until then finished parts are kept in a directory beside it, `OUT.partial`, and a
    run with the same model and input goes on from there. resume: there must be such a run.

    Raises ValueError or OSError with one line for any bad input, and `Stopped` where it is interrupted.
    """
    files, scoring, out = options.files, options.scoring, Path(options.files.out)
    if out.suffix != ".bed":
        check_format(out, PREDICTIONS)
    inputs = [*files.fasta, files.bed, files.state]
    with Unfinished("predict", [out], inputs, overwrite=files.overwrite, resume=resume) as kept:
        model = open_model(files.model, FineTuned, scoring.accelerator, scoring.threads)
        if files.state is not None:
            check_one(model, files.model)
        if model.question.unit == "sequence":
            check_format(out, PREDICTIONS)
            return Predicted(out, _predict_sequences(model, options, kept))
        if files.state is not None:
            raise ValueError(
                f"--state: {files.model} answers for each base, from windows of their own; want it left out"
            )
        if out.suffix != ".bed":
            raise ValueError(f"--out: got {out}, want a file that ends in .bed: this model has an answer for each base")
        return Predicted(out, _predict_bases(model, options, kept))


def _predict_sequences(model: FineTuned, options: PredictOptions, kept: Unfinished) -> int:
    """A row for each record."""
    files, scoring, question = options.files, options.scoring, model.question
    out, shape = Path(files.out), score_shape(question)
    state = None if files.state is None else load_state(files.state, model.backbone).state
    source = genome_source(open_genomes(files.fasta), files.bed)
    lengths = source.lengths
    batches = score_groups(lengths, scoring.batch_size, scoring.batch_bases)
    # A run that goes on has the parts that it began with, whatever its batches are now.
    about = kept.begin(options, _fingerprint(model, source, files.state), parts=_sizes(batches, lengths))
    order, sizes = np.argsort(-lengths, kind="stable"), about["parts"]
    plan = [part.tolist() for part in np.split(order, np.cumsum(sizes)[:-1])]
    kept.fill(
        plan,
        lengths,
        lambda some: score_groups(some, scoring.batch_size, scoring.batch_bases),
        lambda batches, array, progress: score_batches(
            model, source, batches, batch_bases=scoring.batch_bases, workers=scoring.workers, progress=progress, state=state
        ),
        shape=shape,
        dtype=np.float64,
    )  # fmt: skip
    scores = kept.gather(plan, np.empty((len(lengths), *shape)))
    with replacing(out) as aside:
        write_table(aside, out.suffix, _kinds(question), _blocks(question, source.records, scores))
    kept.finish()
    return len(scores)


def _predict_bases(model: FineTuned, options: PredictOptions, kept: Unfinished) -> int:
    """Predicted features of all records, or of the bases of a BED file's intervals; returns their number.

    Windows are as long as those that the model was trained on, and each is read on its own, both strands of it; features go
    on over their borders.
    """
    files, bases, window = options.files, options.scoring.batch_bases, model.question.window
    genome = open_genomes(files.fasta)
    where = whole_contigs(genome) if files.bed is None else merge(row.interval for row in read_bed(files.bed, genome))
    source = GenomeSource(genome, [Record(one.contig, one) for one in where])
    windows, together = Windows(source.lengths, window), max(1, bases // window)
    part = -(-PART_BASES // (together * window)) * together
    part = int(kept.begin(options, _fingerprint(model, source, None), windows=part)["windows"])
    parts = [(first, min(first + part, len(windows))) for first in range(0, len(windows), part)]
    missing = [i for i in range(len(parts)) if not kept.done(i)]
    left = sum(end - start for i in missing for _, start, end in map(windows.__getitem__, range(*parts[i])))
    total = int(source.lengths.sum())
    with Progress("predict", total, done=total - left) as progress:
        if len(missing) < len(parts):
            progress.say(f"{len(parts) - len(missing)} of {len(parts)} parts were done before")
        for i in missing:
            found: list[tuple[Any, ...]] = []
            for some in windows.together(*parts[i], bases):
                for (number, start, end), letters, scores in zip(
                    some, *score_windows(model, source, some, bases), strict=True
                ):
                    found += [(number, *run) for run in runs(where[number].start + start, letters, scores)]
                    progress.add(end - start)
            kept.put(i, np.array(found, dtype=_RUNS))
    with replacing(files.out) as aside, open(aside, "w", encoding="utf-8", newline="\n") as out:
        writer = IntervalWriter(out, model.question.classes)
        for i in range(len(parts)):
            for number, *run in kept.get(i).tolist():
                writer.take(where[number].contig, Run(*run))
        writer.close()
    kept.finish()
    return writer.written


def _fingerprint(model: FineTuned, source: GenomeSource, state: str | None) -> str:
    known = (model.question.to_dict(), model.backbone.config.identity(), model.tokenizer.to_dict())
    weights = weights_fingerprint(model, skip=UNSAVED)
    return fingerprint(weights, (*known, source.genome.fingerprint()), source, state)


def _sizes(batches: list[list[int]], lengths: np.ndarray) -> list[int]:
    """Numbers of sequences of parts of whole batches, of about `PART_BASES` bases each."""
    bases = np.array([int(lengths[one].sum()) for one in batches], dtype=np.int64)
    part = (np.cumsum(bases) - bases) // PART_BASES
    return [sum(len(batches[i]) for i in np.flatnonzero(part == one)) for one in np.unique(part)]


def _kinds(question: Question) -> Kinds:
    prediction = float if question.task == "regression" else str
    return {**PLACES, "prediction": prediction, **{f"probability_{name}": float for name in question.classes}}


def _blocks(question: Question, records: Sequence[Record], scores: np.ndarray) -> Iterator[Block]:
    done = 0
    for places in record_places(records):
        some = scores[done : done + len(places[0])]
        yield [*places, answers(question, some), *(some.T.tolist() if question.classes else [])]
        done += len(some)


class Run(NamedTuple):
    """Bases [start, end) of one class; `total` is the sum of their probabilities."""

    start: int
    end: int
    number: int
    total: float


_RUNS = np.dtype([("sequence", "i8"), ("start", "i8"), ("end", "i8"), ("number", "i8"), ("total", "f8")])


def runs(start: int, letters: bytes, scores: np.ndarray) -> Iterator[Run]:
    """Runs of one likeliest class; a base of an unknown letter is of the first one ("none").

    letters: from base `start` on, forward strand, upper-case; scores: [bases, classes].
    """
    known = base_digits(letters) < 4
    chosen = np.where(known, scores.argmax(axis=1), 0)
    borders = (np.flatnonzero(np.diff(chosen)) + 1).tolist()
    for first, last in zip([0, *borders], [*borders, len(chosen)], strict=True):
        number = int(chosen[first])
        yield Run(start + first, start + last, number, float(scores[first:last, number].sum()))


class IntervalWriter:
    """One BED6 line for each run of bases whose likeliest class is not the first one ("none").

    A run goes on from one window to the next where these touch. The score column is 1000 times the mean probability of the
    class over the run; the strand is that of a class whose name ends in + or -.
    """

    def __init__(self, out: TextIO, classes: Sequence[str]) -> None:
        self._out, self._classes = out, classes
        self._contig, self._run = "", Run(0, 0, 0, 0.0)
        self.written = 0
        """Lines so far."""

    def add(self, where: Interval, letters: bytes, scores: np.ndarray) -> None:
        """Bases in order. letters: of `where`, forward strand, upper-case; scores: [bases, classes]."""
        for run in runs(where.start, letters, scores):
            self.take(where.contig, run)

    def take(self, contig: str, run: Run) -> None:
        """The next run."""
        last = self._run
        if (self._contig, last.end, last.number) == (contig, run.start, run.number):
            self._run = last._replace(end=run.end, total=last.total + run.total)
            return
        self.close()
        self._contig, self._run = contig, run

    def close(self) -> None:
        """Write the last run."""
        start, end, number, total = self._run
        if number:
            name = self._classes[number]
            strand = name[-1] if name[-1] in "+-" else "."
            score = round(1000 * total / (end - start))
            self._out.write(f"{self._contig}\t{start}\t{end}\t{name}\t{score}\t{strand}\n")
            self.written += 1
        self._run = Run(0, 0, 0, 0.0)
