"""Scores of bases as intervals: runs of one class, in BED."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TextIO

import numpy as np

from titans_dna.genome.intervals import Interval
from titans_dna.tokens.vocabulary import DIGITS


class _Run(NamedTuple):
    """Bases of one class; `total` is the sum of their probabilities."""

    contig: str
    start: int
    end: int
    number: int
    total: float


class IntervalWriter:
    """One BED6 line for each run of bases whose likeliest class is not the first one ("none"), nor of an unknown letter.

    A run goes on from one window to the next where these touch. The score column is 1000 times the mean probability of the
    class over the run; the strand is that of a class whose name ends in + or -.
    """

    def __init__(self, out: TextIO, classes: Sequence[str]) -> None:
        self._out, self._classes = out, classes
        self._run: _Run | None = None
        self.written = 0
        """Lines so far."""

    def add(self, where: Interval, letters: bytes, scores: np.ndarray) -> None:
        """Bases in order. letters: of `where`, forward strand, upper-case; scores: [bases, classes]."""
        known = np.frombuffer(letters.translate(DIGITS), np.uint8) < 4
        chosen = np.where(known, scores.argmax(axis=1), 0)
        borders = (np.flatnonzero(np.diff(chosen)) + 1).tolist()
        for start, end in zip([0, *borders], [*borders, len(chosen)], strict=True):
            number = int(chosen[start])
            total = float(scores[start:end, number].sum())
            self._take(_Run(where.contig, where.start + start, where.start + end, number, total))

    def close(self) -> None:
        """Write the last run."""
        if self._run is not None and self._run.number:
            contig, start, end, number, total = self._run
            name = self._classes[number]
            strand = name[-1] if name[-1] in "+-" else "."
            self._out.write(f"{contig}\t{start}\t{end}\t{name}\t{round(1000 * total / (end - start))}\t{strand}\n")
            self.written += 1
        self._run = None

    def _take(self, run: _Run) -> None:
        last = self._run
        if last is not None and (last.contig, last.end, last.number) == (run.contig, run.start, run.number):
            self._run = last._replace(end=run.end, total=last.total + run.total)
            return
        self.close()
        self._run = run
