"""The finished parts of an output, in a directory beside it, so that an interrupted run goes on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from titans_dna.run.files import replacing

PLAN = "plan.json"


class Parts:
    """Arrays by number, written whole or not at all; `fingerprint` is of all that they depend on."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        plan = folder / PLAN
        self.changed = plan.exists() and _read(plan) != fingerprint
        """Parts of something else were here, and are gone."""
        if self.changed:
            for old in folder.iterdir():
                old.unlink()
        with replacing(plan) as aside:
            aside.write_text(json.dumps({"fingerprint": fingerprint}) + "\n")

    def done(self, part: int, rows: int) -> bool:
        """Whether a part is there, with this number of rows."""
        try:
            return len(self.get(part)) == rows
        except (OSError, ValueError, EOFError):
            return False

    def get(self, part: int) -> np.ndarray:
        """A part's rows, mapped from its file."""
        return np.load(self._file(part), mmap_mode="r")

    def put(self, part: int, rows: np.ndarray) -> None:
        """Keep a part."""
        with replacing(self._file(part)) as aside, open(aside, "wb") as out:
            np.save(out, rows)

    def finish(self, files: Sequence[Path]) -> None:
        """Move files of these names from the directory to where they belong, in this order, and take it away."""
        for file in files:
            (self.folder / file.name).replace(file)
        shutil.rmtree(self.folder)

    def _file(self, part: int) -> Path:
        return self.folder / f"part-{part:06}.npy"


@contextmanager
def claim(out: Path) -> Iterator[Path]:
    """The directory of an output's parts, made where it is missing, for this process alone while it lasts.

    Raises ValueError where something else is there under its name or another process has it, OSError where it cannot
    be made.
    """
    folder = parts_folder(out)
    if folder.exists() and not (folder.is_dir() and ((folder / PLAN).exists() or not any(folder.iterdir()))):
        raise ValueError(f"{folder}: is not of titans-dna embed, want it out of the way")
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    except BlockingIOError:
        raise ValueError(f"{folder}: another titans-dna embed is at work there, want one at a time") from None
    finally:
        os.close(handle)


def parts_folder(out: Path) -> Path:
    """Where the parts of an output are kept."""
    return out.with_name(out.name + ".partial")


def _read(plan: Path) -> str | None:
    try:
        return json.loads(plan.read_text())["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return None
