"""The reader: rows of any length through a model, piece by piece, the state carried from one to the next.

What comes out goes to a taker: a pool, a head, bits per base. Nothing is ever in memory but a piece of each row, and what
is given to the model depends on the rows and the piece alone.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from titans_dna.nn.model import TitansDNA, take_rows, tokenizer_of
from titans_dna.reading.source import Source, Strand, Tokens, layout, tokenised, turned
from titans_dna.tokens.tokenizer import Tokenizer
from titans_dna.tokens.vocabulary import PAD

Model = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""Ids [b, t] and the state before them, None at a start → what is wanted of each token, [b, t, …], and the state after."""


class Row(Protocol):
    """Tokens that can be taken stretch by stretch; a `Strand` is one, and so is `Ids`."""

    tokens: int
    """Number of them."""
    later: bool
    """Whether it comes after the row beside it, which is the other strand."""

    def take(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop)."""
        ...


class Ids:
    """A row whose ids [tokens] are in memory, each of one base."""

    later = False

    def __init__(self, ids: np.ndarray) -> None:
        self.ids, self.tokens = ids, len(ids)

    def take(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop)."""
        return Tokens(self.ids[start:stop], None)


class Piece(NamedTuple):
    """The same stretch of tokens of some rows of a batch, and what the model made of it."""

    rows: list[int]
    """Their numbers. Rows that have ended are left out; those that go on keep their order, longest first."""
    start: int
    """Token of each row that stands first here."""
    ids: Tensor
    """[rows, tokens]"""
    out: Tensor
    """[rows, tokens, …]"""
    widths: Tensor
    """Bases that each token adds, [rows, tokens], 0 in the padding."""
    state: Any
    """After it, of these rows."""


class Taker(Protocol):
    """What pieces go to."""

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        ...


class Call(NamedTuple):
    """What is given to the model at once, before padding."""

    rows: list[int]
    start: int
    tokens: list[Tokens]


T = TypeVar("T", bound=Taker)


def hidden(model: TitansDNA, layer: int = -1) -> Model:
    """The model up to a block's output, or the last norm; see `TitansDNA.features`."""
    return lambda ids, state: model.features(ids, state, layer)


def logits(model: Callable[..., Any]) -> Model:
    """A model with its head: `model(ids, state)` gives logits and state by these names."""

    def call(ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        out = model(ids, state)
        return out.logits, out.state

    return call


def read(
    model: Model,
    calls: Iterable[Call],
    into: Taker | None = None,
    state: Any = None,
    *,
    device: torch.device | None = None,
    progress: Callable[[float], object] = lambda bases: None,
) -> Any:
    """Give calls to a model, which is left in the mode it is in, and what comes out to `into`; returns the state.

    state: before the first call, of all its rows. Padding stands behind all that a row sees, and a row that has ended
    leaves the batch: no state is carried past it. progress: told of bases, those of all rows.
    """
    before = 0
    for rows, start, tokens in calls:
        if len(rows) < before:
            state = take_rows(state, slice(len(rows)))
        before = len(rows)
        ids, widths = pad(tokens)
        ids = ids.to(device)
        out, state = model(ids, state)
        if into is not None:
            into.add(Piece(rows, start, ids, out, widths.to(device), state))
        progress(float(widths.sum()))
    return state


def calls(rows: Sequence[Row], piece: int, first: int = 0, last: int | None = None) -> Iterator[Call]:
    """Tokens [first, last) of rows, by default to the end of each, `piece` tokens of each a call.

    Longest first inside, so that the rows that go on are always the first ones; of two strands the later one behind.
    """
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].tokens, i // 2, rows[i].later))
    longest = rows[order[0]].tokens if last is None else last
    for start in range(first, longest, piece):
        yield _call(rows, order, start, min(start + piece, longest))


