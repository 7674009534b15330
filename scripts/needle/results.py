"""What a needle run leaves behind: every count as CSV, tables of accuracy over distance, and the plot."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from needle.probe import Answer
from titans_dna.run.files import NONE, markdown, write_csv, write_figure

CSV, MARKDOWN, PLOT = "results.csv", "needle.md", "needle.png"
CHANCE = 0.25
_Z = 1.959964


class Row(NamedTuple):
    """Answers of one kind at one distance."""

    model: str
    seed: int
    needles: int
    key_length: int
    distractors: int
    """1 where another key of the row differs from the asked one in one base, else 0."""
    distance: int
    words: int
    words_right: int
    bases: int
    bases_right: int


class Share(NamedTuple):
    """Of n answers, with the 95 % interval of Wilson (1927)."""

    value: float
    low: float
    high: float
    n: int


def wilson(right: int, n: int) -> Share:
    """The share right / n; NaN where n is 0."""
    if n == 0:
        return Share(math.nan, math.nan, math.nan, 0)
    p, z = right / n, _Z * _Z / n
    middle, half = (p + z / 2) / (1 + z), _Z * math.sqrt(p * (1 - p) / n + z / (4 * n)) / (1 + z)
    return Share(p, max(0.0, middle - half), min(1.0, middle + half), n)


def count(model: str, seed: int, answers: Iterable[Answer]) -> list[Row]:
    """Answers as rows, one for each kind and distance that there is."""
    found: dict[tuple[int, int, int, int], list[int]] = {}
    for question, distance, right in answers:
        kind = (question.needles, len(question.pair.key), int(question.distractor), distance)
        sums = found.setdefault(kind, [0, 0, 0, 0])
        for i, more in enumerate((1, int(all(right)), len(right), sum(right))):
            sums[i] += more
    return [Row(model, seed, *kind, *sums) for kind, sums in sorted(found.items())]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """CSV: the fields of `Row`, then shares with their intervals."""
    shares = [f"{of}_{what}" for of in ("word", "base") for what in ("accuracy", "low", "high")]
    lines = []
    for row in rows:
        found = (*wilson(row.words_right, row.words)[:3], *wilson(row.bases_right, row.bases)[:3])
        lines.append((*row, *(f"{value:.4f}" for value in found)))
    write_csv(path, (*Row._fields, *shares), lines)


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote. ValueError naming the file where it is damaged."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [
                Row(one["model"], *(int(one[name]) for name in Row._fields[1:]))
                for one in csv.DictReader(file, strict=True)
            ]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise ValueError(f"{path}: damaged, want the results of titans-dna bench needle") from None


def words(rows: Iterable[Row]) -> Share:
    """Share of whole values."""
    rows = list(rows)
    return wilson(sum(row.words_right for row in rows), sum(row.words for row in rows))


def bases(rows: Iterable[Row]) -> Share:
    """Share of bases. The interval takes them for independent, and the bases of one value are not: it is narrow."""
    rows = list(rows)
    return wilson(sum(row.bases_right for row in rows), sum(row.bases for row in rows))


def table(rows: Sequence[Row], title: str, share: Callable[[Iterable[Row]], Share]) -> str:
    """Markdown: a line a model, a column a distance; in % with the interval, – where it was not tested."""
    distances = sorted({row.distance for row in rows})
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        cells = [share(row for row in rows if (row.model, row.distance) == (model, distance)) for distance in distances]
        lines.append((model, *map(_cell, cells)))
    return markdown((title, *(f"{distance:,}" for distance in distances)), lines)


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Accuracy per base over distance: one panel for each number of needles, one line a model."""
    from matplotlib.figure import Figure

    groups = sorted({row.needles for row in rows})
    figure = Figure(figsize=(3 + 3.4 * len(groups), 4.4), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    models = list(dict.fromkeys(row.model for row in rows))
    for axes, needles in zip(panels, groups, strict=True):
        for i, model in enumerate(models):
            mine = [row for row in rows if (row.model, row.needles) == (model, needles)]
            distances = sorted({row.distance for row in mine})
            found = [bases(row for row in mine if row.distance == distance) for distance in distances]
            style = "-" if i < 10 else "--"
            axes.plot(distances, [one.value for one in found], style, color=f"C{i % 10}", marker="o", ms=3, label=model)
            axes.fill_between(
                distances, [one.low for one in found], [one.high for one in found], color=f"C{i % 10}", alpha=0.08
            )
        axes.axhline(CHANCE, color="0.3", linestyle=":", linewidth=1)
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="bases between needle and question")
        axes.set_title(f"{needles} needle{'s' if needles > 1 else ''} in a row", fontsize=10)
    panels[0].set_ylabel("bases of the value recalled")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    write_figure(path, figure)


def _cell(share: Share) -> str:
    if not share.n:
        return NONE
    return f"{100 * share.value:.0f} ({100 * share.low:.0f} to {100 * share.high:.0f})"
