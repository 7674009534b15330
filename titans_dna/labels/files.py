"""Rows as they stand in files: a table, a FASTA file of one class, a folder of one class."""

from __future__ import annotations

import csv
import gzip
import io
import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from titans_dna.genome.records import GZIP_MAGIC, RecordReader

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
TABLES = (*SEPARATORS, ".parquet")
FASTAS = (".fa", ".fasta", ".fna", ".ffn", ".fas")


class Columns(NamedTuple):
    """Names of the columns of a table."""

    sequence: str = "sequence"
    label: tuple[str, ...] = ("label",)
    """One, or for a multilabel task one for each label."""
    split: str | None = None
    name: str | None = None


class RawRow(NamedTuple):
    """One row, unchecked but for what reading it needs."""

    name: str
    sequence: str | bytes
    label: str | tuple[str, ...]
    """Cell of the label column, or of each; the class for the other formats. Empty where it is missing."""
    split: str
    """Cell of the split column, or nothing."""
    where: str
    """File and row, for messages."""


def read_file(path: Path, columns: Columns) -> list[RawRow]:
    """The rows of a table, or the records of a sequence file, whose class is the file's name.

    Raises FileNotFoundError, IsADirectoryError, and ValueError for a file that is empty, damaged or lacks a column.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory, want a table ({', '.join(TABLES)}) or a FASTA file per class")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if suffix(path) not in TABLES:
        return list(_fasta(path))
    rows = list(_parquet(path, columns) if suffix(path) == ".parquet" else _text(path, columns))
    if not rows:
        raise ValueError(f"{path}: no rows, want at least one below the header")
    return rows


def read_class_folder(folder: Path) -> Iterator[RawRow]:
    """`<class>/<id>.txt`, a bare sequence in each; sorted by name. ValueError where there is none."""
    files = sorted(file for file in folder.iterdir() if file.suffix == ".txt" and file.is_file())
    if not files:
        raise ValueError(f"{folder}: no .txt files, want one for each sequence of the class")
    for file in files:
        yield RawRow(f"{folder.name}/{file.stem}", file.read_bytes().strip(), folder.name, "", str(file))


def suffix(path: Path) -> str:
    """The suffix before a `.gz`, lower-case."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def class_name(path: Path) -> str:
    """A sequence file's name without its suffixes."""
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return name[: -len(suffix(path))] if suffix(path) in FASTAS else Path(name).stem


def _fasta(path: Path) -> Iterator[RawRow]:
    pieces: list[bytes] = []
    name: str | None = None
    for found, piece in RecordReader(path):
        if found is not None:
            if name is not None:
                yield _record(path, name, pieces)
            name, pieces = found, []
        pieces.append(piece)
    assert name is not None, "the reader refuses a file without records"
    yield _record(path, name, pieces)


def _record(path: Path, name: str, pieces: list[bytes]) -> RawRow:
    return RawRow(name, b"".join(pieces), class_name(path), "", f"{path}, record {name!r}")


def _text(path: Path, columns: Columns) -> Iterator[RawRow]:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses cells of more than 131,072 letters
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            binary: Any = gzip.open(raw) if zipped else raw  # noqa: SIM115 (closed with `raw`, which it reads)
            text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
            reader = csv.reader(text, delimiter=SEPARATORS[suffix(path)])
            header = next(reader, None)
            if not header:
                raise ValueError(f"{path}: empty file, want a header and rows")
            find = _finder(path, header, columns)
            for cells in reader:
                if not cells:
                    continue
                where = f"{path}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise ValueError(f"{where}: got {len(cells)} cells, want {len(header)} as in the header")
                yield _row(columns, [cells[i] for i in find], str(reader.line_num), where)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip: {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not valid {suffix(path)[1:].upper()}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, columns: Columns) -> Iterator[RawRow]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(
            f"{path}: .parquet needs pyarrow, which is not installed: pip install 'titans-dna[tables]'"
        ) from None
    try:
        # A bare file: pq.read_table would take its folder's names for columns.
        with pq.ParquetFile(path) as file:
            header = file.schema_arrow.names
            wanted = [header[i] for i in _finder(path, header, columns)]
            table = file.read(columns=list(dict.fromkeys(wanted)))
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not valid parquet: {str(error).splitlines()[0]}") from None
    cells = [table.column(name).to_pylist() for name in wanted]
    for number, row in enumerate(zip(*cells, strict=True), 1):
        yield _row(columns, [_cell(value) for value in row], str(number), f"{path}, row {number}")


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _finder(path: Path, header: Sequence[str], columns: Columns) -> list[int]:
    """Where the wanted columns stand: sequence, split and name where they are asked for, then the labels."""
    places = []
    for name in _wanted(columns):
        found = [i for i, column in enumerate(header) if column.strip() == name]
        if len(found) != 1:
            problem = "no column" if not found else f"{len(found)} columns"
            have = ", ".join(repr(column.strip()[:40]) for column in header[:12])
            raise ValueError(f"{path}: {problem} {name!r}, want it once; the columns are {have}")
        places.append(found[0])
    return places


def _wanted(columns: Columns) -> Iterable[str]:
    optional = (name for name in (columns.split, columns.name) if name is not None)
    return (columns.sequence, *optional, *columns.label)


def _row(columns: Columns, cells: list[str], number: str, where: str) -> RawRow:
    sequence, *rest = (cell.strip() for cell in cells)
    split = rest.pop(0) if columns.split is not None else ""
    name = rest.pop(0) if columns.name is not None else number
    return RawRow(name, sequence, rest[0] if len(columns.label) == 1 else tuple(rest), split, where)
