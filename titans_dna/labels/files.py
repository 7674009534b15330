"""Rows as they stand in files: a table, a FASTA file of one class, a folder of one class; and where the files of a set lie.

That is directories as GenomicBenchmarks and GUE lay them out, or files by name.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from titans_dna.genome.intervals import SPLIT_NAMES
from titans_dna.genome.records import RecordReader
from titans_dna.run.files import open_text

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
TABLES = (*SEPARATORS, ".parquet")
FASTAS = (".fa", ".fasta", ".fna", ".ffn", ".fas")

Paths = str | Path | Sequence[str | Path]
RawSplits = dict[str, list["RawRow"]]


class TableColumns(NamedTuple):
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


def read_file(path: Path, columns: TableColumns) -> list[RawRow]:
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


def _text(path: Path, columns: TableColumns) -> Iterator[RawRow]:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses cells of more than 131,072 letters
    try:
        with open_text(path, errors="strict", newline="") as text:
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
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not valid {suffix(path)[1:].upper()}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, columns: TableColumns) -> Iterator[RawRow]:
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
        yield _row(columns, [_plain(value) for value in row], str(number), f"{path}, row {number}")


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _finder(path: Path, header: Sequence[str], columns: TableColumns) -> list[int]:
    """Where the wanted columns stand: sequence, split and name where they are asked for, then the labels."""
    places = []
    for name in _wanted(columns):
        found = [i for i, column in enumerate(header) if column.strip() == name]
        if len(found) != 1:
            problem = "no column" if not found else f"{len(found)} columns"
            near = [column for column in header if column.strip().lower() == name.lower()]
            problem += f" {name!r}, want it once" + (
                f"; did you mean {near[0].strip()!r}?" if near and not found else ""
            )
            have = ", ".join(repr(column.strip()[:40]) for column in header[:12])
            raise ValueError(f"{path}: {problem}; the columns are {have}")
        places.append(found[0])
    return places


def _wanted(columns: TableColumns) -> Iterable[str]:
    optional = (name for name in (columns.split, columns.name) if name is not None)
    return (columns.sequence, *optional, *columns.label)


def _row(columns: TableColumns, cells: list[str], number: str, where: str) -> RawRow:
    sequence, *rest = (cell.strip() for cell in cells)
    split = rest.pop(0) if columns.split is not None else ""
    name = rest.pop(0) if columns.name is not None else number
    return RawRow(name, sequence, rest[0] if len(columns.label) == 1 else tuple(rest), split, where)


def default_root() -> Path:
    """Where the genomic_benchmarks package keeps its data sets."""
    return Path.home() / ".genomic_benchmarks"


def read_splits(what: Paths, valid: Paths | None, test: Paths | None, columns: TableColumns, root: Path) -> RawSplits:
    """Rows of `train`, and of `valid` and `test` where there are such."""
    paths = _paths("data", what)
    folder = _folder(paths, root)
    if folder is None:
        given = {"valid": valid, "test": test}
        splits = {"train": paths, **{name: _paths(name, some) for name, some in given.items() if some is not None}}
        found = {name: [row for path in some for row in read_file(path, columns)] for name, some in splits.items()}
        return found if columns.split is None else _by_column(found, columns.split)
    for name, value in (("valid", valid), ("test", test), ("split", columns.split)):
        if value is not None:
            raise ValueError(f"{name}: got {value!r} beside the directory {folder}, which holds its own splits")
    return _read_folder(folder, columns)


def read_split(what: Paths, split: str | None, columns: TableColumns, root: Path) -> tuple[str, list[RawRow]]:
    """Rows to score, and the split that they are: `test` where there is one, else `all`, unless `split` names one.

    A split of its own is enough; there need be no train.
    """
    paths = _paths("data", what)
    folder = _folder(paths, root)
    if folder is not None and columns.split is not None:
        raise ValueError(f"split_column: got {columns.split!r} beside the directory {folder}, want it with files alone")
    if folder is not None and (found := _split_paths(folder)):
        chosen = _chosen(split, [name for name, _ in found], str(folder))
        return chosen, [row for name, path in found if chosen in (name, "all") for row in _read_split(path, columns)]
    if folder is not None:
        rows = _read_split(folder, columns)
    else:
        rows = [row for path in paths for row in read_file(path, columns)]
    named = [_split_name(row, columns.split) for row in rows] if columns.split is not None else []
    chosen = _chosen(split, named, ", ".join(map(str, paths)))
    return chosen, [
        row for row, name in zip(rows, named or ["all"] * len(rows), strict=True) if chosen in (name, "all")
    ]


def is_genomic_benchmark(what: Paths, root: Path) -> bool:
    """Whether it is a directory, or a data set's name, in the layout of GenomicBenchmarks."""
    folder = _folder(_paths("data", what), root)
    return folder is not None and any(folders(folder / name) for name in ("train", "test"))


