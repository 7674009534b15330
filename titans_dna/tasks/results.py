"""The table that a run ends in: our rows beside the baselines', on all test rows and on those that train does not have."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from titans_dna.labels.data import Task
from titans_dna.metrics.sequences import Estimate, spread
from titans_dna.run.files import replacing

OURS = "Titans (ours)"
MARKDOWN, CSV, JSON = "results.md", "results.csv", "results.json"
SHOWN: dict[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "mcc", "macro_f1", "auroc", "auprc"),
    "multiclass": ("accuracy", "mcc", "macro_f1", "auroc", "auprc"),
    "multilabel": ("exact_match", "macro_f1", "auroc", "auprc"),
    "regression": ("pearson", "spearman", "mse"),
}
"""Metrics of the Markdown table; the CSV file has all."""


class Scored(NamedTuple):
    """A model or baseline, with what it reached with each seed."""

    name: str
    seeds: list[int]
    all: list[dict[str, Estimate]]
    """On all test rows."""
    unseen: list[dict[str, Estimate]]
    """On the test rows that stand neither in train nor in validation, on either strand; empty where there are none."""


def write_results(directory: Path, task: Task, scored: Sequence[Scored], about: dict[str, Any], notes: str) -> None:
    """`results.csv`, `results.json` and `results.md`; `notes` stands below the table."""
    with replacing(directory / CSV) as aside, open(aside, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("model", "seed", "test_rows", "metric", "value", "low", "high"))
        for one in scored:
            for rows, runs in (("all", one.all), ("unseen", one.unseen)):
                for seed, run in zip(one.seeds, runs, strict=False):
                    for metric, found in run.items():
                        writer.writerow((one.name, seed, rows, metric, *map(_cell, found)))
    with replacing(directory / JSON) as aside:
        values = {**about, "results": [_plain(one) for one in scored]}
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    with replacing(directory / MARKDOWN) as aside:
        aside.write_text(table(task, scored) + "\n" + notes, encoding="utf-8")


def table(task: Task, scored: Sequence[Scored]) -> str:
    """Markdown: mean ± deviation over seeds, or for a single run its value and 95 % interval."""
    shown = SHOWN[task]
    unseen = any(one.unseen for one in scored)
    heads = ["model", "seeds", *(name.replace("_", " ") for name in shown)]
    heads += [f"{name.replace('_', ' ')}, unseen rows" for name in shown[:2]] * unseen
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in scored:
        cells = [one.name, str(len(one.seeds)), *(summary(one.all, name) for name in shown)]
        if unseen:
            cells += [summary(one.unseen, name) for name in shown[:2]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(runs: Sequence[dict[str, Estimate]], metric: str) -> str:
    """A metric in few characters."""
    if not runs:
        return "–"
    if len(runs) > 1:
        found = spread(runs)[metric]
        return f"{found.mean:.3f} ± {found.deviation:.3f}" if math.isfinite(found.mean) else "–"
    value, low, high = runs[0][metric]
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if math.isfinite(low) else "")


def _plain(one: Scored) -> dict[str, Any]:
    runs = {
        rows: [
            {metric: found.value if math.isfinite(found.value) else None for metric, found in run.items()}
            for run in some
        ]
        for rows, some in (("all", one.all), ("unseen", one.unseen))
    }
    return {"model": one.name, "seeds": one.seeds, **runs}


def _cell(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""
