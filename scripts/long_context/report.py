"""The table, the goals and the plot of what was measured."""

from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path

from long_context.models import LABELS, VARIANTS
from long_context.rows import Key, Row, Settings
from titans_dna.run.files import replacing

PASSES = {"forward": "Forward", "backward": "Forward and backward"}
HOW = """Batch 1, float32, random bases; every model has the width, depth and heads of preset `{preset}`. Each
measurement ran in a process of its own after a warm-up call. Forward of ours, and of the transformer with a
window: in pieces of {piece:,} bases with the state carried; the lengths above one piece are marks on one and
the same way (the call is the same, repeated). Forward and backward of these above {piece:,} bases: the exact
gradient of the whole window in pieces (`piecewise_loss`). The peer and full attention: one call. Rates are
medians, with half the range where a length was measured more than once. Peak memory is that of the whole
{what}; the CSV also has it beyond what the process held before the model was made. MB and GB: 2^20 and 2^30
bytes."""


def name_length(length: int) -> str:
    """4096 as 4k, 1048576 as 1M, others as they are."""
    for unit, name in ((1 << 20, "M"), (1 << 10, "k")):
        if length % unit == 0:
            return f"{length // unit}{name}"
    return f"{length:,}"


def write_report(path: Path, rows: dict[Key, Row], settings: Settings, goals: list[str]) -> None:
    peer = f", titans-pytorch {settings.peer}" if settings.peer else ""
    dates = sorted({row.date for row in rows.values()})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    what = "process, torch included" if settings.device == "cpu" else "set of tensors on the GPU"
    parts = [
        "# Speed and memory over length",
        f"{settings.machine}; {settings.threads} thread(s), device {settings.device}; torch {settings.torch}{peer}; {days}.",
        f"    python {shlex.join(sys.argv)}",
        HOW.format(preset=settings.preset, piece=settings.piece, what=what),
    ]
    if settings.device == "cuda":
        parts.append("This program was written on machines without a GPU: look at its figures twice there.")
    for pass_, title in PASSES.items():
        chosen = [row for row in rows.values() if row.pass_ == pass_]
        if chosen:
            parts += [
                f"## {title}, tokens a second",
                table(chosen, rate),
                f"## {title}, peak memory, MB",
                table(chosen, peak),
            ]
    sizes = {row.model: row.parameters for row in rows.values() if row.parameters}
    listed = ", ".join(f"{label} {sizes[model]:,}" for model, label in LABELS.items() if model in sizes)
    parts.append(f"Parameters: {listed}.")
    bad = [f"{LABELS[row.model]} at {name_length(row.length)}" for row in rows.values() if row.finite == "no"]
    if bad:
        parts.append(f"Infinite or NaN in what came out: {', '.join(bad)}.")
    parts += ["## Goals", "\n".join(f"- {goal}" for goal in goals)]
    with replacing(path) as aside:
        aside.write_text("\n\n".join(parts) + "\n")


def table(rows: list[Row], cell: object) -> str:
    lengths = sorted({row.length for row in rows})
    found = {(row.model, row.length): row for row in rows}
    lines = [f"| | {' | '.join(map(name_length, lengths))} |", "|---" + "|---:" * len(lengths) + "|"]
    for model, label in LABELS.items():
        cells = [found.get((model, length)) for length in lengths]
        if any(cells):
            lines.append(f"| {label} | {' | '.join('' if one is None else cell(one) for one in cells)} |")  # type: ignore[operator]
    return "\n".join(lines)


def rate(row: Row) -> str:
    if row.rate is None or row.slowest is None or row.fastest is None:
        return row.status
    spread = f" ± {50 * (row.fastest - row.slowest) / row.rate:.0f} %" if row.repeats > 1 else ""
    return f"{row.rate:,.0f}{spread}"


def peak(row: Row) -> str:
    return row.status if row.peak is None else f"{row.peak:,.0f}"


def judge(rows: dict[Key, Row]) -> list[str]:
    """Each goal: met, missed or not measured, with its figures."""
    lines = []
    short, long, far, near = 16 << 10, 1 << 20, 16 << 20, 64 << 10
    for pass_, title in PASSES.items():
        for name in VARIANTS:
            a, b = (_rate(rows, name, pass_, length) for length in (short, long))
            found = None if a is None or b is None else (b / a >= 0.95, f"{b:,.0f} and {a:,.0f}, {b / a - 1:+.1%}")
            lines.append(_line(f"{title}, {LABELS[name]}: tokens a second at 1M within 5 % of 16k", found))
    for name in VARIANTS:
        a, b = (rows.get((name, "forward", length)) for length in (near, far))
        found = None
        if a is not None and b is not None and a.peak is not None and b.peak is not None:
            found = (b.peak / a.peak <= 1.05, f"{b.peak:,.1f} and {a.peak:,.1f} MB, {b.peak / a.peak - 1:+.1%}")
        lines.append(_line(f"Forward, {LABELS[name]}: peak at 16M within 5 % of 64k", found))
    ratios = {}
    for length in sorted({row.length for row in rows.values()}):
        a, b = (_rate(rows, name, "backward", length) for name in ("mac", "peer-mac"))
        if a is not None and b is not None:
            ratios[length] = a / b
    at = ratios.get(2048)
    text = "Forward and backward, our MAC beside titans-pytorch's: at least 5 times at 2,048"
    lines.append(_line(text, None if at is None else (at >= 5, f"{at:.2f} times")))
    grown = [ratio for length, ratio in ratios.items() if length >= 2048]
    shown = ", ".join(f"{name_length(length)}: {ratio:.2f}" for length, ratio in ratios.items())
    rising = all(a < b for a, b in itertools.pairwise(grown))
    lines.append(_line("The same, growing with length from 2,048 on", (rising, shown) if len(grown) > 1 else None))
    return lines


def _rate(rows: dict[Key, Row], model: str, pass_: str, length: int) -> float | None:
    row = rows.get((model, pass_, length))
    return None if row is None else row.rate


def _line(goal: str, found: tuple[bool, str] | None) -> str:
    if found is None:
        return f"not measured: {goal}"
    return f"{'met' if found[0] else 'missed'}: {goal} ({found[1]})"
