"""Files to labelled data: read, checked row by row, and split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from titans_dna.genome.records import LETTERS
from titans_dna.labels.data import KnownLabels, LabelCoder, LabelledData, Rows, Task
from titans_dna.labels.files import (
    Paths,
    RawRow,
    TableColumns,
    default_root,
    is_genomic_benchmark,
    read_split,
    read_splits,
)
from titans_dna.tokens.strands import either_strand

SHORTEST = 4
"""Bases that a sequence has at least, unless said otherwise."""


def read_labelled(
    what: Paths,
    *,
    valid: Paths | None = None,
    test: Paths | None = None,
    sequence: str = "sequence",
    label: str | Sequence[str] = "label",
    split: str | None = None,
    name: str | None = None,
    task: Task | None = None,
    separator: str = ";",
    min_length: int | None = None,
    valid_fraction: float = 0.1,
    seed: int = 0,
    root: str | Path | None = None,
) -> LabelledData:
    """Read labelled sequences, check every row, and hold out a part for validation where none is given.

    what: a directory as GenomicBenchmarks lays it out (`{train,test}/<class>/*.txt`) or the name of one under `root`;
        a directory as GUE lays it out (`train.csv`, `dev.csv`, `test.csv`; .tsv and .parquet too, gzipped or not);
        a directory of FASTA files (`{train,test}/<class>.fa` or `<class>.fa`); or one or more files for training:
        tables, or FASTA files, each of the class that its name says.
    valid, test: files for these, where `what` names files. Without test files the test split is empty.
    sequence, label, split, name: columns of a table. Several label columns hold 0 or 1 each (multilabel). `split` holds
        train, valid (or dev) and test. Without `name` a row is called by its line.
    task: by default found from the training labels, as `LabelCoder` says.
    separator: stands between the labels of a cell where the task is multilabel.
    min_length: bases that each sequence has at least: by default 4, and 1 for GenomicBenchmarks, whose published rows
        stand as they are (human_enhancers_ensembl has some of 2 and 3 bases).
    valid_fraction, seed: share of each class of train that is held out for validation, at least one sequence of a class
        that has two, and the seed of that choice; not used where a validation split is given.
    root: where data sets are looked for by name, by default ~/.genomic_benchmarks.

    Raises ValueError naming file and row for a label that is missing or does not occur in train, a sequence that is too
    short or holds a letter that is no nucleotide code; naming the file where it is empty, damaged, lacks a column, or
    has one class only; FileNotFoundError, IsADirectoryError.
    """
    columns = TableColumns(sequence, (label,) if isinstance(label, str) else tuple(label), split, name)
    _check_arguments(columns, min_length, valid_fraction)
    root = default_root() if root is None else Path(root).expanduser()
    raw = read_splits(what, valid, test, columns, root)
    if min_length is None:
        min_length = 1 if is_genomic_benchmark(what, root) else SHORTEST
    coder = LabelCoder(raw["train"], task, columns.label, separator)
    rows = {split: _checked_rows(some, coder, min_length) for split, some in raw.items()}
    train, held_out = rows["train"], rows.get("valid")
    if held_out is None:
        train, held_out = hold_out(train, coder.task, valid_fraction, seed)
    nothing = train.take([])
    return LabelledData(_named(what), coder.task, coder.classes, train, held_out, rows.get("test", nothing))


def read_known(
    what: Paths,
    task: Task,
    classes: Sequence[str],
    *,
    part: str | None = None,
    sequence: str = "sequence",
    label: str | Sequence[str] = "label",
    split: str | None = None,
    name: str | None = None,
    separator: str = ";",
    min_length: int | None = None,
    root: str | Path | None = None,
) -> tuple[str, LabelledData]:
    """Rows to score with a model that knows these classes, as the `test` of labelled data that have nothing else.

    what, sequence, label, split, name, separator, min_length, root: as for `read_labelled`; a directory need not hold a
        train split, and one class alone will do.
    task, classes: the model's; labels become numbers of this map, in its order.
    part: train, valid or test; by default test where there are splits and it is one of them, else all rows.

    Returns which part it is (`all` for all rows), and the data. Raises what `read_labelled` raises, and ValueError
    naming file and row for a label that is none of the classes.
    """
    columns = TableColumns(sequence, (label,) if isinstance(label, str) else tuple(label), split, name)
    coder = KnownLabels(task, tuple(classes), columns.label, separator)
    root = default_root() if root is None else Path(root).expanduser()
    chosen, raw = read_split(what, part, columns, root)
    if min_length is None:
        min_length = 1 if is_genomic_benchmark(what, root) else SHORTEST
    rows = _checked_rows(raw, coder, min_length)
    nothing = rows.take([])
    return chosen, LabelledData(_named(what), task, coder.classes, nothing, nothing, rows)


def hold_out(rows: Rows, task: Task, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out, both in their old order; of each class the same share.

    Rows that are equal, or the reverse complement of each other, stay together: a validation row that is also trained
    on would speak for memory alone.

    Raises ValueError where there are too few rows to hold one out.
    """
    rng = np.random.default_rng(seed)
    number_of: dict[bytes, int] = {}
    kinds = np.array([number_of.setdefault(key, len(number_of)) for key in either_strand(rows.sequences)])
    classes = rows.labels if task in ("binary", "multiclass") else np.zeros(len(rows), dtype=np.int64)
    out = np.zeros(len(rows), dtype=bool)
    for number in np.unique(classes):
        mine, copies = np.unique(kinds[(classes == number) & ~out], return_counts=True)
        if len(mine) < 2:
            continue
        order = rng.permutation(len(mine))
        enough = np.searchsorted(np.cumsum(copies[order]), round(fraction * copies.sum()), side="right")
        out |= np.isin(kinds, mine[order[: max(1, enough)]])
    if not out.any():
        raise ValueError(f"train: got {len(rows)} rows, too few to hold some out for validation; give a valid split")
    return rows.take(np.flatnonzero(~out)), rows.take(np.flatnonzero(out))


def _check_arguments(columns: TableColumns, min_length: int | None, valid_fraction: float) -> None:
    if not columns.label:
        raise ValueError("label: got no column, want at least one")
    if not 0 < valid_fraction <= 0.5:
        raise ValueError(f"valid_fraction: got {valid_fraction}, want above 0 and at most 0.5")
    if min_length is not None and min_length < 1:
        raise ValueError(f"min_length: got {min_length}, want at least 1")


def _checked_rows(raw: Sequence[RawRow], coder: LabelCoder, min_length: int) -> Rows:
    """Rows with their labels as numbers. ValueError naming file and row for a bad label, letter or length."""
    sequences = tuple(_bases(row, min_length) for row in raw)
    return Rows(tuple(row.name for row in raw), sequences, coder.encode(raw))


def _bases(row: RawRow, min_length: int) -> bytes:
    text = row.sequence
    letters = (text.encode("utf-8") if isinstance(text, str) else text).upper()
    if strange := letters.translate(None, LETTERS):
        shown = strange.decode("utf-8", "replace")[0]
        raise ValueError(f"{row.where}: letter {shown!r} is no nucleotide code, want {LETTERS.decode()} in either case")
    if len(letters) < min_length:
        raise ValueError(
            f"{row.where}: got a sequence of {len(letters)} bases, want at least {min_length} (min_length)"
        )
    return letters.replace(b"U", b"T")


def _named(what: Paths) -> str:
    return str(what) if isinstance(what, str | Path) else ", ".join(map(str, what))
