"""`titans-dna embed`: from files to a file, in parts that an interrupted run need not compute again."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from titans_dna.checkpoint import load
from titans_dna.fingerprint import weights_fingerprint
from titans_dna.genome.genome import open_genomes
from titans_dna.nn.model import TitansDNA
from titans_dna.reading.embed import check_arguments, embed_batches, plan_batches, token_bases
from titans_dna.reading.options import EmbedOptions, FileOptions, VectorOptions
from titans_dna.reading.parts import PLAN, Parts, claim, parts_folder
from titans_dna.reading.source import GenomeSource, genome_source
from titans_dna.reading.state_file import load_state
from titans_dna.reading.table import check_format, files_of, write_table
from titans_dna.run.device import choose_device

PART_BASES = 1 << 19
"""Bases of a part, which is what an interruption costs at most: half a minute on one core for the preset `small`."""
PART_BASES_UNPOOLED = 1 << 16
"""Where each base has its own vector, and those of a part are held in memory."""


class Result(NamedTuple):
    """What was written."""

    files: list[Path]
    rows: int
    width: int


def embed_files(options: EmbedOptions) -> Result:
    """Embed the records of files, or intervals of them, and write vectors, names and coordinates.

    Progress goes to stderr. The output appears whole or not at all; until then finished parts are kept in a directory
    beside it, `OUT.partial`, and a run with the same model, input and options goes on from there.

    Raises ValueError or OSError with one line for any bad input.
    """
    out, per_base = Path(options.files.out), options.vectors.pool == "none"
    _check_output(options.files)
    model = load(options.files.model).to(choose_device(options.speed.accelerator))
    speed, vectors = options.speed, options.vectors
    check_arguments(model, vectors.pool, vectors.layer, speed.batch_size, speed.piece, speed.workers)
    state = None if options.files.state is None else load_state(options.files.state, model).state
    source = genome_source(open_genomes(options.files.fasta), options.files.bed)
    if speed.threads:
        torch.set_num_threads(speed.threads)
    rows = source.lengths if per_base else np.ones_like(source.lengths)
    with claim(out) as folder:
        plan = _plan_parts(source.lengths, PART_BASES_UNPOOLED if per_base else PART_BASES)
        parts = Parts(folder, fingerprint(model, source, vectors, plan, options.files.state))
        _compute(model, source, parts, plan, rows, options, state, resumable=not parts.changed)
        gathered = _gather(parts, plan, rows, model.config.width, folder / "vectors.npy")
        write_table(folder, out, gathered, source.records, per_base)
        parts.finish(files_of(out))
    return Result(files_of(out), int(rows.sum()), model.config.width)


def fingerprint(
    model: TitansDNA, source: GenomeSource, vectors: VectorOptions, plan: list[list[int]], state: str | None = None
) -> str:
    """Digest of all that the parts depend on: weights, tokeniser, sequences, intervals, options, what is in which, and the
    state file that they go on from."""
    digest = hashlib.blake2b(weights_fingerprint(model).encode(), digest_size=16)
    tokenizer: Any = model.tokenizer
    known = (model.config.to_dict(), tokenizer.to_dict(), vars(vectors), source.genome.fingerprint(), plan)
    digest.update(json.dumps(known, sort_keys=True).encode())
    if state is not None:
        digest.update(Path(state).read_bytes())
    digest.update("".join(f"{one.name}\t{one.interval}\t{one.strand}\n" for one in source.records).encode())
    return digest.hexdigest()


def _check_output(files: FileOptions) -> None:
    out, inputs = Path(files.out), [*files.fasta, *filter(None, [files.bed, files.state])]
    check_format(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: {out.parent}: no such directory")
    # A sidecar alone beside unfinished parts is of a run that ended between its last two steps.
    resuming = (parts_folder(out) / PLAN).exists()
    for file in files_of(out):
        if file.is_dir():
            raise IsADirectoryError(f"--out: {file} is a directory, want a file to write")
        if not file.exists():
            continue
        if any(Path(one).exists() and file.samefile(one) for one in inputs):
            raise ValueError(f"--out: {file} is one of the inputs, want another name")
        if not files.overwrite and not (resuming and file != out):
            raise ValueError(f"--out: {file} exists, want another name, or --overwrite to replace it")


def _plan_parts(lengths: np.ndarray, bases: int) -> list[list[int]]:
    """Sequence numbers, longest first, in runs of about `bases` bases; the same whatever the batch size."""
    order = np.argsort(-lengths, kind="stable")
    # A sequence belongs to the part in which it starts.
    part = (np.cumsum(lengths[order]) - lengths[order]) // bases
    return [group.tolist() for group in np.split(order, np.flatnonzero(np.diff(part)) + 1)]


def _compute(
    model: TitansDNA, source: GenomeSource, parts: Parts, plan: list[list[int]], rows: np.ndarray,
    options: EmbedOptions, state: tuple[Any, ...] | None, resumable: bool,
) -> None:  # fmt: skip
    """Embed the parts that are not done yet."""
    speed, vectors = options.speed, options.vectors
    missing = [i for i, part in enumerate(plan) if not parts.done(i, int(rows[part].sum()))]
    left = sum(int(source.lengths[plan[i]].sum()) for i in missing)
    if not resumable:
        print("embed: model, input or options have changed since the last run; starting again", file=sys.stderr)
    elif len(missing) < len(plan):
        print(f"embed: {len(plan) - len(missing)} of {len(plan)} parts were done before", file=sys.stderr)
    piece = speed.piece * token_bases(model.tokenizer)  # pyright: ignore[reportArgumentType]
    batches = []
    for i in missing:
        numbers = np.array(plan[i])
        found = plan_batches(source.lengths[numbers], speed.batch_size, piece)
        batches.append([numbers[batch].tolist() for batch in found])
    progress = Progress(int(source.lengths.sum()), left)
    results = embed_batches(
        model, source, [*chain.from_iterable(batches)], vectors.pool, vectors.layer, reverse_complement=vectors.rc,
        piece=speed.piece, workers=speed.workers, progress=progress.add, state=state,
    )  # fmt: skip
    for i, of_part in zip(missing, batches, strict=True):
        found = dict(_numbered(of_part, results))
        arrays = [found[number] for number in plan[i]]
        parts.put(i, np.concatenate(arrays) if vectors.pool == "none" else np.stack(arrays))
    progress.close()


def _numbered(batches: list[list[int]], results: Iterable[list[np.ndarray]]) -> Iterable[tuple[int, np.ndarray]]:
    for batch in batches:
        yield from zip(batch, next(iter(results)), strict=True)


def _gather(parts: Parts, plan: list[list[int]], rows: np.ndarray, width: int, path: Path) -> Path:
    """The rows of all parts in the order of the input, as one .npy file."""
    first = np.cumsum(rows) - rows
    dtype = parts.get(0).dtype
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(int(rows.sum()), width))
    for i, numbers in enumerate(plan):
        found, done = parts.get(i), 0
        for number in numbers:
            out[first[number] : first[number] + rows[number]] = found[done : done + rows[number]]
            done += int(rows[number])
    out.flush()
    return path


class Progress:
    """Bases done, speed and time left on stderr: a bar on a terminal, elsewhere a line now and then."""

    SECONDS = 10

    def __init__(self, total: int, left: int) -> None:
        self._bar = tqdm(
            total=total, initial=total - left, unit="b", unit_scale=True, dynamic_ncols=True, file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._total, self._before, self._done = total, total - left, float(total - left)
        self._began = self._said = time.monotonic()

    def add(self, bases: float) -> None:
        """Some more bases are done."""
        self._done += bases
        self._bar.update(bases)
        now = time.monotonic()
        if self._bar.disable and now - self._said > self.SECONDS:
            self._said = now
            self._say(now)

    def close(self) -> None:
        """Take the bar away, and say what was reached."""
        self._bar.close()
        self._say(time.monotonic())

    def _say(self, now: float) -> None:
        line = tqdm.format_meter(
            self._done, self._total, now - self._began, initial=self._before, unit="b", unit_scale=True, ncols=100
        )
        print(f"embed: {line}", file=sys.stderr, flush=True)
