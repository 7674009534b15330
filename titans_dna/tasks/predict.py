"""`titans-dna predict`: what a fine-tuned model says of sequences that have no label."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from titans_dna.checkpoint import open_model
from titans_dna.genome.genome import open_genomes
from titans_dna.nn.finetuned import FineTuned
from titans_dna.nn.state import load_state
from titans_dna.reading.source import as_source, genome_source
from titans_dna.run.files import check_writable, replacing
from titans_dna.tasks.answers import answers, check_format, sequence_blocks, sequence_kinds, write_blocks
from titans_dna.tasks.predict_bases import predict_intervals
from titans_dna.tasks.score import score_all
from titans_dna.tasks.scoring import shown
from titans_dna.tasks.use_options import PredictOptions, SequenceFileOptions


class Predicted(NamedTuple):
    """What was written."""

    path: Path
    rows: int


def predict(
    model: FineTuned,
    sequences: Any,
    *,
    state: tuple[Any, ...] | None = None,
    batch_size: int = 64,
    batch_bases: int = 1 << 17,
    workers: int = 0,
) -> tuple[list[str] | list[float], np.ndarray]:
    """Predictions for sequences of any length, and the scores behind them, in their order.

    model: as `titans_dna.load` gives it; it computes where its weights are.
    sequences: as `titans_dna.embed` takes them: a sequence, an iterable of such, or the path of a sequence file.
    state: what `model.backbone` remembers already, as `titans_dna.remember` returns it; each sequence is read after that.
    batch_size, batch_bases, workers: sequences and bases side by side, and processes that read; they change speed and
        memory, and no score.

    Returns the class of each (multilabel: the classes of probability 0.5 and more, joined by `;`; regression: the
    value), and float64 probabilities [n, classes] (regression: the values [n]).

    Raises ValueError for a sequence that is empty or holds a letter that is no nucleotide code, for a model that
    answers for each base, or a value out of range; and what `open_genome` raises for a file.
    """
    if model.question.unit == "base":
        raise ValueError("model: has an answer for each base, want one with an answer for each sequence")
    for name, value, low in (("batch_size", batch_size, 1), ("batch_bases", batch_bases, 1), ("workers", workers, 0)):
        if value < low:
            raise ValueError(f"{name}: got {value}, want at least {low}")
    source = as_source(sequences)
    scores = score_all(model, source, batch_size=batch_size, batch_bases=batch_bases, workers=workers, state=state)
    return answers(model.question, scores), scores


def predict_files(options: PredictOptions) -> Predicted:
    """Predict for the records of files, or intervals of them, and write a table; it appears whole or not at all. Of a model
    with an answer for each base, the predicted features as BED.

    Raises ValueError or OSError with one line for any bad input.
    """
    files, scoring, out = options.files, options.scoring, Path(options.files.out)
    _check_output(files)
    model = open_model(files.model, FineTuned, scoring.accelerator)
    if scoring.threads:
        torch.set_num_threads(scoring.threads)
    if files.state is not None and model.question.unit == "base":
        raise ValueError(f"--state: {files.model} answers for each base, from windows of their own; want it left out")
    state = None if files.state is None else load_state(files.state, model.backbone).state
    if model.question.unit == "base":
        return Predicted(out, predict_intervals(model, options))
    check_format(out)
    source = genome_source(open_genomes(files.fasta), files.bed)
    with shown("predict", int(source.lengths.sum())) as progress:
        scores = score_all(
            model,
            source,
            batch_size=scoring.batch_size,
            batch_bases=scoring.batch_bases,
            workers=scoring.workers,
            progress=progress.add,
            state=state,
        )
    with replacing(out) as aside:
        blocks = sequence_blocks(model.question, source.records, scores)
        write_blocks(aside, out.suffix, sequence_kinds(model.question), blocks)
    return Predicted(out, len(scores))


def _check_output(files: SequenceFileOptions) -> None:
    out = Path(files.out)
    if out.suffix != ".bed":
        check_format(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: {out.parent}: no such directory")
    if out.is_dir():
        raise IsADirectoryError(f"--out: {out} is a directory, want a file to write")
    check_writable(out.parent, "--out")
    if not out.exists():
        return
    if any(Path(one).exists() and out.samefile(one) for one in (*files.fasta, *filter(None, [files.bed, files.state]))):
        raise ValueError(f"--out: {out} is one of the inputs, want another name")
    if not files.overwrite:
        raise ValueError(f"--out: {out} exists, want another name, or --overwrite to replace it")
