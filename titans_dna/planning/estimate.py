"""Memory and time of settings, from a calibration, and the settings that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from titans_dna.planning.calibrate import Calibration, bytes_a_parameter, rough
from titans_dna.planning.options import READ_PIECE, PlanOptions
from titans_dna.planning.probe import unit_of

TRAINER = 15e6
"""Bytes of Lightning's trainer and of the metrics files, measured."""
MARKOV = 600e6
"""Bytes of the Markov models that `titans-dna pretrain` fits when training has ended, measured on E. coli."""
SETTLED = 6
"""Borders after which the heap has found its size: the peak of 24 pieces is that of 8 (small lmm, pieces of 8192)."""
ID_BYTES = 26
"""A base of a window in the process: its id (8 bytes) and weight (4), twice as the next batch is drawn early, letters."""
SHARE = 0.9
"""Of the memory; the rest is for what no plan foresees."""
FAR = 4
"""Times the memory: what needs so much by the table will not fit by any measurement."""


class Settings(NamedTuple):
    """How a window is worked on."""

    length: int
    piece: int
    """Bases; 0: the whole window."""
    batch_size: int
    """Windows side by side on a device."""
    accumulate: int
    """Batches of a step."""
    again: bool
    """Activation checkpointing over blocks."""
    read: bool = False

    @property
    def mode(self) -> str:
        """The way of a calibration that it is."""
        if self.read:
            return "read"
        return ("whole" if self.at_once == self.length else "pieces", "again", "whole-again")[
            0 if not self.again else 2 if self.at_once == self.length else 1
        ]

    @property
    def at_once(self) -> int:
        """Bases of a piece."""
        return min(self.piece or self.length, self.length)

    @property
    def borders(self) -> int:
        """Pieces, so states that are kept; none of a whole window."""
        return 0 if self.at_once == self.length else -(-self.length // self.at_once)


class Estimate(NamedTuple):
    """Bytes, part by part, and seconds. The parts sum up to `training`; `peak` is the most there ever is."""

    process: float
    parameters: float
    activations: float
    states: float
    ids: float
    training: float
    report: float
    """At the end of `titans-dna pretrain`, while the Markov models are fitted; 0 on a GPU and for reading."""
    peak: float
    bases_per_second: float
    """Of one device; NaN where it is not known."""
    seconds_per_step: float


def estimate(calibration: Calibration, settings: Settings) -> Estimate:
    """Memory of one device, and the time of an optimiser step (of one call over the sequence, when reading)."""
    known = calibration.modes[settings.mode]
    rows = settings.batch_size
    at_once = settings.at_once * rows
    on_cpu = calibration.device == "cpu"
    parameters = bytes_a_parameter(settings.mode) * calibration.parameters
    process = calibration.process + (TRAINER if on_cpu and not settings.read else 0)
    fixed = known.fixed - calibration.process - parameters  # what a chunk works on, at any size
    activations = max(known.token * at_once + fixed, 0.0)
    states = calibration.state * rows * (1 if settings.read else settings.borders)
    if settings.borders and not settings.read:
        states += calibration.growth * min(at_once, calibration.in_heap) * min(max(settings.borders - 2, 0), SETTLED)
    ids = 8.0 * at_once if settings.read else ID_BYTES * rows * settings.length
    training = process + parameters + activations + states + ids
    report = 0.0
    if on_cpu and not settings.read:
        report = process + parameters + max(known.left * at_once, states) + MARKOV  # what is free lies in the same heap
    tokens = rows * settings.length * settings.accumulate
    speed = 1 / known.seconds
    return Estimate(
        process, parameters, activations, states, ids, training, report, max(training, report), speed, tokens / speed
    )


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
