"""`titans-dna embed`: from files to a file, in parts that an interrupted run need not compute again."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from titans_dna.checkpoint import open_model
from titans_dna.genome.genome import open_genomes
from titans_dna.nn.model import TitansDNA, tokenizer_of, weights_fingerprint
from titans_dna.nn.state import load_state
from titans_dna.reading.embed import check_arguments, embed_batches, vector_dtype
from titans_dna.reading.options import EmbedOptions, VectorOptions
from titans_dna.reading.parts import PART_BASES, Unfinished, fingerprint
from titans_dna.reading.source import GenomeSource, genome_source
from titans_dna.reading.stream import group
from titans_dna.reading.table import VECTORS, check_format, vector_files, write_vectors

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

    Raises ValueError or OSError with one line for any bad input, and `Stopped` where it is interrupted.
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
        found = np.lib.format.open_memmap(whole, mode="w+", dtype=vector_dtype(model), shape=shape)
        kept.gather(plan, found, rows).flush()  # pyright: ignore[reportAttributeAccessIssue]
        write_vectors(kept.path, out, whole, source.records, per_base)
        kept.finish(vector_files(out))
    return Result(vector_files(out), *shape)


def embed_fingerprint(
    model: TitansDNA, source: GenomeSource, vectors: VectorOptions, plan: list[list[int]], state: str | None = None
) -> str:
    """Digest of all that the parts depend on: weights, tokenizer, sequences, intervals, options, what is in which, and the
    state file that they go on from. As version 0.1.0 had it."""
    chosen = {"pool": vectors.pool, "layer": vectors.layer, "rc": vectors.rc}
    known = (model.config.to_dict(), tokenizer_of(model).to_dict(), chosen, source.genome.fingerprint(), plan)
    return fingerprint(weights_fingerprint(model), known, source, state)


def plan_parts(lengths: np.ndarray, bases: int) -> list[list[int]]:
    """Sequence numbers, longest first, in runs of about `bases` bases; the same whatever the batch size."""
    order = np.argsort(-lengths, kind="stable")
    # A sequence belongs to the part in which it starts.
    part = (np.cumsum(lengths[order]) - lengths[order]) // bases
    return [group.tolist() for group in np.split(order, np.flatnonzero(np.diff(part)) + 1)]
