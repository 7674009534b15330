"""Scores to a table, bits per base of classes of bases and what context and memory change, and its files: csv, md, png."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from titans_dna.metrics import Estimate
from titans_dna.run.files import markdown, write_csv, write_figure, write_text
from titans_dna.tokens.kmers import kmer_codes
from titans_dna.tokens.vocabulary import base_digits

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


RESAMPLES = 4000
NEVER = np.iinfo(np.int64).max
_NONE = Estimate(math.nan)


class Recurrence(NamedTuple):
    """Of the last `target` bases of a sequence, int64 [target] each; NEVER where there is no earlier occurrence, -1 where
    the k-mer holds an unknown base or would begin before the sequence."""

    distance: np.ndarray
    """Bases from the end of the most recent earlier occurrence to that of the k-mer."""
    reach: np.ndarray
    """Bases before the target that have to be read for that occurrence to be read whole; 0: it lies in the target."""


class ScoredBases(NamedTuple):
    """What is known of the scored bases, each [places, target]."""

    known: np.ndarray
    """A, C, G or T."""
    masked: np.ndarray
    """Lower-case in the file."""
    recurring: Recurrence
    """Of the k-mer that ends with the base."""
    primed: Recurrence
    """Of the k-mer that ends just before it."""


class Row(NamedTuple):
    """One mode, context and class of bases."""

    mode: str
    context: int
    kind: str
    """The class of bases, of `classes`."""
    bases: int
    bits_per_base: float
    to_shortest: Estimate
    """Minus the bits per base of the same bases after the mode's shortest context; the interval is over places."""
    to_on: Estimate
    """Minus those of the mode on after the same context."""
    distance: float
    """Median bases back to the most recent earlier occurrence, for the classes that have one; else NaN."""


def describe(letters: Sequence[bytes], target: int, k: int) -> ScoredBases:
    """letters: of each place, the longest context and the stretch."""
    text = np.stack([np.frombuffer(one[-target:], np.uint8) for one in letters])
    known = np.stack([base_digits(one[-target:]) < 4 for one in letters])
    found = [recurrence(one, target, k) for one in letters]
    recurring, primed = (
        Recurrence(*(np.stack([getattr(pair[which], name) for pair in found]) for name in Recurrence._fields))
        for which in (0, 1)
    )
    return ScoredBases(known, known & (text >= ord("a")), recurring, primed)


def recurrence(letters: bytes, target: int, k: int) -> tuple[Recurrence, Recurrence]:
    """Of the k-mers that end with each of the last `target` letters, and of those that end just before each.

    The first says what a base repeats, itself included: it is chosen by the answer, which flatters whoever copies. The
    second is known before the answer. Case counts for nothing.
    """
    codes = kmer_codes(base_digits(letters), k)  # of the k-mers by their beginnings
    known = codes < 4**k
    before = previous(codes, known)
    start = len(letters) - target
    distance = np.where(before >= 0, np.arange(len(codes)) - before, NEVER)
    reach = np.where(before >= 0, np.maximum(start - before, 0), NEVER)
    none = np.full(len(letters) - len(codes), -1)  # no k-mer ends with the first letters
    distance, reach = (np.append(none, np.where(known, one, -1)) for one in (distance, reach))
    last = slice(start - 1, len(letters) - 1)
    return Recurrence(distance[start:], reach[start:]), Recurrence(distance[last], reach[last])


def previous(codes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Index of the most recent earlier equal code among the known ones, int64 [n]; -1 where there is none."""
    index = np.flatnonzero(known)
    order = index[np.argsort(codes[index], kind="stable")]
    equal = codes[order[1:]] == codes[order[:-1]]
    before = np.full(len(codes), -1, np.int64)
    before[order[1:][equal]] = order[:-1][equal]
    return before


def classes(bases: ScoredBases, contexts: Sequence[int], context: int) -> dict[str, np.ndarray]:
    """Masks [places, target] by name. Only the last two are other bases after another context.

    contexts: all that there are, growing; a base is unique where its k-mer does not stand in the longest one nor in the
    stretch before it. "A 1k-4k": the most recent earlier occurrence lies within the last 4k bases before the stretch, and
    not within the last 1k.
    """
    found = {"all": bases.known}
    if bases.masked.any():
        found |= {"masked": bases.masked, "unmasked": bases.known & ~bases.masked}
    found["unique"] = bases.known & (bases.recurring.reach == NEVER)
    borders = [-1, 0, *contexts]
    for name, one in (("recurring", bases.recurring), ("primed", bases.primed)):
        found[name] = bases.known & (one.reach >= 0) & (one.reach <= contexts[-1])
        for low, high in pairwise(borders):
            part = f"{short(low)}-{short(high)}" if high else "target"
            found[f"{name} {part}"] = bases.known & (one.reach > low) & (one.reach <= high)
    for name, one in (("recurring", bases.recurring), ("primed", bases.primed)):
        found[f"{name} within context"] = bases.known & (one.reach >= 0) & (one.reach <= context)
    return found


def table(scores: Mapping[tuple[str, int], np.ndarray], bases: ScoredBases) -> list[Row]:
    """scores: bits [places, target] by mode and context."""
    contexts = sorted({context for _, context in scores})
    rng = np.random.default_rng(0)
    places = len(bases.known)
    weights = rng.multinomial(places, np.full(places, 1 / places), RESAMPLES)
    rows = []
    for (mode, context), bits in scores.items():
        shortest = min(one for name, one in scores if name == mode)
        against = scores.get(("on", context)) if mode != "on" else None
        for name, mask in classes(bases, contexts, context).items():
            count = mask.sum(1)
            to_shortest = _estimate(bits - scores[mode, shortest], mask, weights) if context > shortest else _NONE
            to_on = _NONE if against is None else _estimate(bits - against, mask, weights)
            mean = float(bits[mask].mean(dtype=np.float64)) if count.sum() else math.nan
            rows.append(
                Row(mode, context, name, int(count.sum()), mean, to_shortest, to_on, _distance(name, bases, mask))
            )
    return rows


def short(bases: int) -> str:
    """1024 as 1k, 1048576 as 1M, other numbers as they are."""
    for unit, name in ((1 << 20, "M"), (1 << 10, "k")):
        if bases and bases % unit == 0:
            return f"{bases // unit}{name}"
    return str(bases)


def _estimate(difference: np.ndarray, mask: np.ndarray, weights: np.ndarray) -> Estimate:
    """Mean over all bases of a class; places are drawn anew with all their bases."""
    sums, count = np.where(mask, difference, 0).sum(1, dtype=np.float64), mask.sum(1)
    if not count.sum():
        return _NONE
    value = float(sums.sum() / count.sum())
    if (count > 0).sum() < 2:
        return Estimate(value)
    drawn = weights @ count
    means = (weights @ sums)[drawn > 0] / drawn[drawn > 0]
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return Estimate(value, low, high)


def _distance(name: str, bases: ScoredBases, mask: np.ndarray) -> float:
    one = {"recurring": bases.recurring, "primed": bases.primed}.get(name.split()[0])
    return float(np.median(one.distance[mask])) if one is not None and mask.any() else math.nan
