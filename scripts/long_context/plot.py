"""Tokens a second and peak memory over length, both axes logarithmic."""

from __future__ import annotations

from pathlib import Path

from long_context.models import LABELS
from long_context.report import PASSES, name_length
from long_context.rows import Key, Row
from titans_dna.run.files import replacing

STYLES = {
    "lmm": ("#1b6ca8", "o", "-"), "mac": ("#0b3c5d", "s", "-"), "mag": ("#3fa7d6", "^", "-"), "mal": ("#7bc8a4", "D", "-"),
    "peer-mac": ("#d1495b", "s", "--"), "full": ("#555555", "o", ":"), "window": ("#a0a0a0", "^", ":"),
    "memory": ("#8d6bb5", "v", "-"), "peer-memory": ("#edae49", "v", "--"),
}  # fmt: skip
"""Colour, marker and line: ours drawn through, the peer dashed, transformers dotted."""


def plot(path: Path, rows: dict[Key, Row]) -> None:
    """Two panels for each pass; a cross at the end of a line that a limit stopped."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    passes = [pass_ for pass_ in PASSES if any(row.pass_ == pass_ and row.rate is not None for row in rows.values())]
    if not passes:
        return
    figure, grid = plt.subplots(len(passes), 2, figsize=(12, 4.2 * len(passes)), squeeze=False, layout="constrained")
    for pass_, (speed, memory) in zip(passes, grid, strict=True):
        for axes, field, label in ((speed, "rate", "tokens a second"), (memory, "peak", "peak memory, MB")):
            _lines(axes, [row for row in rows.values() if row.pass_ == pass_], field)
            axes.set(xscale="log", yscale="log", title=f"{PASSES[pass_]}: {label}", xlabel="length, bases")
            lengths = sorted({row.length for row in rows.values() if row.pass_ == pass_ and row.rate is not None})
            axes.set_xticks(lengths, [name_length(one) for one in lengths], minor=False)
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
    handles: dict[str, object] = {}
    for axes in grid.flat:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=150, format="png")
    plt.close(figure)


def _lines(axes: object, rows: list[Row], field: str) -> None:
    for model, (colour, marker, line) in STYLES.items():
        mine = sorted((row for row in rows if row.model == model), key=lambda row: row.length)
        good = [row for row in mine if row.rate is not None]
        if not good:
            continue
        x, y = [row.length for row in good], [getattr(row, field) for row in good]
        axes.plot(x, y, line, color=colour, marker=marker, markersize=4, label=LABELS[model])  # type: ignore[attr-defined]
        if any(row.status.startswith("over") for row in mine):
            axes.plot(x[-1], y[-1], "x", color=colour, markersize=10)  # type: ignore[attr-defined]
