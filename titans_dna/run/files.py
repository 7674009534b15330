"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; on the disk and renamed to `path` if the block succeeds, removed if it does not."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield aside
        handle = os.open(aside, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def check_writable(directory: Path, flag: str) -> None:
    """OSError naming the flag where no file can be made in a directory: before hours of work, not after."""
    try:
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(f"{flag}: {directory}: cannot be written in: {error.strerror}") from None
