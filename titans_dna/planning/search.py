"""The settings that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from titans_dna.planning.calibrate import Calibration, rough
from titans_dna.planning.estimate import Estimate, Settings, estimate
from titans_dna.planning.options import READ_PIECE, PlanOptions
from titans_dna.planning.probe import unit_of

SHARE = 0.9
"""Of the memory; the rest is for what no plan foresees."""
FAR = 4
"""Times the memory: what needs so much by the table will not fit by any measurement."""


class Found(NamedTuple):
    """The settings chosen, or the smallest ones where none fits."""

    settings: Settings
    estimate: Estimate
    fits: bool


def search(options: PlanOptions, calibration: Calibration, memory: float) -> Found:
    """The first of `candidates` whose peak is at most SHARE of the memory (bytes), else the one that needs least."""
    smallest: Found | None = None
    for settings in candidates(options):
        if settings.mode not in calibration.modes:
            continue
        expected = estimate(calibration, settings)
        if expected.peak <= SHARE * memory:
            return Found(settings, expected, True)
        if smallest is None or expected.peak < smallest.estimate.peak:
            smallest = Found(settings, expected, False)
    assert smallest is not None
    return smallest


def modes_of(options: PlanOptions, memory: float) -> list[str]:
    """The ways to run that are worth a calibration: some candidate takes them, and does not evidently need too much."""
    modes = list(dict.fromkeys(settings.mode for settings in candidates(options)))
    guess = rough(options.config, modes, "cpu")
    least = dict.fromkeys(modes, float("inf"))
    for settings in candidates(options):
        least[settings.mode] = min(least[settings.mode], estimate(guess, settings).training)
    return [mode for mode in modes if least[mode] < FAR * memory] or [min(modes, key=lambda mode: least[mode])]


def candidates(options: PlanOptions) -> Iterator[Settings]:
    """What may be chosen, the quickest first: whole windows, then the largest pieces, then with checkpointing.

    The batch is halved, and batches accumulate, only where no piece of the whole batch fits.
    """
    flags, length = options.flags, options.length
    if flags.work == "read":
        given = options.piece
        pieces = [READ_PIECE, *_powers(READ_PIECE // 2, unit_of(options.config))] if given is None else [given]
        yield from (Settings(length, min(piece, length), options.windows, 1, False, True) for piece in pieces)
        return
    again = {"auto": (False, True), "yes": (True,), "no": (False,)}[flags.activation_checkpointing]
    pieces = [0, *_powers(length - 1, unit_of(options.config))] if options.piece is None else [options.piece]
    for checkpointed in again:
        for batch in _batches(options.windows):
            for piece in pieces:
                yield Settings(length, piece, batch, options.windows // batch, checkpointed)


def _batches(windows: int) -> list[int]:
    """Windows side by side that make up a step in equal batches, the most first."""
    return [n for n in range(windows, 0, -1) if windows % n == 0]


def _powers(most: int, least: int) -> list[int]:
    """Powers of two from the largest that is at most `most` down to the smallest that is at least `least`."""
    found = [1 << n for n in range(62) if least <= 1 << n <= most]
    return found[::-1]
