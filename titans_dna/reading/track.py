"""Bits per base along a sequence, in bins."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from titans_dna.reading.source import GenomeSource
from titans_dna.run.files import replacing


class Track:
    """Sums over bins of `width` bases, of each of some sequences."""

    def __init__(self, lengths: np.ndarray, width: int) -> None:
        self.width = width
        bins = -(-lengths // width)
        self._first = np.cumsum(bins) - bins
        self.sums = torch.zeros(int(bins.sum()), dtype=torch.float64)
        """Nats of the counted bases of each bin."""
        self.counts = torch.zeros(int(bins.sum()), dtype=torch.int64)

    def add(self, number: int, start: int, nats: np.ndarray) -> None:
        """Nats of the bases [start, start + p) of sequence `number`, NaN for those that are not counted."""
        bins = self._first[number] + (start + np.arange(len(nats))) // self.width
        np.add.at(self.sums.numpy(), bins, np.nan_to_num(nats))
        np.add.at(self.counts.numpy(), bins, ~np.isnan(nats))

    def write(self, path: Path, source: GenomeSource) -> None:
        """A bedGraph of mean bits; bins without a counted base are left out."""
        bits = self.sums.numpy() / math.log(2) / np.maximum(self.counts.numpy(), 1)
        with replacing(path) as aside, open(aside, "w", encoding="utf-8", newline="\n") as out:
            out.write(f'track type=bedGraph name="bits per base" description="bits per base, bins of {self.width}"\n')
            for number, record in enumerate(source.records):
                interval, length = record.interval, len(record.interval)
                for i, start in enumerate(range(0, length, self.width)):
                    at = self._first[number] + i
                    if not self.counts[at]:
                        continue
                    end = min(start + self.width, length)
                    if record.strand == "-":
                        first, last = interval.end - end, interval.end - start
                    else:
                        first, last = interval.start + start, interval.start + end
                    out.write(f"{interval.contig}\t{first}\t{last}\t{bits[at]:.5f}\n")
