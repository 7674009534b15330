"""Scores of sequences of any length: streamed through the model in pieces, the head's pool carried along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_dna.nn.finetuned import FineTuned
from titans_dna.nn.heads import PooledHead, State
from titans_dna.nn.model import take_rows
from titans_dna.reading.embed import evaluating, load_rows, plan_batches, read_rows, token_bases
from titans_dna.reading.pools import Piece
from titans_dna.reading.source import Source, TextSource


def score_sequences(
    model: FineTuned,
    sequences: Sequence[bytes],
    *,
    batch_size: int = 64,
    batch_bases: int = 1 << 17,
) -> np.ndarray:
    """Scores of sequences of at least one base, in their order: [n, classes], for regression [n].

    batch_size, batch_bases: sequences and bases side by side; they change speed and memory, and no score.
    """
    return score_all(model, TextSource(list(sequences)), batch_size=batch_size, batch_bases=batch_bases)


def score_all(
    model: FineTuned,
    source: Source,
    *,
    batch_size: int = 64,
    batch_bases: int = 1 << 17,
    workers: int = 0,
    progress: Callable[[float], None] = lambda bases: None,
    state: tuple[Any, ...] | None = None,
) -> np.ndarray:
    """Scores in the order of the source: float64 [n, classes], for regression [n]. state: of one row, which each sequence
    goes on from."""
    shape = () if model.question.task == "regression" else (model.question.outputs,)
    found = np.empty((len(source.lengths), *shape))
    batches = score_batches(
        model, source, batch_size=batch_size, batch_bases=batch_bases, workers=workers, progress=progress, state=state
    )
    for numbers, scores in batches:
        found[numbers] = scores
    return found


def score_batches(
    model: FineTuned,
    source: Source,
    *,
    batch_size: int = 64,
    batch_bases: int = 1 << 17,
    workers: int = 0,
    progress: Callable[[float], None] = lambda bases: None,
    state: tuple[Any, ...] | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Numbers of the sequences of each batch, and their scores, float64; longest first. `progress` is told of bases."""
    assert isinstance(model.head, PooledHead), "a question about sequences"
    tokenizer, both = model.tokenizer, model.question.both_strands
    batches = plan_batches(source.lengths, batch_size, max(1, batch_bases // batch_size))
    strands = 2 if both else 1
    for numbers, rows in zip(batches, load_rows(source, batches, tokenizer, both, workers), strict=True):
        with evaluating(model):
            flat = [strand for sequence in rows for strand in sequence]
            head = _StreamedHead(model.head, len(flat))
            piece = max(1, batch_bases // (len(flat) * token_bases(tokenizer)))
            told = lambda done: progress(done / strands)  # noqa: E731
            read_rows(model.backbone, flat, head, -1, piece, tokenizer.pad_id, told, state)
            found = model.scores(head.out())
        yield numbers, (found[::2] + found[1::2]) / 2 if both else found


class _StreamedHead:
    """The head as a pool that takes pieces; rows that have ended leave, the longest stay."""

    def __init__(self, head: PooledHead, rows: int) -> None:
        self._head, self._found = head, [torch.empty(0)] * rows
        self._state: State | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        if self._state is not None and len(self._state[0]) > len(piece.rows):
            self._state = take_rows(self._state, slice(len(piece.rows)))
        out, self._state = self._head(piece.hidden, piece.widths, self._state)
        for row, one in zip(piece.rows, out, strict=True):
            self._found[row] = one

    def out(self) -> Tensor:
        """What the head says of each row, [rows, outputs]."""
        return torch.stack(self._found)
