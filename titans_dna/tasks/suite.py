"""The data sets below a directory, one or two levels deep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from titans_dna.labels.files import TABLES, suffix
from titans_dna.labels.layout import default_root


def find_sets(root: str | None, only: Sequence[str]) -> dict[str, Path]:
    """Name → directory of each set, sorted by name, which is its path below the root: `human_nontata_promoters`, `tf/0`.

    root: by default where the genomic_benchmarks package keeps its sets.
    only: names, or their last parts; none for all.

    Raises ValueError where there is no set, or none of such a name; FileNotFoundError, NotADirectoryError.
    """
    top = default_root() if root is None else Path(root).expanduser()
    if not top.exists():
        raise FileNotFoundError(f"--root: {top}: no such directory")
    if not top.is_dir():
        raise NotADirectoryError(f"--root: {top} is a file, want a directory of data sets")
    found = {path.relative_to(top).as_posix(): path for path in _sets(top)}
    if not found:
        raise ValueError(f"--root: {top} holds no data sets, want <set>/train/<class>/*.txt or <set>/train.csv in it")
    if not only:
        return found
    chosen = {name: path for name, path in found.items() if name in only or path.name in only}
    missing = [name for name in only if name not in chosen and all(path.name != name for path in chosen.values())]
    if missing:
        raise ValueError(f"--only: {missing[0]!r} is not in {top}, which holds {', '.join(found)}")
    return chosen


def _sets(top: Path) -> Iterator[Path]:
    for folder in _folders(top):
        if _is_set(folder):
            yield folder
        else:
            yield from filter(_is_set, _folders(folder))


def _is_set(folder: Path) -> bool:
    tables = (one.name.partition(".")[0] == "train" and suffix(one) in TABLES for one in folder.iterdir())
    return (folder / "train").is_dir() or any(tables)


def _folders(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
