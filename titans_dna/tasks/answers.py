"""Scores in words, and a table of them: CSV, TSV or parquet, in blocks of rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from titans_dna.nn.finetuned import Question
from titans_dna.reading import table
from titans_dna.reading.source import Record

BLOCK = 1 << 14
"""Rows that are written at a time."""
SEPARATORS = {".csv": ",", ".tsv": "\t"}

Kinds = dict[str, type]
"""Names of columns, and what stands in them: str, int or float."""
Block = Sequence[Sequence[Any]]
"""Some rows by column."""


def answers(question: Question, scores: np.ndarray) -> list[str] | list[float]:
    """What scores of sequences amount to: the likeliest class, the classes of 0.5 and more joined by `;`, or the value."""
    if question.task == "regression":
        return scores.tolist()
    if question.task == "multilabel":
        holds = (scores >= 0.5).tolist()
        return [";".join(name for name, one in zip(question.classes, row, strict=True) if one) for row in holds]
    return [question.classes[number] for number in scores.argmax(axis=1).tolist()]


def sequence_kinds(question: Question) -> Kinds:
    """The columns of `sequence_blocks`."""
    prediction = float if question.task == "regression" else str
    places = {"name": str, "contig": str, "start": int, "end": int, "strand": str}
    return {**places, "prediction": prediction, **{f"probability_{name}": float for name in question.classes}}


def sequence_blocks(question: Question, records: Sequence[Record], scores: np.ndarray) -> Iterator[Block]:
    """One row for each record, in order."""
    for first in range(0, len(records), BLOCK):
        part, some = records[first : first + BLOCK], scores[first : first + BLOCK]
        places = [(name, at.contig, at.start, at.end, strand) for name, at, strand in part]
        chances = some.T.tolist() if question.classes else []
        yield [*zip(*places, strict=True), answers(question, some), *chances]


def check_format(out: Path) -> None:
    """ValueError for another suffix, or where what writes that format is not installed."""
    if out.suffix not in (*SEPARATORS, ".parquet"):
        raise ValueError(f"--out: got {out}, want a file that ends in {', '.join(SEPARATORS)} or .parquet")
    if out.suffix == ".parquet":
        table.check_format(out)


def write_blocks(path: Path, suffix: str, kinds: Kinds, blocks: Iterable[Block]) -> None:
    """Write a table; text has its probabilities with six digits, parquet has all."""
    if suffix == ".parquet":
        _write_parquet(path, kinds, blocks)
        return
    # A value that is predicted keeps its digits.
    short = [name.startswith("probability_") for name in kinds]
    with open(path, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter=SEPARATORS[suffix], lineterminator="\n")
        writer.writerow(kinds)
        for block in blocks:
            columns = [
                [f"{value:.6g}" for value in column] if rounded else column
                for column, rounded in zip(block, short, strict=True)
            ]
            writer.writerows(zip(*columns, strict=True))


def _write_parquet(path: Path, kinds: Kinds, blocks: Iterable[Block]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])
    with pq.ParquetWriter(path, schema) as out:
        for block in blocks:
            arrays = [pa.array(column, type=one.type) for column, one in zip(block, schema, strict=True)]
            out.write_table(pa.Table.from_arrays(arrays, schema=schema))
