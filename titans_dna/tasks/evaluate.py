"""`titans-dna evaluate`: how good a fine-tuned model is on labelled rows, by its own label map."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from titans_dna import metrics
from titans_dna.checkpoint import UNSAVED, open_model
from titans_dna.labels.data import LabelledData
from titans_dna.labels.read import read_known
from titans_dna.metrics import Estimate
from titans_dna.nn.finetuned import FineTuned
from titans_dna.nn.model import weights_fingerprint
from titans_dna.nn.state import load_state
from titans_dna.reading.source import TextSource
from titans_dna.run.directory import RunDirectory
from titans_dna.run.progress import Progress
from titans_dna.run.sealed import digest_of, read_array, write_array
from titans_dna.tasks.results import OURS, table, write_results
from titans_dna.tasks.score import check_one, score_all, score_batches, score_groups, score_shape
from titans_dna.tasks.sequences import score_rows, write_pictures
from titans_dna.tasks.use_options import EvaluateOptions, RowOptions, ScoringOptions

PARTIAL, SECONDS = "scores.npy", 60.0
"""Scores of the rows, NaN for those that are not done, and how often they are saved."""
_COMPARED = {"fingerprint": "--data", "model": "--model", "state": "--state"}


class Evaluated(NamedTuple):
    """What was written."""

    directory: Path
    rows: int
    table: str
    """The results in Markdown."""


def evaluate(
    model: FineTuned,
    data: str | Path | Sequence[str | Path],
    *,
    split: str = "auto",
    root: str | Path | None = None,
    sequence_column: str = "sequence",
    label_column: str | Sequence[str] = "label",
    split_column: str | None = None,
    min_length: int = 0,
    state: tuple[Any, ...] | None = None,
    batch_size: int = 64,
    batch_bases: int = 1 << 17,
    resamples: int = 200,
) -> dict[str, Estimate]:
    """The metrics of a fine-tuned model on labelled sequences, with 95 % intervals over resampled rows.

    model: with one answer for each sequence; it computes where its weights are.
    data: a directory, the name of a data set below `root`, a table, FASTA files of a class each: what --data takes.
    split: train, valid or test, where there are splits; auto: test if it is there, else all rows.
    sequence_column, label_column, split_column: of a table. min_length: fewest bases of a sequence; 0: 4, and 1 for
        GenomicBenchmarks directories.
    state: what `model.backbone` remembers already, as `titans_dna.remember` returns it; each sequence is read after that.
    batch_size, batch_bases: sequences and bases side by side; they change speed and memory, and no score.
    resamples: rows are drawn anew that many times; 0: no intervals.

    Raises ValueError for a model that answers for each base, and for data that cannot be read or have a label that the
    model does not know; OSError for files.
    """
    question = model.question
    if question.unit == "base":
        raise ValueError("model: has an answer for each base, want one with an answer for each sequence")
    if split not in ("auto", "train", "valid", "test"):
        raise ValueError(f"split: got {split!r}, want auto, train, valid or test")
    for name, value, low in (
        ("batch_size", batch_size, 1),
        ("batch_bases", batch_bases, 1),
        ("resamples", resamples, 0),
    ):
        if value < low:
            raise ValueError(f"{name}: got {value}, want at least {low}")
    paths = data if isinstance(data, str | Path) else tuple(map(str, data))
    _, found = _read(model, paths, split, root, (sequence_column, label_column, split_column, None), min_length)
    source = TextSource(list(found.test.sequences))
    scores = score_all(model, source, batch_size=batch_size, batch_bases=batch_bases, state=state)
    return metrics.evaluate(question.task, found.test.labels, scores, resamples=resamples)


def evaluate_files(options: EvaluateOptions, *, resume: bool = False) -> Evaluated:
    """Score labelled rows with a fine-tuned model and write `results.md`, `.csv` and `.json`, `predictions.csv`, and the
    pictures of classes, `confusion.png` and `roc.png`. The directory appears whole or not at all; until then the scores so
    far are kept in a directory beside it, from which `resume` goes on.

    Raises ValueError or OSError with one line for any bad input, and `Stopped` where a signal came.
    """
    rows, scoring, out = options.rows, options.scoring, Path(options.rows.out)
    RunDirectory(out, "evaluate").check(False)
    with RunDirectory.beside(out, "evaluate") as home:
        home.check(resume, options)
        model = open_model(rows.model, FineTuned, scoring.accelerator, scoring.threads)
        if model.question.unit == "base":
            raise ValueError(
                f"--model: {rows.model} has an answer for each base, and titans-dna evaluate takes a model with one answer "
                "for each sequence"
            )
        if rows.state is not None:
            check_one(model, rows.model)
        paths = rows.data[0] if len(rows.data) == 1 else rows.data
        columns = (rows.sequence_column, rows.label_column, rows.split_column, rows.name_column)
        part, data = _read(model, paths, rows.split, rows.root, columns, rows.min_length)
        state = None if rows.state is None else load_state(rows.state, model.backbone).state
        about = _about(model, part, data)
        if resume:
            home.check_same({**about, "state": _digest(rows.state)}, _COMPARED)
        home.open(options, {**about, "state": _digest(rows.state)})
        scores = _score(home.path / PARTIAL, model, data, scoring, state)
        scored = [score_rows(OURS, [0], [scores], data, None)]
        place = home.path / out.absolute().name
        place.mkdir(exist_ok=True)
        write_pictures(place, data, scores)
        write_results(place, data.task, scored, about, _notes(rows, part, data))
        home.finish([out.absolute()])
    return Evaluated(out, len(data.test), table(data.task, scored))


def _read(
    model: FineTuned,
    paths: str | Path | Sequence[str],
    split: str,
    root: str | Path | None,
    columns: tuple[str, str | Sequence[str], str | None, str | None],
    min_length: int,
) -> tuple[str, LabelledData]:
    """Which rows they are, and the rows. columns: of the sequence, the label, the split and the name."""
    return read_known(
        paths,
        model.question.task,
        model.question.classes,
        part=None if split == "auto" else split,
        sequence=columns[0],
        label=columns[1],
        split=columns[2],
        name=columns[3],
        min_length=min_length or None,
        root=root,
    )


def _about(model: FineTuned, part: str, data: LabelledData) -> dict[str, Any]:
    return {
        "source": data.source,
        "fingerprint": data.fingerprint(),
        "task": data.task,
        "label_map": data.label_map,
        "rows": {part: len(data.test)},
        "model": weights_fingerprint(model, skip=UNSAVED),
        "split": part,
    }


def _digest(path: str | None) -> str | None:
    if path is None:
        return None
    return digest_of(path)


def _score(
    path: Path, model: FineTuned, data: LabelledData, scoring: ScoringOptions, state: tuple[Any, ...] | None
) -> np.ndarray:
    """Scores of all rows, those in `path` among them. Batches are cut from the longest row on, so the rows that are left
    fall into the batches that they would have been in."""
    sequences = data.test.sequences
    found = np.full((len(sequences), *score_shape(model.question)), np.nan)
    if path.exists():
        found = read_array(path)
    left = np.flatnonzero(np.isnan(found.reshape(len(found), -1)).any(axis=1))
    if not len(left):
        return found
    source = TextSource([sequences[i] for i in left])
    whole = sum(map(len, sequences))
    batches = score_batches(
        model,
        source,
        score_groups(source.lengths, scoring.batch_size, scoring.batch_bases),
        batch_bases=scoring.batch_bases,
        workers=scoring.workers,
        progress=lambda bases: progress.add(bases),
        state=state,
    )
    with Progress("evaluate", whole, done=whole - int(source.lengths.sum())) as progress:
        saved_at = time.monotonic()
        try:
            for numbers, scores in batches:
                found[left[[*numbers]]] = scores
                if time.monotonic() - saved_at > SECONDS:
                    write_array(path, found)
                    saved_at = time.monotonic()
        finally:
            write_array(path, found)
    return found


def _notes(rows: RowOptions, part: str, data: LabelledData) -> str:
    which = "All rows" if part == "all" else f"The {part} split"
    remembered = "" if rows.state is None else f"Each sequence is read after what {rows.state} remembers.\n"
    return (
        f"{which} of {data.source}: {len(data.test):,} rows. In brackets the 95 % interval over resampled rows.\n"
        f"Model: {rows.model}. Whether it was trained on some of these rows is not known here.\n{remembered}"
    )