def _chosen(split: str | None, there: Sequence[str], source: str) -> str:
    if split is not None and split not in there:
        raise ValueError(
            f"{source}: no {split} split, want one of {', '.join(dict.fromkeys(there)) or 'none: no split'}"
        )
    return split or ("test" if "test" in there else "all")


def _paths(name: str, given: Paths) -> list[Path]:
    listed = [given] if isinstance(given, str | Path) else list(given)
    if not listed or any(not str(one) for one in listed):
        raise ValueError(f"{name}: got {given!r}, want a file or a directory")
    return [Path(one).expanduser() for one in listed]


def _folder(paths: list[Path], root: Path) -> Path | None:
    """The directory that is meant; None for files."""
    if len(paths) != 1 or paths[0].is_file():
        return None
    path = paths[0]
    if path.is_dir():
        return path
    if len(path.parts) == 1 and (root / path).is_dir():
        return root / path
    if suffix(path) in (*TABLES, *FASTAS):
        return None
    known = ", ".join(folder.name for folder in folders(root)) or "none"
    raise FileNotFoundError(f"{path}: no such file or directory, nor a data set under {root} (there: {known})")


def _read_folder(folder: Path, columns: TableColumns) -> RawSplits:
    found: RawSplits = {}
    for name, path in _split_paths(folder):
        if name in found:
            raise ValueError(f"{path}: a second {name} split in {folder}, want one")
        found[name] = _read_split(path, columns)
    if "train" in found:
        return found
    fastas = _files(folder, FASTAS)
    if fastas and not found:
        return {"train": [row for path in fastas for row in read_file(path, columns)]}
    inside = [one.name for one in folders(folder) if (one / "train").is_dir()]
    hint = f"; it holds data sets: {', '.join(inside)}" if inside else ""
    raise ValueError(
        f"{folder}: no train split, want train/<class>/*.txt, train/<class>.fa, train.csv or <class>.fa{hint}"
    )


def _split_paths(folder: Path) -> list[tuple[str, Path]]:
    paths = [one for one in folders(folder) if one.name.lower() in SPLIT_NAMES]
    paths += [one for one in _files(folder, TABLES) if _stem(one) in SPLIT_NAMES]
    return [(SPLIT_NAMES[_stem(path)], path) for path in paths]


def _read_split(path: Path, columns: TableColumns) -> list[RawRow]:
    if path.is_file():
        return read_file(path, columns)
    rows = [row for folder in folders(path) for row in read_class_folder(folder)]
    rows += [row for file in _files(path, FASTAS) for row in read_file(file, columns)]
    if not rows:
        raise ValueError(f"{path}: no classes, want <class>/*.txt or <class>.fa")
    return rows


def _by_column(found: RawSplits, column: str) -> RawSplits:
    if set(found) != {"train"}:
        raise ValueError(f"split: got the column {column!r} beside valid or test files, want one or the other")
    splits: RawSplits = {}
    for row in found["train"]:
        splits.setdefault(_split_name(row, column), []).append(row)
    if "train" not in splits:
        raise ValueError(f"{found['train'][0].where.rpartition(',')[0]}: no row is train in column {column!r}")
    return splits


def _split_name(row: RawRow, column: str) -> str:
    if row.split.lower() not in SPLIT_NAMES:
        raise ValueError(f"{row.where}: got {row.split!r} in column {column!r}, want train, valid or test")
    return SPLIT_NAMES[row.split.lower()]


def folders(path: Path) -> list[Path]:
    """The directories in one, sorted, without hidden ones; none where it is no directory."""
    if not path.is_dir():
        return []
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))


def _files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    files = (one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    return sorted(one for one in files if suffix(one) in suffixes)


def _stem(path: Path) -> str:
    return (path.name if path.is_dir() else path.name.partition(".")[0]).lower()
