"""The table as files: context.csv, context.md, context.png."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titans_dna.context.table import Estimate, Row, short
from titans_dna.run.files import replacing

CSV, MARKDOWN, PLOT = "context.csv", "context.md", "context.png"
COLUMNS = (
    *("mode", "context", "class", "bases", "bits_per_base", "difference", "low", "high"),
    *("to_on", "to_on_low", "to_on_high", "median_distance"),
)
_LABELS = {"on": "memory on", "reset": "memory reset every window", "off": "memory off"}
_READING = (
    "In brackets: the difference to the mode's shortest context on the same bases, with its 95 % bootstrap interval over "
    "places. Unique: the k-mer that ends with the base does not stand before it; recurring: it does; primed: the k-mer that "
    "ends just before the base does. Recurring bases are chosen by the answer, which flatters whoever copies; primed ones "
    "are not."
)
_SHOWN = ("all", "unmasked", "masked", "unique", "recurring", "primed")


def write_report(directory: Path, rows: Sequence[Row], about: str) -> str:
    """Write the three files, and return the table of all bases. about: what was measured, in lines of Markdown."""
    with replacing(directory / CSV) as aside, open(aside, "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            numbers = (row.bits_per_base, *row.to_shortest, *row.to_on, row.distance)
            shown = ["" if math.isnan(one) else f"{one:.6g}" for one in numbers]
            writer.writerow((row.mode, row.context, row.kind, row.bases, *shown))
    with replacing(directory / MARKDOWN) as aside:
        aside.write_text(_markdown(rows, about), encoding="utf-8")
    _plot(directory / PLOT, rows)
    return "\n".join(_by_context(rows, "all"))


def _markdown(rows: Sequence[Row], about: str) -> str:
    kinds = list(dict.fromkeys(row.kind for row in rows))
    lines = ["# Bits per base over context", "", about, "", _READING, ""]
    for kind in (one for one in kinds if one in _SHOWN):
        bases = next(row.bases for row in rows if row.kind == kind)
        lines += [f"## {kind.capitalize()} ({bases:,} bases)", "", *_by_context(rows, kind), ""]
    if any(not math.isnan(row.to_on.value) for row in rows):
        lines += ["## What is lost without the memory: minus memory on, after the same context", ""]
        lines += [*_against_on(rows), ""]
    mode = rows[0].mode
    lines += [f"## By where the most recent earlier occurrence lies before the stretch: {_LABELS[mode]}", ""]
    lines += [*_by_reach([row for row in rows if row.mode == mode]), ""]
    return "\n".join(lines)


def _by_context(rows: Sequence[Row], kind: str) -> list[str]:
    own = [row for row in rows if row.kind == kind]
    modes = list(dict.fromkeys(row.mode for row in own))
    lines = [_line("context", *(_LABELS[mode] for mode in modes)), _line(*["---"] * (1 + len(modes)))]
    for context in sorted({row.context for row in own}):
        by_mode = {
            row.mode: _bits(row.bits_per_base) + _signed(row.to_shortest) for row in own if row.context == context
        }
        lines.append(_line(short(context), *(by_mode.get(mode, "") for mode in modes)))
    return lines


def _against_on(rows: Sequence[Row]) -> list[str]:
    kinds = [one for one in dict.fromkeys(row.kind for row in rows) if one in _SHOWN]
    lines = [_line("mode", "context", *kinds), _line(*["---"] * (2 + len(kinds)))]
    for mode, context in dict.fromkeys((row.mode, row.context) for row in rows if row.mode != "on"):
        by_kind = {row.kind: _signed(row.to_on).strip() for row in rows if (row.mode, row.context) == (mode, context)}
        lines.append(_line(_LABELS[mode], short(context), *(by_kind[kind] for kind in kinds)))
    return lines


def _by_reach(rows: Sequence[Row]) -> list[str]:
    contexts = list(dict.fromkeys(row.context for row in rows))
    lines = [_line("class", "bases", "median bases back", *(f"{short(one)} read" for one in contexts))]
    lines.append(_line(*["---"] * (3 + len(contexts))))
    for kind in dict.fromkeys(row.kind for row in rows if " " in row.kind and not row.kind.endswith("context")):
        own = [row for row in rows if row.kind == kind]
        back = "" if math.isnan(own[0].distance) else f"{own[0].distance:,.0f}"
        lines.append(_line(kind, f"{own[0].bases:,}", back, *(_bits(row.bits_per_base) for row in own)))
    return lines


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _bits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _signed(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return ""
    if math.isnan(estimate.low):
        return f" ({estimate.value:+.4f})"
    return f" ({estimate.value:+.4f}; {estimate.low:+.4f} to {estimate.high:+.4f})"


def _plot(path: Path, rows: Sequence[Row]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    contexts = sorted({row.context for row in rows})
    figure = Figure(figsize=(15, 4), layout="constrained")
    panels: Any = figure.subplots(1, 4)
    for axes, kind in zip(panels, ("all", "unique", "recurring"), strict=False):
        bases = next(row.bases for row in rows if row.kind == kind)
        for mode in dict.fromkeys(row.mode for row in rows):
            own = [row for row in rows if (row.mode, row.kind) == (mode, kind)]
            axes.plot([row.context for row in own], [row.bits_per_base for row in own], marker="o", label=_LABELS[mode])
        axes.set(title=f"{kind}, {bases:,} bases", ylabel="bits per base")
    panels[0].legend(frameon=False)
    _plot_steps(panels[3], rows)
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, [short(one) for one in contexts])
        axes.minorticks_off()
        axes.set_xlabel("bases of context read")
    FigureCanvasAgg(figure)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _plot_steps(axes: Any, rows: Sequence[Row]) -> None:
    """What the context brings to the bases whose repeat lies so far back: falls where the memory uses it."""
    first = rows[0].mode
    kinds = [one for one in dict.fromkeys(row.kind for row in rows) if one.startswith("primed ") and "-" in one]
    for kind in kinds:
        own = [row for row in rows if (row.mode, row.kind) == (first, kind) and row.bases]
        if own:
            start = own[0].bits_per_base
            axes.plot(
                [row.context for row in own],
                [row.bits_per_base - start for row in own],
                marker="o",
                label=kind.removeprefix("primed "),
            )
    if axes.lines:
        axes.legend(frameon=False, title="repeat lies back")
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set(title=f"primed, {_LABELS[first]}", ylabel="bits per base minus shortest context")
