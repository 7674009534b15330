"""What was measured: one row for each model, pass and length, in a CSV."""

from __future__ import annotations

import csv
import dataclasses
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from long_context.models import peer_version
from titans_dna.run.files import replacing

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Settings:
    """What all rows of one table share."""

    preset: str
    piece: int
    device: str
    machine: str
    threads: int
    torch: str
    peer: str


@dataclass(frozen=True)
class Row:
    """One model, pass and length. Rates in tokens a second, memory in units of 2^20 bytes; empty where it was stopped."""

    model: str
    pass_: str
    length: int
    status: str
    """ok, over 16 GB, over 300 s, or failed."""
    rate: float | None
    """Median."""
    slowest: float | None
    fastest: float | None
    repeats: int
    peak: float | None
    """Of the process, torch and all."""
    over_baseline: float | None
    """Beyond what the process held before the model was made."""
    parameters: int
    finite: str
    """yes, or no where an output is infinite or NaN."""
    memory_limit: float
    seconds_limit: float
    date: str
    preset: str
    piece: int
    device: str
    machine: str
    threads: int
    torch: str
    peer: str

    @property
    def key(self) -> Key:
        return self.model, self.pass_, self.length

    @property
    def settings(self) -> Settings:
        return Settings(*(getattr(self, field.name) for field in dataclasses.fields(Settings)))


COLUMNS = {
    "pass_": "pass", "rate": "tokens_per_second", "slowest": "slowest_tokens_per_second",
    "fastest": "fastest_tokens_per_second", "peak": "peak_mb", "over_baseline": "peak_over_baseline_mb",
    "memory_limit": "memory_limit_gb", "seconds_limit": "seconds_limit", "torch": "torch_version",
    "peer": "titans_pytorch_version",
}  # fmt: skip


def make_row(
    key: Key, marks: list[dict[str, Any]], status: str, limits: tuple[float, float], settings: Settings
) -> Row:
    """A row from the marks of its length, or, where there are none, from what stopped it."""
    rates = sorted(key[2] / mark["seconds"] for mark in marks)
    return Row(
        *key,
        status,
        round(statistics.median(rates), 1) if rates else None,
        round(rates[0], 1) if rates else None,
        round(rates[-1], 1) if rates else None,
        len(rates),
        round(marks[0]["peak"], 1) if marks else None,
        round(marks[0]["peak"] - marks[0]["baseline"], 1) if marks else None,
        marks[0]["parameters"] if marks else 0,
        ("yes" if all(mark["finite"] for mark in marks) else "no") if marks else "",
        *limits,
        time.strftime("%Y-%m-%d"),
        *dataclasses.astuple(settings),
    )


def read_rows(path: Path) -> dict[Key, Row]:
    """The rows of a table. Raises ValueError where the file is not one."""
    if not path.exists():
        return {}
    fields = dataclasses.fields(Row)
    rows = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            try:
                values = [_parse(str(field.type), line[COLUMNS.get(field.name, field.name)]) for field in fields]
            except (KeyError, ValueError, TypeError):
                raise ValueError(f"{path}: not a table of this program; want another --out, or --fresh") from None
            row = Row(*values)
            rows[row.key] = row
    return rows


def write_rows(path: Path, rows: dict[Key, Row]) -> None:
    with replacing(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([COLUMNS.get(field.name, field.name) for field in dataclasses.fields(Row)])
        writer.writerows(dataclasses.astuple(row) for row in rows.values())


def this_machine(device: str) -> str:
    """The processor's model and how many, the memory, and the GPU where it is the one that measures."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line] if (
        info.exists()
    ) else []  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    text = f"{models[0] if models else platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GB, {platform.system()}"
    return f"{torch.cuda.get_device_name()}; {text}" if device == "cuda" else text


def these_settings(preset: str, piece: int, device: str, threads: int) -> Settings:
    return Settings(preset, piece, device, this_machine(device), threads, torch.__version__, peer_version())


def _parse(kind: str, text: str) -> Any:
    if kind == "int":
        return int(text)
    if kind.startswith("float"):
        return float(text) if text else None
    return text
