"""Finished scores in the output directory, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from titans_dna.context.options import MODES
from titans_dna.run.files import replacing

PLAN, FOLDER = "context.json", "scores"


class Scores:
    """Bits of the scored bases by mode and context, in files that appear whole or not at all."""

    def __init__(self, directory: Path, plan: dict[str, Any], shape: tuple[int, int]) -> None:
        """plan: plain values that all scores depend on. shape: places, bases of each.

        Raises ValueError where the directory holds scores of another plan, and OSError where it cannot be used.
        """
        self.shape, self.folder = shape, directory / FOLDER
        if directory.exists() and not directory.is_dir():
            raise FileExistsError(f"--out: {directory} is a file, want a directory")
        file = directory / PLAN
        if file.exists():
            _check_same(file, plan)
        elif directory.is_dir() and any(directory.iterdir()):
            raise FileExistsError(f"--out: {directory} is not empty, want a new or an empty directory")
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as aside:
            aside.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")

    def get(self, mode: str, context: int) -> np.ndarray | None:
        """float32 [places, target], or None where it is not done, or its file is damaged."""
        try:
            found = np.load(self._file(mode, context))
        except (OSError, ValueError, EOFError):
            return None
        return found if found.shape == self.shape else None

    def put(self, mode: str, context: int, bits: np.ndarray) -> None:
        """Keep what is finished."""
        with replacing(self._file(mode, context)) as aside, open(aside, "wb") as out:
            np.save(out, bits)

    def all(self) -> dict[tuple[str, int], np.ndarray]:
        """All that is done, by mode and growing context."""
        names = [re.fullmatch(r"(\w+)-(\d+)\.npy", file.name) for file in self.folder.iterdir()]
        keys = sorted(
            ((match[1], int(match[2])) for match in names if match and match[1] in MODES),
            key=lambda key: (MODES.index(key[0]), key[1]),
        )
        found = {key: self.get(*key) for key in keys}
        return {key: bits for key, bits in found.items() if bits is not None}

    def _file(self, mode: str, context: int) -> Path:
        return self.folder / f"{mode}-{context}.npy"


def _check_same(file: Path, plan: dict[str, Any]) -> None:
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise ValueError(f"{file}: damaged, want what titans-dna bench context wrote")
    for name, value in plan.items():
        if saved.get(name) != value:
            raise ValueError(f"--out: {file.parent} holds scores of another {name}; want another directory")
