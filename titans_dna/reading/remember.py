"""Reading sequence of any length through a model, in constant memory, and what each base cost to predict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titans_dna.nn.model import TitansDNA, tensors_of, tokenizer_of
from titans_dna.reading.embed import evaluating
from titans_dna.reading.source import Source, as_source

PIECE = 8192
"""Tokens of a call: enough that a call's fixed costs vanish, few enough for a processor's caches."""


class Read(NamedTuple):
    """What a model has read."""

    state: tuple[Any, ...]
    """After it; for `model(ids, state)`, `titans_dna.embed(model, …, state=…)`, or to go on reading."""
    bases: int
    """Letters read, those that are no A, C, G or T included."""
    bits_per_base: float
    """Mean over the A, C, G and T, each predicted from all that was read before it; the first base of each sequence is not
    counted. NaN where there is none."""


def remember(model: TitansDNA, sequences: Any, state: tuple[Any, ...] | None = None, *, piece: int = PIECE) -> Read:
    """Read sequences one after the other, as one, into a model's memory; memory use does not grow with their length.

    model: with a tokeniser, as `titans_dna.load` gives it. sequences: as `titans_dna.embed` takes them: a sequence, an iterable
        of such, or the path of a sequence file, whose records are read in order.
    state: what an earlier call returned or `load_state` gave; None starts afresh. It is not changed.
    piece: tokens per call of the model; it changes speed and memory, and no number beyond rounding.

    Raises ValueError naming the argument, and what `open_genome` raises for a file.
    """
    if piece < 1:
        raise ValueError(f"piece: got {piece}, want at least 1")
    source = as_source(sequences)
    if not len(source.lengths):
        raise ValueError("sequences: got none, want at least one")
    reader = Reader(model, state)
    for number in range(len(source.lengths)):
        reader.begin()
        for ids in pieces_of(model, source, number, piece):
            reader.add(ids)
    assert reader.state is not None
    return Read(reader.state, int(source.lengths.sum()), reader.bits_per_base)


def pieces_of(model: TitansDNA, source: Source, number: int, piece: int, first: int = 0) -> Iterator[np.ndarray]:
    """Ids of one sequence in arrays of at most `piece`, from token `first` on.

    A tokeniser with one token a base is given the letters piece by piece, any other one the whole sequence.
    """
    tokenizer = tokenizer_of(model)
    if tokenizer.name == "nucleotide":
        for start in range(first, int(source.lengths[number]), piece):
            yield tokenizer.encode(source.part(number, start, min(start + piece, int(source.lengths[number]))))
        return
    ids = tokenizer.encode(source.letters(number))
    for start in range(first, len(ids), piece):
        yield ids[start : start + piece]


class Reader:
    """A model on its way through sequence: its state, and the sums of what it predicted."""

    def __init__(self, model: TitansDNA, state: tuple[Any, ...] | None = None, scored: bool = True) -> None:
        """scored: whether bases are predicted; a model without a trained head cannot."""
        self._lengths = torch.from_numpy(tokenizer_of(model).lengths)
        self.model, self.state, self.scored = model, state, scored
        self._last: Tensor | None = None
        self.nats, self.counted = 0.0, 0

    @property
    def bits_per_base(self) -> float:
        """Over all that was counted so far; NaN where nothing was."""
        return self.nats / math.log(2) / self.counted if self.counted else math.nan

    @property
    def last(self) -> Tensor | None:
        """The logits after the last token, which predict the next; to go on after an interruption."""
        return self._last

    def begin(self, last: Tensor | None = None) -> None:
        """The next token is the first of a sequence, which nothing predicts; or follows what gave these logits."""
        self._last = last

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Read tokens [p]; returns nats of each, float64 [p], NaN for one that is not counted: no base, or the first one.

        Raises FloatingPointError where the model's output is not finite.
        """
        device = self.model.norm.weight.device
        row = torch.from_numpy(ids.astype(np.int64))[None].to(device)
        with evaluating(self.model):
            if not self.scored:
                hidden, self.state = self.model.features(row, self.state)
                _want_finite(hidden)
                return np.full(len(ids), np.nan)
            out = self.model(row, self.state)
        self.state = out.state
        _want_finite(out.logits)
        before = out.logits[0, :1] if self._last is None else self._last
        logits = torch.cat([before, out.logits[0, :-1]]).float()
        nats = F.cross_entropy(logits, row[0], reduction="none").double().cpu()
        bases = self._lengths[row[0].cpu()]
        if self._last is None:
            bases = torch.cat([bases.new_zeros(1), bases[1:]])
        self._last = out.logits[0, -1:].clone()
        nats = torch.where(bases > 0, nats, torch.nan)
        self.nats += float(nats.nansum())
        self.counted += int(bases.sum())
        return nats.numpy()


def _want_finite(x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("the model's output is not finite")


def is_finite(state: tuple[Any, ...]) -> bool:
    """Whether every number of a state is."""
    return all(bool(torch.isfinite(x).all()) for x in tensors_of(state))