def pad(rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Ids, and the bases that each token adds, int64 [rows, t] both, filled up on the right with [PAD] and 0."""
    ids = np.full((len(rows), max(len(one.ids) for one in rows)), PAD, dtype=np.int64)
    widths = np.zeros_like(ids)
    for row, (some, bases) in enumerate(rows):
        ids[row, : len(some)] = some
        widths[row, : len(some)] = 1 if bases is None else bases
    return torch.from_numpy(ids), torch.from_numpy(widths)


def padded(sequences: Iterable[bytes], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Sequences as `pad` gives them."""
    return pad([tokenised(one, tokenizer) for one in sequences])


def group(
    lengths: np.ndarray, *, rows: int | None = None, bases: int | None = None, piece: int | None = None
) -> list[list[int]]:
    """Numbers of sequences in batches, longest first, each sequence once.

    lengths [n]: in bases. rows, bases: most sequences of a batch, and most bases with the padding, unless one sequence alone
    has more. piece: where given, no sequence is padded by much more than a quarter of its length; the padding goes to the
    end of the longest one or of a piece of that many bases.
    """
    batches: list[list[int]] = []
    longest = 0
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        full = bool(batches) and (
            len(batches[-1]) == rows
            or (bases is not None and (len(batches[-1]) + 1) * longest > bases)
            or (piece is not None and min(longest, -(-length // piece) * piece) - length > length // 4 + 16)
        )
        if full or not batches:
            batches.append([])
            longest = length
        batches[-1].append(number)
    return batches


def stream(
    model: TitansDNA,
    source: Source,
    batches: Sequence[Sequence[int]],
    take: Callable[[Sequence[int]], T],
    *,
    piece: int = sys.maxsize,
    together: int = sys.maxsize,
    rc: bool = False,
    layer: int = -1,
    state: tuple[Any, ...] | None = None,
    workers: int = 0,
    progress: Callable[[float], object] = lambda bases: None,
    whole: nn.Module | None = None,
) -> Iterator[tuple[Sequence[int], T]]:
    """Sequences of a source through a model: each batch of numbers, and the taker that has all its hidden states.

    model: with a tokenizer, in any mode; it computes without dropout and gradients where its weights are.
    take: numbers of a batch → its taker. Its rows are the sequences in order; with rc, each is followed by its other strand.
    piece, together: most bases of each row, and of all rows together, per call.
    state: of one row, which each row goes on from; None is a fresh start. layer: see `TitansDNA.features`.
    workers: processes that read and tokenise. progress: told of bases as they are done, a sequence's once.
    whole: what the model and the takers' heads are parts of, if there is such.
    """
    tokenizer = tokenizer_of(model)
    each = 1 + rc
    bases = [min(piece, together // (len(numbers) * each)) for numbers in batches]
    tokens = [max(1, most // token_bases(tokenizer)) for most in bases]
    dataset = _Calls(source, batches, tokens, tokenizer, rc)
    loader = _load(dataset, min(workers, len(dataset)))
    if state is not None and layer != -1:
        state = state[: len(model.parts(layer))]
    for numbers, items in zip(batches, dataset.items.tolist(), strict=True):
        into = take(numbers)
        with evaluating(whole or model):
            first = torch.zeros(len(numbers) * each, dtype=torch.int64)
            start = None if state is None else take_rows(state, first)
            read(
                hidden(model, layer), chain.from_iterable(islice(loader, items)), into, start,
                device=model.norm.weight.device, progress=lambda bases: progress(bases / each),
            )  # fmt: skip
        yield numbers, into


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients while it lasts."""
    before = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(before)


def finite(values: np.ndarray) -> np.ndarray:
    """The same values. Raises FloatingPointError where one of them is none: nothing is to be made of such an answer."""
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "the model's output is not finite; its weights or the state before are out of all bounds"
        )
    return values


def token_bases(tokenizer: Tokenizer) -> int:
    """Bases of the longest token, at least 1."""
    return max(1, int(tokenizer.lengths.max()))


def _call(rows: Sequence[Row], order: list[int], start: int, stop: int) -> Call:
    going = [i for i in order if rows[i].tokens > start]
    return Call(going, start, [rows[i].take(start, min(stop, rows[i].tokens)) for i in going])


class _Calls(Dataset[list[Call]]):
    """What is given to the model, by number, so that worker processes can take turns.

    One call each where the number of tokens follows from that of bases, and otherwise all calls of a batch.
    """

    def __init__(
        self, source: Source, batches: Sequence[Sequence[int]], tokens: list[int], tokenizer: Tokenizer, both: bool
    ) -> None:
        """tokens: of each row per call, for each batch."""
        self.source, self.batches, self.tokens, self.tokenizer, self.both = source, batches, tokens, tokenizer, both
        self.items = np.ones(len(batches), dtype=np.int64)
        """Of each batch."""
        if cut := layout(tokenizer):
            stride, overlap = cut
            for i, (numbers, most) in enumerate(zip(batches, tokens, strict=True)):
                bases = source.lengths[list(numbers)]
                longest = (bases // stride + bases % stride - overlap * (bases > overlap)).max()
                self.items[i] = -(-longest // most)
        self._last = np.cumsum(self.items)
        # Which strand is the later one depends on the letters alone, so that in a batch a sequence and its reverse complement
        # have the same places, and all that is computed of them the same bits.
        self._turned: tuple[int, list[bool]] = (-1, [])

    def __getitem__(self, item: int) -> list[Call]:
        batch = int(np.searchsorted(self._last, item, side="right"))
        both = (False, True) if self.both else (False,)
        rows = [Strand(self.source, number, self.tokenizer, other) for number in self.batches[batch] for other in both]
        if self.both:
            if self._turned[0] != batch:
                self._turned = batch, [turned(self.source, number) for number in self.batches[batch]]
            for i, row in enumerate(rows):
                row.later ^= self._turned[1][i // 2]
        piece = self.tokens[batch]
        if layout(self.tokenizer) is None:
            return [*calls(rows, piece)]
        first = piece * (item - int(self._last[batch] - self.items[batch]))
        return [next(calls(rows, piece, first))]

    def __len__(self) -> int:
        return int(self.items.sum())


def _load(dataset: _Calls, workers: int) -> Iterator[list[Call]]:
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # not the global one, from which it would draw
        multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
    )
    return iter(cast(Any, loader))


def _unchanged(found: list[Call]) -> list[Call]:
    """Arrays stay arrays: tensors would each take a file in shared memory."""
    return found


def _ignore_interrupts(worker: int) -> None:
    """A terminal sends Ctrl-C to every process; the main one ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
