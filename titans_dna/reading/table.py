"""Vectors with their names and coordinates, as .npy (and .tsv), .parquet or .h5."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from titans_dna.reading.source import Record

BLOCK = 1 << 14
"""Rows that are written at a time."""
SUFFIXES = (".npy", ".parquet", ".h5")


class Columns(NamedTuple):
    """Some rows: what each vector is of. Bases [start, end) of a contig, 0-based half-open."""

    name: list[str]
    contig: list[str]
    start: np.ndarray
    end: np.ndarray
    strand: list[str]


def check_format(out: Path) -> None:
    """ValueError for another suffix, or where what writes that format is not installed."""
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out: got {out}, want a file that ends in {', '.join(SUFFIXES)}")
    if out.suffix == ".parquet":
        _pyarrow()
    if out.suffix == ".h5":
        _h5py()


def files_of(out: Path) -> list[Path]:
    """The files that belong to an output; the one that is named comes last."""
    return [out.with_suffix(".tsv"), out] if out.suffix == ".npy" else [out]


def write_table(folder: Path, out: Path, vectors: Path, records: Sequence[Record], per_base: bool) -> None:
    """Write the files of `files_of(out)` into `folder`, by their names, from the .npy file `vectors` (which may go).

    per_base: there is a vector for each base of a record, in the direction in which it is read, instead of one for all.
    """
    target = folder / out.name
    if out.suffix == ".parquet":
        _write_parquet(target, np.load(vectors, mmap_mode="r"), records, per_base)
    elif out.suffix == ".h5":
        _write_h5(target, np.load(vectors, mmap_mode="r"), records, per_base)
    else:
        _write_tsv(folder / files_of(out)[0].name, records, per_base)
        shutil.move(vectors, target)


def _blocks(records: Sequence[Record], per_base: bool) -> Iterator[Columns]:
    """The rows in order, at most BLOCK at a time."""
    if not per_base:
        for first in range(0, len(records), BLOCK):
            part = records[first : first + BLOCK]
            start, end = (np.array([getattr(one.interval, side) for one in part]) for side in ("start", "end"))
            yield Columns(*_names(part), start, end, [one.strand for one in part])
        return
    for record in records:
        _, interval, strand = record
        for first in range(0, len(interval), BLOCK):
            read = np.arange(first, min(first + BLOCK, len(interval)))
            start = interval.end - 1 - read if strand == "-" else interval.start + read
            rows = [record] * len(read)
            yield Columns(*_names(rows), start, start + 1, [strand] * len(read))


def _names(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    return [one.name for one in records], [one.interval.contig for one in records]


def _write_tsv(path: Path, records: Sequence[Record], per_base: bool) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        out.write("\t".join(Columns._fields) + "\n")
        for block in _blocks(records, per_base):
            out.writelines("\t".join(map(str, row)) + "\n" for row in zip(*block, strict=True))


def _write_parquet(path: Path, vectors: np.ndarray, records: Sequence[Record], per_base: bool) -> None:
    pa = _pyarrow()
    import pyarrow.parquet as pq

    kinds = {"start": pa.int64(), "end": pa.int64()}
    fields = [(name, kinds.get(name, pa.string())) for name in Columns._fields]
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
    schema = pa.schema([*fields, ("vector", kind)])
    done = 0
    with pq.ParquetWriter(path, schema) as out:
        for block in _blocks(records, per_base):
            part = np.ascontiguousarray(vectors[done : done + len(block.name)])
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), type=kind)
            out.write_table(pa.Table.from_arrays([*map(pa.array, block), column], schema=schema))
            done += len(part)


def _write_h5(path: Path, vectors: np.ndarray, records: Sequence[Record], per_base: bool) -> None:
    h5py = _h5py()
    kinds = {"start": np.int64, "end": np.int64}
    with h5py.File(path, "w") as out:
        rows = len(vectors)
        into = out.create_dataset("vector", vectors.shape, vectors.dtype)
        columns = {
            name: out.create_dataset(name, (rows,), kinds.get(name) or h5py.string_dtype()) for name in Columns._fields
        }
        done = 0
        for block in _blocks(records, per_base):
            stop = done + len(block.name)
            into[done:stop] = vectors[done:stop]
            for name, values in block._asdict().items():
                columns[name][done:stop] = values
            done = stop


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
    except ImportError:
        raise ValueError(
            "--out: .parquet needs pyarrow, which is not installed: pip install 'titans-dna[tables]'"
        ) from None
    return pyarrow


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ValueError("--out: .h5 needs h5py, which is not installed: pip install 'titans-dna[tables]'") from None
    return h5py
