"""`metrics.csv`: one row per optimiser step, on the disk at once, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from titans_dna.run.files import replacing

FILE = "metrics.csv"
COLUMNS = (
    "step",
    "loss",
    "bits_per_base",
    "valid_bits_per_base",
    "lr",
    "gradient_norm",
    "bases",
    "skipped",
    "seconds",
    "bases_per_second",
)


class MetricsFile:
    """Rows of numbers, one a step; a value that is not finite, or missing, is an empty cell.

    keep: the last step whose row stays of a file that is there already; rows of later steps, and one that was only
    half written, go. 0 starts a new file.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        rows = [row for row in read_metrics(path) if row["step"] <= keep] if keep else []
        with replacing(path) as aside, open(aside, "w", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(_cells(row) for row in rows)
        self._out = open(path, "a", newline="")  # noqa: SIM115 (closed by `close`)

    def write(self, row: dict[str, float]) -> None:
        """Add one row."""
        self._out.write(",".join(_cells(row)) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Close the file."""
        self._out.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Whole rows of a metrics file, empty cells left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    rows = [line.rstrip("\n").split(",") for line in lines[1:] if line.endswith("\n")]
    return [_numbers(row) for row in rows if len(row) == len(COLUMNS)]


def _numbers(row: list[str]) -> dict[str, float]:
    filled = {name: cell for name, cell in zip(COLUMNS, row, strict=True) if cell}
    return {name: int(cell) if cell.isdigit() else float(cell) for name, cell in filled.items()}


def _cells(row: dict[str, float]) -> list[str]:
    return ["" if not math.isfinite(row.get(name, math.nan)) else repr(row[name]) for name in COLUMNS]
