"""Where the splits of a data set lie: directories as GenomicBenchmarks and GUE lay them out, or files by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from titans_dna.labels.files import FASTAS, TABLES, Columns, RawRow, read_class_folder, read_file, suffix

SPLITS = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""What a split is called in file names and in a split column, and what it is called here."""

Paths = str | Path | Sequence[str | Path]
RawSplits = dict[str, list[RawRow]]


def default_root() -> Path:
    """Where the genomic_benchmarks package keeps its data sets."""
    return Path.home() / ".genomic_benchmarks"


def read_splits(what: Paths, valid: Paths | None, test: Paths | None, columns: Columns, root: Path) -> RawSplits:
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


def read_split(what: Paths, split: str | None, columns: Columns, root: Path) -> tuple[str, list[RawRow]]:
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
    return folder is not None and any(_folders(folder / name) for name in ("train", "test"))


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
    known = ", ".join(folder.name for folder in _folders(root)) or "none"
    raise FileNotFoundError(f"{path}: no such file or directory, nor a data set under {root} (there: {known})")


def _read_folder(folder: Path, columns: Columns) -> RawSplits:
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
    inside = [one.name for one in _folders(folder) if (one / "train").is_dir()]
    hint = f"; it holds data sets: {', '.join(inside)}" if inside else ""
    raise ValueError(
        f"{folder}: no train split, want train/<class>/*.txt, train/<class>.fa, train.csv or <class>.fa{hint}"
    )


def _split_paths(folder: Path) -> list[tuple[str, Path]]:
    paths = [one for one in _folders(folder) if one.name in SPLITS]
    paths += [one for one in _files(folder, TABLES) if _stem(one) in SPLITS]
    return [(SPLITS[_stem(path)], path) for path in paths]


def _read_split(path: Path, columns: Columns) -> list[RawRow]:
    if path.is_file():
        return read_file(path, columns)
    rows = [row for folder in _folders(path) for row in read_class_folder(folder)]
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
    if row.split.lower() not in SPLITS:
        raise ValueError(f"{row.where}: got {row.split!r} in column {column!r}, want train, valid or test")
    return SPLITS[row.split.lower()]


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))


def _files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    files = (one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    return sorted(one for one in files if suffix(one) in suffixes)


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.name.partition(".")[0]
