"""The tables and goals of memory_gpu.py: every cell is "unmeasured" until it is set."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gpu_timing import Time

UNMEASURED = "unmeasured"


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    note: str


OURS, PLAIN = "titans_kernels, triton", "titans_kernels, chunked PyTorch"
LAYER, PEER = "layer: titans_kernels, triton", "layer: titans-pytorch 0.5.5"
DELTA, TTT = "chunk_gated_delta_rule", "chunk_ttt_linear"
MATRIX_SHARE = "share of the matrix rate"
TIMES = ("rows", "forward, ms", "forward + backward, ms", "tokens/s", "peak, GiB", MATRIX_SHARE)
LENGTHS = tuple(2**n for n in range(12, 21))
KERNELS = ("share_kernel", "write_mlp_kernel", "read_mlp_kernel", "read_mlp_backward_kernel", "read_mlp_onto_kernel",
           "write_mlp_backward_kernel", "share_backward_kernel", "everything else")  # fmt: skip
PROFILED = ("launches", "measured, ms", "floor, ms", "estimate, ms")

CARD = Table("Card", ("measured",), ("bf16 matrix product, TFLOP/s", "copy, TB/s"), "8192³ on random data; 4 GiB.")
TWO = Table("L = 2", TIMES, (OURS, PLAIN, LAYER, PEER), "16 rows × 16,384 tokens, 8 heads; fewer rows where they did not "
            "fit. A layer has projections of q, k, v, gates and output, bf16 by autocast.")  # fmt: skip
ONE = Table("L = 1", TIMES, (OURS, PLAIN, DELTA, TTT), "16 rows × 16,384 tokens, 8 heads. The last two are "
            "flash-linear-attention's.")  # fmt: skip
LENGTH = Table(
    "Length",
    ("ours, ms", "ours, tokens/s", "ours, peak GiB", "ours, extra memory", "flash attention, ms", "cuDNN attention, ms"),
    tuple(f"{n:,}" for n in LENGTHS),
    "Batch 1, 8 heads, L = 2, forward + backward. Extra memory: beyond inputs, outputs and their gradients, as a part of them. "
    "Attention is causal, PyTorch's own kernels.",
)  # fmt: skip
DECODE = Table("Decode", ("one token, µs", "copy of memory and momentum, µs", "copy with the anchor, µs", "ratio"),
               ("L = 2", "L = 1"),
               "64 sequences, 8 heads, float32 states, in a CUDA graph. Ratio: to the first copy.")  # fmt: skip
PARTS = Table("Kernels, 128 lanes × 16,384 tokens", PROFILED, KERNELS, "L = 2, one forward + backward.")
LONG_PARTS = Table("Kernels, 8 lanes × 1,048,576 tokens", PROFILED, KERNELS, "Likewise.")
TABLES = (CARD, TWO, ONE, LENGTH, DECODE, PARTS, LONG_PARTS)


class Goal(NamedTuple):
    text: str
    value: Callable[[Report], float | None]
    met: Callable[[float], bool]
    form: str


class Report:
    """What has been measured so far."""

    def __init__(self, about: dict[str, str], dry: bool = False) -> None:
        self.about, self.dry = about, dry
        self.cells: dict[tuple[str, str, str], tuple[str, float | None, Time | None]] = {}
        self.notes: list[str] = []
        self.checks: list[tuple[str, str, str]] = []

    def set(self, table: Table, row: str, column: str, value: float | str, form: str = "{:,.3g}") -> None:
        number = None if isinstance(value, str) else value
        self._put(table, row, column, value if isinstance(value, str) else form.format(value), number, None)

    def time(self, table: Table, row: str, column: str, found: Time, scale: float = 1.0) -> None:
        """With its range; milliseconds times `scale`."""
        a, b, c = (f"{x * scale:,.4g}" for x in found[:3])
        self._put(table, row, column, f"{a} ({b} to {c})", found.median * scale, found)

    def _put(self, table: Table, row: str, column: str, text: str, number: float | None, found: Time | None) -> None:
        if column not in table.columns or row not in table.rows:
            raise KeyError(f"{table.title}: no cell {row!r}, {column!r}")
        self.cells[table.title, row, column] = (text, number, found)

    def number(self, table: Table, row: str, column: str) -> float | None:
        return self.cells.get((table.title, row, column), ("", None, None))[1]

    def note(self, line: str) -> None:
        print(line, flush=True)
        self.notes.append(line)

    def write(self, folder: Path) -> None:
        """memory_gpu.md and memory_gpu.csv."""
        self.write_markdown(folder)
        with (folder / "memory_gpu.csv.part").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["table", "row", "column", "value", "least", "most", "calls", "text"])
            for (table, row, column), (text, number, found) in self.cells.items():
                spread = ["", "", ""] if found is None else [found.least, found.most, found.calls]
                writer.writerow([table, row, column, "" if number is None else number, *spread, text])
        os.replace(folder / "memory_gpu.csv.part", folder / "memory_gpu.csv")

    def write_markdown(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / "memory_gpu.md", self.markdown())

    def markdown(self) -> str:
        lines = ["# The memory's kernels on a GPU", ""]
        lines += [f"- {name}: {value}" for name, value in self.about.items()]
        lines += [
            "",
            "bf16, D = V = 64, chunk 64, E = 2D. Medians; in brackets the least and the most.",
            "",
            *self.goals(),
        ]
        for table in TABLES:
            lines += [
                "",
                f"## {table.title}",
                "",
                table.note,
                "",
                _row(["", *table.columns]),
                _row(["---"] * (1 + len(table.columns))),
            ]
            for row in table.rows:
                cells = [self.cells.get((table.title, row, c), (UNMEASURED, None, None))[0] for c in table.columns]
                lines.append(_row([row, *cells]))
        lines += [
            "",
            "## Checks",
            "",
            *([_row(["check", "result", "error"]), _row(["---"] * 3)] if self.checks else [UNMEASURED]),
        ]
        lines += [_row(check) for check in self.checks]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def goals(self) -> list[str]:
        """A line each: met, missed or unmeasured."""
        lines = ["## Goals, forward and backward", "", _row(["goal", "measured", "result"]), _row(["---"] * 3)]
        for goal in GOALS:
            value = None if self.dry else goal.value(self)
            if value is None:
                lines.append(_row([goal.text, UNMEASURED, UNMEASURED]))
            else:
                lines.append(_row([goal.text, goal.form.format(value), "met" if goal.met(value) else "**missed**"]))
        return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def _ratio(table: Table, row: str, other: str) -> Callable[[Report], float | None]:
    return lambda report: _over(report.number(table, row, "tokens/s"), report.number(table, other, "tokens/s"))


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _steady(report: Report) -> float | None:
    return _over(*(report.number(LENGTH, f"{n:,}", "ours, tokens/s") for n in (2**20, 2**16)))


def _crossing(report: Report) -> float | None:
    """The least measured length from which on ours is the faster; infinite where it is slower at the longest."""
    crossing = None
    for n in LENGTHS:
        ours, theirs = (report.number(LENGTH, f"{n:,}", c) for c in ("ours, ms", "flash attention, ms"))
        if ours is None or theirs is None:
            continue
        if ours > theirs:
            crossing = float("inf")
        elif crossing in (None, float("inf")):
            crossing = float(n)
    return crossing


GOALS = (
    Goal("L = 2: at least 50× titans-pytorch", _ratio(TWO, LAYER, PEER), lambda x: x >= 50, "{:.1f}×"),
    Goal("L = 2: at least 20× our chunked PyTorch", _ratio(TWO, OURS, PLAIN), lambda x: x >= 20, "{:.1f}×"),
    Goal("L = 2: useful operations at 25 % of the card's measured bf16 matrix rate or more",
         lambda report: report.number(TWO, OURS, MATRIX_SHARE),
         lambda x: x >= 0.25, "{:.1%}"),
    Goal("L = 1: at least the tokens/s of chunk_gated_delta_rule", _ratio(ONE, OURS, DELTA), lambda x: x >= 1, "{:.2f}×"),
    Goal("a million tokens, batch 1, 8 heads, L = 2: extra memory 10 % at most",
         lambda report: report.number(LENGTH, f"{2**20:,}", "ours, extra memory"), lambda x: x <= 0.1, "{:.1%}"),
    Goal("a million tokens: tokens/s at 1,048,576 within 5 % of those at 65,536", _steady, lambda x: x >= 0.95, "{:.1%}"),
    Goal("faster than flash attention, from a length that is found", _crossing, lambda x: x < float("inf"), "{:,.0f} tokens"),
    Goal("decode, L = 2: one token for 64 sequences within 3× of copying memory and momentum",
         lambda report: report.number(DECODE, "L = 2", "ratio"), lambda x: x <= 3, "{:.2f}×"),
)  # fmt: skip
