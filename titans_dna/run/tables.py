"""Tables and pictures for people and programs, written whole or not at all."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from titans_dna.run.files import replacing

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
