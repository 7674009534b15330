"""`titans-dna evaluate`: how good a fine-tuned model is on labelled rows, by its own label map."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from titans_dna.checkpoint import UNSAVED, open_model
from titans_dna.labels.data import LabelledData, Task
from titans_dna.labels.read import read_known
from titans_dna.nn.finetuned import FineTuned
from titans_dna.nn.model import weights_fingerprint
from titans_dna.nn.state import load_state
from titans_dna.reading.source import TextSource
from titans_dna.run.files import check_writable
from titans_dna.run.progress import Progress
from titans_dna.tasks.job import score_rows, write_pictures
from titans_dna.tasks.results import OURS, table, write_results
from titans_dna.tasks.score import score_all
from titans_dna.tasks.use_options import EvaluateOptions, RowOptions


class Evaluated(NamedTuple):
    """What was written."""

    directory: Path
    rows: int
    table: str
    """The results in Markdown."""


def evaluate_files(options: EvaluateOptions) -> Evaluated:
    """Score labelled rows with a fine-tuned model and write `results.md`, `.csv` and `.json`, `predictions.csv`, and the
    pictures of classes, `confusion.png` and `roc.png`. The directory appears whole or not at all.

    Raises ValueError or OSError with one line for any bad input.
    """
    rows, scoring, out = options.rows, options.scoring, Path(options.rows.out)
    _check_output(out)
    model = open_model(rows.model, FineTuned, scoring.accelerator)
    question = model.question
    if question.unit == "base":
        raise ValueError(
            f"--model: {rows.model} has an answer for each base, and titans-dna evaluate takes a model with one answer for "
            "each sequence"
        )
    part, data = _read(rows, question.task, question.classes)
    if scoring.threads:
        torch.set_num_threads(scoring.threads)
    state = None if rows.state is None else load_state(rows.state, model.backbone).state
    source = TextSource(list(data.test.sequences))
    with Progress("evaluate", int(source.lengths.sum())) as progress:
        scores = score_all(
            model,
            source,
            batch_size=scoring.batch_size,
            batch_bases=scoring.batch_bases,
            workers=scoring.workers,
            progress=progress.add,
            state=state,
        )
    scored = [score_rows(OURS, [0], [scores], data, None)]
    about = {
        "source": data.source,
        "fingerprint": data.fingerprint(),
        "task": data.task,
        "label_map": data.label_map,
        "rows": {part: len(data.test)},
        "model": weights_fingerprint(model, skip=[UNSAVED]),
        "split": part,
    }
    with _appearing(out) as aside:
        write_pictures(aside, data, scores)
        write_results(aside, question.task, scored, about, _notes(rows, part, data))
    return Evaluated(out, len(data.test), table(question.task, scored))


def _read(rows: RowOptions, task: Task, classes: tuple[str, ...]) -> tuple[str, LabelledData]:
    return read_known(
        rows.data[0] if len(rows.data) == 1 else rows.data,
        task,
        classes,
        part=None if rows.split == "auto" else rows.split,
        sequence=rows.sequence_column,
        label=rows.label_column,
        split=rows.split_column,
        name=rows.name_column,
        min_length=rows.min_length or None,
        root=rows.root,
    )


def _notes(rows: RowOptions, part: str, data: LabelledData) -> str:
    which = "All rows" if part == "all" else f"The {part} split"
    remembered = "" if rows.state is None else f"Each sequence is read after what {rows.state} remembers.\n"
    return (
        f"{which} of {data.source}: {len(data.test):,} rows. In brackets the 95 % interval over resampled rows.\n"
        f"Model: {rows.model}. Whether it was trained on some of these rows is not known here.\n{remembered}"
    )


def _check_output(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out: {out} is a file, want a directory")
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"--out: {out} is not empty, want a new or an empty directory")
    above = next(one for one in out.absolute().parents if one.exists())
    check_writable(above, "--out")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A directory beside `out` to write in, which becomes `out` if the block succeeds and goes away if it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.absolute().with_name(f".{out.absolute().name}.{uuid.uuid4().hex[:12]}.tmp")
    aside.mkdir()
    try:
        yield aside
        if out.is_dir():
            out.rmdir()
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
