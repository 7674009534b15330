"""Files that appear whole or not at all, tables and pictures among them; and files that may be gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TextIO, cast

GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """While it lasts, what fails is said of `path`: the system does not say which file it could not write."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; on the disk and renamed to `path` if the block succeeds, removed if it does not."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with writing(path):
            yield aside
        handle = os.open(aside, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def take_room(file: BinaryIO, start: int, size: int) -> None:
    """Have bytes [start, start + size) of a file on the disk, zeros where there were none. OSError where there is no room."""
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, size)
        return
    file.seek(start)
    for first in range(0, size, 1 << 20):
        file.write(bytes(min(1 << 20, size - first)))
    file.flush()


def check_room(path: Path, size: int) -> None:
    """OSError naming `path` where a file of this size has no room: for libraries that do not come through that."""
    with writing(path), TemporaryFile(dir=path.parent) as file:
        take_room(cast(BinaryIO, file), 0, size)


def check_writable(directory: Path, flag: str) -> None:
    """OSError naming the flag where no file can be made in a directory: before hours of work, not after."""
    try:
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(f"{flag}: {directory}: cannot be written in: {error.strerror}") from None


@contextmanager
def open_binary(path: str | Path, want: str = "a file") -> Iterator[BinaryIO]:
    """A file to read, unpacked on the way where it is gzipped (bgzip included), whatever its name.

    want: what it should be, for messages. Raises FileNotFoundError, IsADirectoryError; and while it is read ValueError for a
    damaged gzip.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path}: is a directory, want {want}")
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, "rb") as raw:
        if not raw.peek(2).startswith(GZIP_MAGIC):
            yield raw
            return
        try:
            with gzip.open(raw) as stream:
                yield cast(BinaryIO, stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged or truncated gzip: {error}") from None


@contextmanager
def open_text(
    path: str | Path, want: str = "a file", *, errors: str = "replace", newline: str | None = None
) -> Iterator[TextIO]:
    """The same as text in UTF-8, a byte order mark left out; errors, newline: as `open` takes them."""
    with (
        open_binary(path, want) as stream,
        io.TextIOWrapper(cast(Any, stream), encoding="utf-8-sig", errors=errors, newline=newline) as text,
    ):
        yield text


NONE = "–"
"""What stands for a figure that there is not."""


def cell(value: float) -> str:
    """A number with all its digits, for programs; nothing for one that is not finite."""
    return repr(value) if math.isfinite(value) else ""


def shown(value: float | None, digits: int = 3) -> str:
    """A number for people."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], *, spaced: bool = False, bar: str = "/") -> str:
    """A table in Markdown. spaced: with spaces around the dashes below the head. bar: in place of a bar in a cell."""
    lines = ["| " + " | ".join(one.replace("|", bar) for one in line) + " |" for line in (heads, *rows)]
    rule = "| --- " if spaced else "|---"
    return "\n".join([lines[0], rule * len(heads) + "|", *lines[1:]]) + "\n"


def write_csv(path: Path, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as CSV."""
    with replacing(path) as aside, open(aside, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)


def write_text(path: Path, text: str) -> None:
    """A text file."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_figure(path: Path, figure: Any, dpi: int = 150) -> None:
    """A matplotlib `Figure` as PNG, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=dpi, format="png")
