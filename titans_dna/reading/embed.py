"""Sequences to vectors, in memory and from files to a file, in parts that an interrupted run need not compute again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from titans_dna.checkpoint import open_model
from titans_dna.genome.genome import open_genomes
from titans_dna.nn.model import TitansDNA, take_rows, tokenizer_of, weights_fingerprint
from titans_dna.nn.pools import PLAIN, State
from titans_dna.nn.state import load_state
from titans_dna.reading.options import EmbedOptions, VectorOptions
from titans_dna.reading.parts import PART_BASES, Unfinished, fingerprint
from titans_dna.reading.source import GenomeSource, Source, as_source, genome_source
from titans_dna.reading.stream import Piece, finite, group, stream
from titans_dna.reading.table import VECTORS, check_format, vector_files, write_vectors
from titans_dna.run.sealed import new_array

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
    range, what `open_genome` raises for a file, and FloatingPointError where a vector is not finite.
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
            yield numbers, [finite(one) for one in taken.arrays]
            continue
        vectors = taken.out().cpu().numpy()
        if rc:
            vectors = (vectors[::2] + vectors[1::2]) / 2
        yield numbers, list(finite(vectors.astype(dtype, copy=False)))


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


class Pooled:
    """One vector a row, from a pool or a head of `nn.heads`; rows that have ended leave, the longest stay."""

    def __init__(self, pool: Callable[[Tensor, Tensor, State | None], tuple[Tensor, State]], rows: int) -> None:
        self._pool, self._found = pool, [torch.empty(0)] * rows
        self._state: State | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        if self._state is not None and len(self._state[0]) > len(piece.rows):
            self._state = take_rows(self._state, slice(len(piece.rows)))
        found, self._state = self._pool(piece.out, piece.widths, self._state)
        for row, one in zip(piece.rows, found, strict=True):
            self._found[row] = one

    def out(self) -> Tensor:
        """What is said of each row, [rows, …]."""
        return torch.stack(self._found)


class Unpooled:
    """Every base's vector, that of the token that adds it; of both strands, their mean."""

    def __init__(self, arrays: Sequence[np.ndarray], both: bool = False) -> None:
        """arrays: [bases, width] of each sequence, all 0, to be filled. both: every second row is the other strand of the
        row before, whose base j stands at base n - 1 - j."""
        self.arrays = arrays
        self._both = both
        self._done = [0] * (len(arrays) * (1 + both))

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        for row, hidden, widths in zip(piece.rows, piece.out, piece.widths, strict=True):
            precise = hidden.to(torch.promote_types(hidden.dtype, torch.float32))  # NumPy has no bfloat16
            found = precise.repeat_interleave(widths, dim=0).cpu().numpy()
            array = self.arrays[row // (1 + self._both)]
            start, end = self._done[row], self._done[row] + len(found)
            self._done[row] = end
            if not self._both:
                array[start:end] = found
            elif row % 2:
                array[len(array) - end : len(array) - start] += found[::-1] / 2
            else:
                array[start:end] += found / 2


PART_BASES_UNPOOLED = 1 << 16
"""Bases of a part where each base has its own vector."""


class Result(NamedTuple):
    """What was written."""

    files: list[Path]
    rows: int
    width: int


def embed_files(options: EmbedOptions, resume: bool = False) -> Result:
    """Embed the records of files, or intervals of them, and write vectors, names and coordinates.

    Progress goes to stderr. The output appears whole or not at all; until then finished parts are kept in a directory
    beside it, `OUT.partial`, and a run with the same model, input and options goes on from there. resume: there must be
    such a run.

    Raises ValueError or OSError with one line for any bad input, `Stopped` where it is interrupted, and FloatingPointError
    where a vector is not finite.
    """
    files, vectors, speed = options.files, options.vectors, options.speed
    out, per_base = Path(files.out), vectors.pool == "none"
    check_format(out, VECTORS)
    inputs = [*files.fasta, files.bed, files.state]
    with Unfinished("embed", vector_files(out), inputs, overwrite=files.overwrite, resume=resume) as kept:
        model = open_model(files.model, TitansDNA, speed.accelerator, speed.threads)
        check_arguments(model, vectors.pool, vectors.layer, speed.batch_size, speed.piece, speed.workers)
        state = None if files.state is None else load_state(files.state, model).state
        source = genome_source(open_genomes(files.fasta), files.bed)
        plan = plan_parts(source.lengths, PART_BASES_UNPOOLED if per_base else PART_BASES)
        kept.begin(options, embed_fingerprint(model, source, vectors, plan, files.state))
        rows, width = source.lengths if per_base else np.ones_like(source.lengths), model.config.width
        kept.fill(
            plan,
            source.lengths,
            lambda lengths: group(lengths, rows=speed.batch_size, piece=speed.piece),
            lambda batches, array, progress: embed_batches(
                model, source, batches, vectors.pool, vectors.layer, rc=vectors.rc, piece=speed.piece,
                workers=speed.workers, progress=progress, state=state, array=array,
            ),
            shape=(width,),
            dtype=vector_dtype(model),
            rows=rows,
        )  # fmt: skip
        whole = kept.path / "vectors.npy"
        shape = (int(rows.sum()), width)
        found = new_array(whole, shape, vector_dtype(model))
        kept.gather(plan, found, rows)
        found.flush()
        write_vectors(kept.path, out, whole, source.records, per_base)
        kept.finish(vector_files(out))
    return Result(vector_files(out), *shape)


def embed_fingerprint(
    model: TitansDNA, source: GenomeSource, vectors: VectorOptions, plan: list[list[int]], state: str | None = None
) -> str:
    """Digest of all that the parts depend on: weights, tokenizer, sequences, intervals, options, what is in which, and the
    state file that they go on from. As version 0.1.0 had it."""
    chosen = {"pool": vectors.pool, "layer": vectors.layer, "rc": vectors.rc}
    known = (model.config.identity(), tokenizer_of(model).to_dict(), chosen, source.genome.fingerprint(), plan)
    return fingerprint(weights_fingerprint(model), known, source, state)


def plan_parts(lengths: np.ndarray, bases: int) -> list[list[int]]:
    """Sequence numbers, longest first, in runs of about `bases` bases; the same whatever the batch size."""
    order = np.argsort(-lengths, kind="stable")
    # A sequence belongs to the part in which it starts.
    part = (np.cumsum(lengths[order]) - lengths[order]) // bases
    return [group.tolist() for group in np.split(order, np.flatnonzero(np.diff(part)) + 1)]
