"""Sequences to vectors: batches of like lengths, streamed through the model in pieces with its state carried."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from titans_dna.nn.model import TitansDNA, take_rows, tokenizer_of
from titans_dna.reading.pools import POOLS, Piece
from titans_dna.reading.source import Source, Tokens, as_source, strands
from titans_dna.tokens.tokenizer import Tokenizer

Rows = list[list[Tokens]]
"""The strands of each sequence of a batch."""


class Taker(Protocol):
    """What hidden states go to: a pool, or a head."""

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        ...


def embed(
    model: TitansDNA,
    sequences: Any,
    pool: str = "mean",
    layer: int = -1,
    *,
    reverse_complement: bool = False,
    state: tuple[Any, ...] | None = None,
    batch_size: int = 8,
    piece: int = 4096,
    workers: int = 0,
) -> np.ndarray | list[np.ndarray]:
    """Vectors of sequences, in their order: float32 [n, width], or with pool "none" a list of n arrays [bases, width].

    model: one with a tokeniser, as `titans_dna.load` gives it; it computes where its weights are.
    sequences: a sequence (str, bytes, Biopython's Seq or SeqRecord), an iterable of such, or the path of a FASTA,
        GenBank, EMBL or FASTQ file, one vector for each record. A string of nucleotide letters alone is a sequence,
        never a path.
    pool: "mean" or "max" over the bases, "last" (the state after the last base), or "none", one vector for each base.
        A token of several bases counts as often, or stands at each of them; of overlapping k-mers, a base has the one
        that ends with it, the first k - 1 bases the first one.
    layer: -1, the last block's output after the last norm, or the number of a block, from 0, whose output is taken as
        it is; the blocks after it do not run.
    reverse_complement: the mean of both strands' vectors, each base's for pool "none": a sequence and its reverse
        complement then have the same.
    state: what the model remembers already, of one row, as `titans_dna.remember` returns it or `load_state` reads it: each
        sequence, and each strand of it, is read as what comes after that. It is not changed.
    batch_size, piece, workers: sequences side by side, tokens of each per call of the model, and processes that read
        and tokenise. They change speed and memory, and no vector. A sequence of any length takes the memory of a piece
        and a few bytes a base for its letters; pool "none" all its vectors.

    Raises ValueError naming the argument for an empty sequence, a letter that is no nucleotide code, or a value out of
    range, and what `open_genome` raises for a file.
    """
    check_arguments(model, pool, layer, batch_size, piece, workers)
    source = as_source(sequences)
    batches = plan_batches(source.lengths, batch_size, piece * token_bases(tokenizer_of(model)))
    vectors: list[Any] = [None] * len(source.lengths)
    found = embed_batches(
        model,
        source,
        batches,
        pool,
        layer,
        reverse_complement=reverse_complement,
        piece=piece,
        workers=workers,
        state=state,
    )
    for batch, got in zip(batches, found, strict=True):
        for number, vector in zip(batch, got, strict=True):
            vectors[number] = vector
    if pool == "none":
        return vectors
    return np.stack(vectors) if vectors else np.empty((0, model.config.width), dtype=np.float32)


def embed_batches(
    model: TitansDNA,
    source: Source,
    batches: Sequence[Sequence[int]],
    pool: str,
    layer: int,
    *,
    reverse_complement: bool,
    piece: int,
    workers: int,
    progress: Callable[[float], None] = lambda bases: None,
    state: tuple[Any, ...] | None = None,
) -> Iterator[list[np.ndarray]]:
    """The vectors of each batch of sequence numbers, one by one; `progress` is told of bases as they are done."""
    tokenizer = tokenizer_of(model)
    both = 2 if reverse_complement else 1
    dtype = np.float64 if model.norm.weight.dtype == torch.float64 else np.float32
    for rows in load_rows(source, batches, tokenizer, reverse_complement, workers):
        with evaluating(model):
            flat = [strand for sequence in rows for strand in sequence]
            found = POOLS[pool](len(flat), model.config.width, model.norm.weight.device)
            read_rows(model, flat, found, layer, piece, tokenizer.pad_id, lambda bases: progress(bases / both), state)
        vectors = found.vectors()
        if reverse_complement:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            # Without pooling, base j stands at the other strand's base n - 1 - j.
            vectors = [(one + (other[::-1] if pool == "none" else other)) / 2 for one, other in pairs]
        yield [vector.astype(dtype, copy=False) for vector in vectors]


def plan_batches(lengths: np.ndarray, batch_size: int, piece: int) -> list[list[int]]:
    """Sequence numbers in batches, longest first, that pad no sequence by much more than a quarter of its length.

    lengths and piece: in bases; a batch is padded to its longest sequence or to the end of a piece.
    """
    batches: list[list[int]] = []
    longest = 0
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        padding = min(longest, -(-length // piece) * piece) - length
        if not batches or len(batches[-1]) == batch_size or padding > length // 4 + 16:
            batches.append([])
            longest = length
        batches[-1].append(number)
    return batches


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


def read_rows(
    model: TitansDNA,
    rows: list[Tokens],
    pool: Taker,
    layer: int,
    piece: int,
    pad_id: int,
    progress: Callable[[float], None],
    state: tuple[Any, ...] | None = None,
) -> None:
    """Stream rows through the model, `piece` tokens a call, and give what comes out to the pool. Each goes on from `state`,
    of one row, where there is one.

    Longest first inside, so that the rows that go on are always the first ones. Padding stands behind all that a row
    sees, and a row that has ended leaves the batch: no state is carried past it.
    """
    device = model.norm.weight.device
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    lengths = np.array([len(rows[i].ids) for i in order])
    if state is not None:
        state = take_rows(state if layer == -1 else state[: layer + 1], torch.zeros(len(rows), dtype=torch.int64))
    start, before = 0, len(rows)
    while start < lengths[0]:
        going = int((lengths > start).sum())
        if going < before:
            state, before = take_rows(state, slice(going)), going
        stop = min(start + piece, int(lengths[0]))
        ids, widths = _padded([rows[i] for i in order[:going]], start, stop, pad_id)
        hidden, state = model.features(ids.to(device), state, layer)
        counts = torch.from_numpy(lengths[:going]).clamp(max=stop) - start
        pool.add(Piece(order[:going], hidden, widths.to(device), counts.to(device)))
        progress(float(widths.sum()))
        start = stop


def _padded(rows: list[Tokens], start: int, stop: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens start … stop of each row, filled up with `pad_id`, and the bases they add, filled up with 0."""
    ids = np.full((len(rows), stop - start), pad_id)
    widths = np.zeros((len(rows), stop - start), dtype=np.int64)
    for row, (all_ids, all_widths) in enumerate(rows):
        part = all_ids[start:stop]
        ids[row, : len(part)] = part
        widths[row, : len(part)] = 1 if all_widths is None else all_widths[start:stop]
    return torch.from_numpy(ids), torch.from_numpy(widths)


class _Batches(Dataset[Rows]):
    """Batch number → the tokens of its sequences."""

    def __init__(self, source: Source, batches: Sequence[Sequence[int]], tokenizer: Tokenizer, both: bool) -> None:
        self.source, self.batches, self.tokenizer, self.both = source, batches, tokenizer, both

    def __getitem__(self, index: int) -> Rows:
        return [strands(self.source.letters(number), self.tokenizer, self.both) for number in self.batches[index]]

    def __len__(self) -> int:
        return len(self.batches)


def load_rows(
    source: Source, batches: Sequence[Sequence[int]], tokenizer: Tokenizer, both: bool, workers: int
) -> Iterator[Rows]:
    workers = min(workers, len(batches))
    loader = DataLoader(
        _Batches(source, batches, tokenizer, both),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_ignore_interrupts,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # not the global one, from which it would draw
        multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
    )
    return iter(cast(Any, loader))


def _unchanged(rows: Rows) -> Rows:
    """Arrays stay arrays: tensors would each take a file in shared memory."""
    return rows


def _ignore_interrupts(worker: int) -> None:
    """A terminal sends Ctrl-C to every process; the main one ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_arguments(model: TitansDNA, pool: str, layer: int, batch_size: int, piece: int, workers: int) -> None:
    """ValueError for a model without a tokeniser, and for values out of range."""
    tokenizer_of(model)
    if pool not in POOLS:
        raise ValueError(f"pool: got {pool!r}, want one of {', '.join(POOLS)}")
    if not -1 <= layer < len(model.blocks):
        raise ValueError(f"layer: got {layer}, want -1 (after the last norm) or 0 to {len(model.blocks) - 1}")
    for name, value, low in (("batch_size", batch_size, 1), ("piece", piece, 1), ("workers", workers, 0)):
        if value < low:
            raise ValueError(f"{name}: got {value}, want at least {low}")


def token_bases(tokenizer: Tokenizer) -> int:
    """Bases of the longest token, at least 1."""
    return max(1, int(tokenizer.lengths.max()))
