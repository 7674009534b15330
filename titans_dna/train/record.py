"""What a training keeps: rows of figures, on the disk at once, and the checkpoint, whole at any moment."""

from __future__ import annotations

import csv
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from titans_dna.run.files import cell, replacing, writing

CHECKPOINT, METRICS = "checkpoint.pt", "metrics.csv"
FORMAT = "titans-dna training 1"


class Record:
    """Rows of numbers as CSV, one a step, and as TensorBoard events where a directory for them is given.

    columns: of the table; by default the names of the first row. A value that is not finite, or missing, is an empty cell.
    """

    def __init__(self, path: Path, columns: Sequence[str] = (), events: Path | None = None) -> None:
        self.path, self.columns, self.events = path, tuple(columns), events
        self._out: Any = None
        self._board: Any = None

    def open(self, keep: int = 0) -> None:
        """Begin to write. keep: the last step whose row stays of a file that is there already; rows of later steps, and one
        that was only half written, go."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= keep]
        self.columns = self.columns or _columns(self.path if rows else None)
        with replacing(self.path) as aside, open(aside, "w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerows([self.columns] * bool(self.columns))
            writer.writerows([cell(row.get(name, float("nan"))) for name in self.columns] for row in rows)
        self._out = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115 (closed by `close`)
        if self.events is not None:
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            place = {"root_dir": self.events.parent, "name": None, "version": self.events.name}
            self._board = TensorBoardLogger(**place, purge_step=keep + 1)

    def write(self, row: dict[str, float]) -> None:
        """Add one row; it has a "step"."""
        with writing(self.path):
            if not self.columns:
                self.columns = tuple(row)
                self._out.write(",".join(self.columns) + "\n")
            self._out.write(",".join(cell(row.get(name, float("nan"))) for name in self.columns) + "\n")
            self._out.flush()
        if self._board is not None:
            self._board.log_metrics({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def close(self) -> None:
        """Close the files."""
        if self._out is not None:
            self._out.close()
        if self._board is not None:
            self._board.finalize("success")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Whole rows of a file that `Record` wrote, empty cells left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    columns = _columns(path)
    rows = [line.rstrip("\n").split(",") for line in lines[1:] if line.endswith("\n")]
    filled = [
        {name: one for name, one in zip(columns, row, strict=False) if one} for row in rows if len(row) == len(columns)
    ]
    return [{name: int(one) if one.isdigit() else float(one) for name, one in row.items()} for row in filled]


def _columns(path: Path | None) -> tuple[str, ...]:
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
    return tuple(lines[0].split(",")) if lines else ()


class _Out:
    """A file that torch writes to, which has words of its own for what goes wrong: here that is kept, for `check`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: BaseException | None = None

    def write(self, data: Any) -> int:
        """All of it, as torch is told."""
        try:
            if self._error is None:
                self._file.write(data)
        except BaseException as error:
            self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing more than `write` does."""

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error


def write_checkpoint(path: Path, values: dict[str, Any]) -> None:
    """Plain values and tensors as a file: until the new one is on the disk, the old one stays."""
    with replacing(path) as aside, open(aside, "wb") as file:
        out = _Out(file)
        torch.save({"format": FORMAT, **values}, out)  # pyright: ignore[reportArgumentType]
        out.check()


def read_checkpoint(path: Path, run: str = "") -> dict[str, Any] | None:
    """What `write_checkpoint` wrote, or version 0.1.0, on the CPU; None where there is no file.

    run: the digest of the run it must be of. Only plain values and tensors are ever unpickled. Raises ValueError for a file
    that is truncated, damaged, something else or of another run.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as parts:
            if parts.testzip() is not None:  # torch itself does not look at the checksums
                raise zipfile.BadZipFile
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError):
        raise ValueError(f"{path}: truncated or damaged checkpoint") from None
    readers = {FORMAT: dict, "titans-dna run 1": _of_pretraining, "titans-dna fine-tuning 1": _of_finetuning}
    kind = values.get("format") if isinstance(values, dict) else None
    if kind not in readers:
        raise ValueError(f"{path}: got some other file, want a checkpoint of a training")
    if run and values.get("run", run) != run:
        raise ValueError(f"{path}: is of another run than that of this directory")
    return readers[kind](values)


def _of_pretraining(values: dict[str, Any]) -> dict[str, Any]:
    """As version 0.1.0 wrote it; `about` has what that compared of the data."""
    return {
        **{name: values["counters"][name] for name in ("step", "skipped_in_a_row")},
        "seconds": values["about"]["seconds"],
        "outcome": "running",
        "model": values["model"],
        "optimiser": values["optimiser"],
        "best": None,
        "since": 0,
        "own": {"state": values["state"], "device": values["device"]},
        "about": values["about"],
    }


def _of_finetuning(values: dict[str, Any]) -> dict[str, Any]:
    """As version 0.1.0 wrote it."""
    row = next((row for row in values["history"] if row["step"] == values["best_step"]), {})
    best = {"weights": values["best"], "value": values["best_value"], "row": row} if values["best"] else None
    return {
        **{name: values[name] for name in ("step", "outcome", "model", "optimiser", "since")},
        "skipped_in_a_row": 0,
        "seconds": 0.0,
        "best": best,
        "own": {"losses": values["losses"]},
    }
