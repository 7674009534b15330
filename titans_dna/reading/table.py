"""Tables of what was read: names and coordinates beside vectors or predictions, as .npy, .csv, .tsv, .parquet or .h5."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from titans_dna.reading.source import Record
from titans_dna.run.files import check_room, writing

BLOCK = 1 << 14
"""Rows that are written at a time."""
VECTORS = (".npy", ".parquet", ".h5")
PREDICTIONS = (".csv", ".tsv", ".parquet")

Kinds = dict[str, type | np.ndarray]
"""Names of columns, and what stands in them: str, int or float, or vectors of the dtype and the width of an array."""
Block = Sequence[Any]
"""Some rows by column."""
PLACES: Kinds = {"name": str, "contig": str, "start": int, "end": int, "strand": str}
"""What a row is of. Bases [start, end) of a contig, 0-based half-open."""


def check_format(out: Path, formats: Sequence[str]) -> None:
    """ValueError for another suffix, or where what writes that format is not installed."""
    if out.suffix not in formats:
        raise ValueError(f"--out: got {out}, want a file that ends in {', '.join(formats[:-1])} or {formats[-1]}")
    if out.suffix == ".parquet":
        _library("pyarrow", out.suffix)
    if out.suffix == ".h5":
        _library("h5py", out.suffix)


def vector_files(out: Path) -> list[Path]:
    """The files that belong to an output of vectors; the one that is named comes last."""
    return [out.with_suffix(".tsv"), out] if out.suffix == ".npy" else [out]


def write_vectors(folder: Path, out: Path, vectors: Path, records: Sequence[Record], per_base: bool) -> None:
    """Write the files of `vector_files(out)` into `folder`, by their names, from the .npy file `vectors` (which may go).

    per_base: there is a vector for each base of a record, in the direction in which it is read, instead of one for all.
    """
    target = folder / out.name
    places = base_places(records) if per_base else record_places(records)
    if out.suffix == ".npy":
        write_table(folder / vector_files(out)[0].name, ".tsv", PLACES, places, plain=True)
        shutil.move(vectors, target)
        return
    found = np.load(vectors, mmap_mode="r")
    write_table(target, out.suffix, {**PLACES, "vector": found}, _beside(places, found))


def write_table(path: Path, suffix: str, kinds: Kinds, blocks: Iterable[Block], *, plain: bool = False) -> None:
    """Write a table in the format of a suffix.

    Text has probabilities, columns named `probability_…`, with six digits. plain: no cell of text is quoted.
    """
    writers: dict[str, Callable[[Path, Kinds, Iterable[Block]], None]] = {
        ".parquet": _write_parquet, ".h5": _write_h5
    }  # fmt: skip
    with writing(path):
        writers.get(suffix, partial(_write_text, comma=suffix == ".csv", plain=plain))(path, kinds, blocks)


def _write_text(path: Path, kinds: Kinds, blocks: Iterable[Block], *, comma: bool, plain: bool) -> None:
    # A value that is predicted keeps its digits.
    short = [name.startswith("probability_") for name in kinds]
    quoting = {"quoting": csv.QUOTE_NONE, "quotechar": None} if plain else {}
    with open(path, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter="," if comma else "\t", lineterminator="\n", **quoting)
        writer.writerow(kinds)
        for block in blocks:
            columns = [
                [f"{value:.6g}" for value in column] if rounded else column
                for column, rounded in zip(block, short, strict=True)
            ]
            writer.writerows(zip(*columns, strict=True))


def record_places(records: Sequence[Record]) -> Iterator[Block]:
    """The columns of `PLACES`, a row for each record, at most `BLOCK` rows at a time."""
    for first in range(0, len(records), BLOCK):
        rows = [(name, at.contig, at.start, at.end, strand) for name, at, strand in records[first : first + BLOCK]]
        yield [*zip(*rows, strict=True)]


def base_places(records: Sequence[Record]) -> Iterator[Block]:
    """The columns of `PLACES`, a row for each base of each record, in the direction in which it is read."""
    for name, interval, strand in records:
        for first in range(0, len(interval), BLOCK):
            read = np.arange(first, min(first + BLOCK, len(interval)))
            start = interval.end - 1 - read if strand == "-" else interval.start + read
            n = len(read)
            yield [[name] * n, [interval.contig] * n, start.tolist(), (start + 1).tolist(), [strand] * n]


def _beside(places: Iterable[Block], vectors: np.ndarray) -> Iterator[Block]:
    done = 0
    for block in places:
        stop = done + len(block[0])
        yield [*block, vectors[done:stop]]
        done = stop


def _write_parquet(path: Path, kinds: Kinds, blocks: Iterable[Block]) -> None:
    pa = _library("pyarrow", ".parquet")
    import pyarrow.parquet as pq

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64()}

    def field(kind: type | np.ndarray) -> Any:
        return plain[kind] if isinstance(kind, type) else pa.list_(pa.from_numpy_dtype(kind.dtype), kind.shape[1])

    def column(values: Sequence[Any], of: Any) -> Any:
        if not isinstance(values, np.ndarray):
            return pa.array(values, type=of)
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), type=of)

    schema = pa.schema([(name, field(kind)) for name, kind in kinds.items()])
    with pq.ParquetWriter(path, schema) as out:
        for block in blocks:
            arrays = [column(values, one.type) for values, one in zip(block, schema, strict=True)]
            out.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _write_h5(path: Path, kinds: Kinds, blocks: Iterable[Block]) -> None:
    h5py = _library("h5py", ".h5")
    rows, size = next((len(kind), kind.nbytes) for kind in kinds.values() if isinstance(kind, np.ndarray))
    check_room(path, size + (rows + 1024) * 1024)  # the library dies where there is none
    with h5py.File(path, "w") as out:
        columns = [
            out.create_dataset(name, kind.shape, kind.dtype) if isinstance(kind, np.ndarray)
            else out.create_dataset(name, (rows,), h5py.string_dtype() if kind is str else np.int64)
            for name, kind in kinds.items()
        ]  # fmt: skip
        done = 0
        for block in blocks:
            stop = done + len(block[0])
            for column, values in zip(columns, block, strict=True):
                column[done:stop] = values
            done = stop


def _library(name: str, suffix: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError:
        raise ValueError(
            f"--out: {suffix} needs {name}, which is not installed: pip install 'titans-dna[tables]'"
        ) from None
