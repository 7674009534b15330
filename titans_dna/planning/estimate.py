"""Memory and time of settings, from a calibration."""

from __future__ import annotations

from typing import NamedTuple

from titans_dna.planning.calibrate import Calibration, bytes_a_parameter

TRAINER = 15e6
"""Bytes of Lightning's trainer and of the metrics files, measured."""
MARKOV = 600e6
"""Bytes of the Markov models that `titans-dna pretrain` fits when training has ended, measured on E. coli."""
SETTLED = 6
"""Borders after which the heap has found its size: the peak of 24 pieces is that of 8 (small lmm, pieces of 8192)."""
ID_BYTES = 26
"""A base of a window in the process: its id (8 bytes) and weight (4), twice as the next batch is drawn early, letters."""


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
