"""The table as files: context.csv, context.md, context.png."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titans_dna.context.table import Row, short
from titans_dna.metrics.sequences import Estimate
from titans_dna.run.tables import markdown, write_csv, write_figure, write_text

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
    lines = []
    for row in rows:
        numbers = (row.bits_per_base, *row.to_shortest, *row.to_on, row.distance)
        shown = ["" if math.isnan(one) else f"{one:.6g}" for one in numbers]
        lines.append((row.mode, row.context, row.kind, row.bases, *shown))
    write_csv(directory / CSV, COLUMNS, lines)
    write_text(directory / MARKDOWN, _text(rows, about))
    write_figure(directory / PLOT, _plot(rows))
    return _by_context(rows, "all").rstrip("\n")


def _text(rows: Sequence[Row], about: str) -> str:
    kinds = list(dict.fromkeys(row.kind for row in rows))
    text = f"# Bits per base over context\n\n{about}\n\n{_READING}\n\n"
    for kind in (one for one in kinds if one in _SHOWN):
        bases = next(row.bases for row in rows if row.kind == kind)
        text += f"## {kind.capitalize()} ({bases:,} bases)\n\n{_by_context(rows, kind)}\n"
    if any(not math.isnan(row.to_on.value) for row in rows):
        text += "## What is lost without the memory: minus memory on, after the same context\n\n"
        text += _against_on(rows) + "\n"
    mode = rows[0].mode
    text += f"## By where the most recent earlier occurrence lies before the stretch: {_LABELS[mode]}\n\n"
    return text + _by_reach([row for row in rows if row.mode == mode])


def _by_context(rows: Sequence[Row], kind: str) -> str:
    own = [row for row in rows if row.kind == kind]
    modes = list(dict.fromkeys(row.mode for row in own))
    lines = []
    for context in sorted({row.context for row in own}):
        by_mode = {
            row.mode: _bits(row.bits_per_base) + _signed(row.to_shortest) for row in own if row.context == context
        }
        lines.append((short(context), *(by_mode.get(mode, "") for mode in modes)))
    return markdown(("context", *(_LABELS[mode] for mode in modes)), lines, spaced=True)


def _against_on(rows: Sequence[Row]) -> str:
    kinds = [one for one in dict.fromkeys(row.kind for row in rows) if one in _SHOWN]
    lines = []
    for mode, context in dict.fromkeys((row.mode, row.context) for row in rows if row.mode != "on"):
        by_kind = {row.kind: _signed(row.to_on).strip() for row in rows if (row.mode, row.context) == (mode, context)}
        lines.append((_LABELS[mode], short(context), *(by_kind[kind] for kind in kinds)))
    return markdown(("mode", "context", *kinds), lines, spaced=True)


def _by_reach(rows: Sequence[Row]) -> str:
    contexts = list(dict.fromkeys(row.context for row in rows))
    lines = []
    for kind in dict.fromkeys(row.kind for row in rows if " " in row.kind and not row.kind.endswith("context")):
        own = [row for row in rows if row.kind == kind]
        back = "" if math.isnan(own[0].distance) else f"{own[0].distance:,.0f}"
        lines.append((kind, f"{own[0].bases:,}", back, *(_bits(row.bits_per_base) for row in own)))
    heads = ("class", "bases", "median bases back", *(f"{short(one)} read" for one in contexts))
    return markdown(heads, lines, spaced=True)


def _bits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _signed(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return ""
    if math.isnan(estimate.low):
        return f" ({estimate.value:+.4f})"
    return f" ({estimate.value:+.4f}; {estimate.low:+.4f} to {estimate.high:+.4f})"


def _plot(rows: Sequence[Row]) -> Any:
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
    return figure


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
