"""Sequences to vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from titans_dna.nn.heads import PLAIN
from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.reading.pools import Pooled, Unpooled
from titans_dna.reading.source import Source, as_source
from titans_dna.reading.stream import group, stream

POOLS = (*PLAIN, "none")


def embed(
    model: TitansDNA,
    sequences: Any,
    pool: str = "mean",
    layer: int = -1,
    *,
    rc: bool = False,
    state: tuple[Any, ...] | None = None,
    batch_size: int = 8,
    piece: int = 4096,
    workers: int = 0,
    reverse_complement: bool | None = None,
) -> np.ndarray | list[np.ndarray]:
    """Vectors of sequences, in their order: float32 [n, width], or with pool "none" a list of n arrays [bases, width].

    model: one with a tokenizer, as `titans_dna.load` gives it; it computes where its weights are.
    sequences: a sequence (str, bytes, Biopython's Seq or SeqRecord), an iterable of such, or the path of a FASTA,
        GenBank, EMBL or FASTQ file, one vector for each record. A string of nucleotide letters alone is a sequence,
        never a path.
    pool: "mean" or "max" over the bases, "last" (the state after the last base), or "none", one vector for each base.
        A token of several bases counts as often, or stands at each of them; of overlapping k-mers, a base has the one
        that ends with it, the first k - 1 bases the first one.
    layer: -1, the last block's output after the last norm, or the number of a block, from 0, whose output is taken as
        it is; the blocks after it do not run.
    rc: the mean of both strands' vectors, each base's for pool "none": a sequence and its reverse complement then have
        the same.
    state: what the model remembers already, of one row, as `titans_dna.remember` returns it or `load_state` reads it: each
        sequence, and each strand of it, is read as what comes after that. It is not changed.
    batch_size, piece, workers: sequences side by side, bases of each per call of the model, and processes that read
        and tokenise. They change speed and memory, and no vector. A sequence of any length takes the memory of a piece,
        and with a tokenizer of byte-pair encoding a few bytes a base for its tokens; pool "none" takes all its vectors.
    reverse_complement: the name of `rc` in version 0.1.

    Raises ValueError naming the argument for an empty sequence, a letter that is no nucleotide code, or a value out of
    range, and what `open_genome` raises for a file.
    """
    if reverse_complement is not None:
        warnings.warn("embed: reverse_complement is called rc now", DeprecationWarning, stacklevel=2)
        rc = reverse_complement
    check_arguments(model, pool, layer, batch_size, piece, workers)
    source = as_source(sequences)
    batches = group(source.lengths, rows=batch_size, piece=piece)
    vectors: list[Any] = [None] * len(source.lengths)
    found = embed_batches(model, source, batches, pool, layer, rc=rc, piece=piece, workers=workers, state=state)
    for numbers, some in found:
        for number, vector in zip(numbers, some, strict=True):
            vectors[number] = vector
    if pool == "none":
        return vectors
    return np.stack(vectors) if vectors else np.empty((0, model.config.width), dtype=vector_dtype(model))


def embed_batches(
    model: TitansDNA,
    source: Source,
    batches: Sequence[Sequence[int]],
    pool: str,
    layer: int,
    *,
    rc: bool,
    piece: int,
    workers: int,
    progress: Callable[[float], object] = lambda bases: None,
    state: tuple[Any, ...] | None = None,
    array: Callable[[int], np.ndarray] | None = None,
) -> Iterator[tuple[Sequence[int], Sequence[np.ndarray]]]:
    """Each batch of sequence numbers, and their vectors; `progress` is told of bases as they are done.

    array: for pool "none", sequence number → zeros [bases, width] to fill, asked for when its batch begins.
    """
    width, dtype = model.config.width, vector_dtype(model)

    def pooled(numbers: Sequence[int]) -> Pooled:
        return Pooled(PLAIN[pool](width, torch.float64), len(numbers) * (1 + rc))

    def unpooled(numbers: Sequence[int]) -> Unpooled:
        made = array or (lambda number: np.zeros((int(source.lengths[number]), width), dtype))
        return Unpooled([made(number) for number in numbers], rc)

    found = stream(
        model, source, batches, unpooled if pool == "none" else pooled,
        piece=piece, rc=rc, layer=layer, state=state, workers=workers, progress=progress,
    )  # fmt: skip
    for numbers, taken in found:
        if isinstance(taken, Unpooled):
            yield numbers, taken.arrays
            continue
        vectors = taken.out().cpu().numpy()
        if rc:
            vectors = (vectors[::2] + vectors[1::2]) / 2
        yield numbers, list(vectors.astype(dtype, copy=False))


def vector_dtype(model: TitansDNA) -> type[np.floating[Any]]:
    """float64 for a model of that precision, otherwise float32."""
    return np.float64 if model.norm.weight.dtype == torch.float64 else np.float32


def check_arguments(model: TitansDNA, pool: str, layer: int, batch_size: int, piece: int, workers: int) -> None:
    """ValueError for a model without a tokenizer, and for values out of range."""
    tokenizer_of(model)
    if pool not in POOLS:
        raise ValueError(f"pool: got {pool!r}, want one of {', '.join(POOLS)}")
    if not -1 <= layer < len(model.blocks):
        raise ValueError(f"layer: got {layer}, want -1 (after the last norm) or 0 to {len(model.blocks) - 1}")
    for name, value, low in (("batch_size", batch_size, 1), ("piece", piece, 1), ("workers", workers, 0)):
        if value < low:
            raise ValueError(f"{name}: got {value}, want at least {low}")
