"""What each token cost to predict: summed up for a whole reading, or in bins along a sequence."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_dna.reading.source import GenomeSource
from titans_dna.reading.stream import Piece
from titans_dna.run.files import replacing
from titans_dna.tokens.tokenizer import Tokenizer


def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Of targets [b, t], each predicted by the logits [b, t, vocabulary] at its place: float32 [b, t]."""
    flat = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten().long(), reduction="none")
    return flat.unflatten(0, targets.shape)


class Bits:
    """Takes a single row, of logits: sums of what its bases cost, each predicted from all that was read before it.

    Of a model that predicts no bases it takes hidden states, and counts nothing.
    """

    def __init__(self, tokenizer: Tokenizer, scored: bool = True) -> None:
        """scored: whether bases are predicted."""
        self.scored = scored
        self._lengths = torch.from_numpy(tokenizer.lengths)
        self.last: Tensor | None = None
        """The logits [1, vocabulary] after the last token, which predict the next; to go on after an interruption."""
        self.total, self.counted = 0.0, 0
        """Nats, and bases, of all that was counted so far."""
        self.found = np.empty(0)
        """Nats of each token of the last piece, float64, NaN for one that is not counted: no base, or the first one."""

    @property
    def per_base(self) -> float:
        """Bits per base; NaN where nothing was counted."""
        return self.total / math.log(2) / self.counted if self.counted else math.nan

    def begin(self, last: Tensor | None = None) -> None:
        """The next token is the first of a sequence, which nothing predicts; or follows what gave these logits."""
        self.last = last

    def add(self, piece: Piece) -> None:
        """Take the next piece. Raises FloatingPointError where it is not finite."""
        if not bool(torch.isfinite(piece.out).all()):
            raise FloatingPointError("the model's output is not finite")
        if not self.scored:
            self.found = np.full(piece.ids.shape[1], np.nan)
            return
        (logits,) = piece.out
        before = logits[:1] if self.last is None else self.last
        found = nats(torch.cat([before, logits[:-1]])[None], piece.ids)[0].double().cpu()
        bases = self._lengths[piece.ids[0].cpu()]
        if self.last is None:
            bases = torch.cat([bases.new_zeros(1), bases[1:]])
        self.last = logits[-1:].clone()
        found = torch.where(bases > 0, found, torch.nan)
        self.total += float(found.nansum())
        self.counted += int(bases.sum())
        self.found = found.numpy()


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
