"""`titans-dna context`: what a trained model gains from context on held-out sequence."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from titans_dna.checkpoint import open_model
from titans_dna.context.options import MODES, ContextOptions
from titans_dna.context.places import Place, choose_places, held_out
from titans_dna.context.report import Row, describe, table, write_report
from titans_dna.context.score import memory_off, reset_memory, score
from titans_dna.genome.genome import Genome, open_genomes
from titans_dna.nn.model import TitansDNA, tokenizer_of, weights_fingerprint
from titans_dna.run.directory import DATA, RunDirectory
from titans_dna.run.progress import Progress
from titans_dna.run.sealed import read_array, write_array
from titans_dna.tokens.vocabulary import NucleotideTokenizer

FOLDER = "scores"
_PLAN = "context.json"
"""What version 0.1.0 had in place of `DATA`."""


class Result(NamedTuple):
    """What was written."""

    directory: Path
    rows: list[Row]
    table: str
    """Bits per base of all scored bases over the context, as Markdown."""


def bench_context(options: ContextOptions, *, resume: bool = False) -> Result:
    """Score the same bases after every context in every mode, and write the table and the plot.

    Progress goes to stderr. Each mode and context is kept when it is finished, and a later call goes on from there; with
    `resume` there must be something to go on from.

    Raises ValueError or OSError with one line for any bad input.
    """
    files, task, speed = options.files, options.task, options.speed
    with RunDirectory(files.out, "context") as home:
        # The same command goes on with what is there, as with --resume.
        going_on = any((home.path / name).is_file() for name in (DATA, _PLAN))
        if resume or not going_on:
            home.check(resume)
        model = open_model(files.model, TitansDNA, speed.accelerator, speed.threads)
        _check_tokenizer(model)
        genome = open_genomes(files.fasta)
        intervals = held_out(genome, files.contigs, files.bed)
        places = choose_places(genome, intervals, task.contexts, task.target, task.places, task.max_n)
        if len(places) < task.places:
            print(f"context: places: {len(places)} of {task.places}; there are no more of them", file=sys.stderr)
        plan = _plan(options, model, genome, places)
        if going_on:
            home.hold()
            if (home.path / _PLAN).is_file():
                (home.path / _PLAN).replace(home.path / DATA)
            home.check_same(
                plan, {name: name.replace("model", "--model").replace("sequence", "--fasta") for name in plan}
            )
        home.open(options, plan)
        scores = Scores(home.path / FOLDER, (len(places), task.target))
        text = [read_place(genome, place, task.contexts[-1], task.target) for place in places]
        _compute(model, text, scores, options)
        rows = table(scores.all(), describe(text, task.target, task.k))
        written = write_report(home.path, rows, _about(options, model, genome, places, text))
    return Result(home.path, rows, written)


def read_place(genome: Genome, place: Place, context: int, target: int) -> bytes:
    """The letters of a context and its stretch."""
    return genome.fetch(place.contig, place.start - context, place.start + target)


def _compute(model: TitansDNA, text: list[bytes], scores: Scores, options: ContextOptions) -> None:
    """Score what is not done yet, shortest contexts first."""
    task = options.task
    ids = np.stack([NucleotideTokenizer().encode(one) for one in text])
    missing = [one for one in options.work if scores.get(*one) is None]
    if len(missing) < len(options.work):
        done = len(options.work) - len(missing)
        print(f"context: {done} of {len(options.work)} rows were done before", file=sys.stderr)
    if not missing:
        return
    bases = sum(len(text) * (context + task.target - 1) for _, context in missing)
    off = memory_off(model) if any(mode == "off" for mode, _ in missing) else model
    with Progress("context", bases) as progress:
        for mode, context in sorted(missing, key=lambda one: one[1]):
            bits = _score_rows(off if mode == "off" else model, ids, mode, context, options, progress.add)
            if not np.isfinite(bits).all():
                raise ValueError(
                    f"--model: gives numbers that are not finite after {context} bases in the mode {mode}, want a model "
                    "that has not diverged"
                )
            scores.put(mode, context, bits)


def _score_rows(
    model: TitansDNA, ids: np.ndarray, mode: str, context: int, options: ContextOptions,
    progress: Callable[[float], object],
) -> np.ndarray:  # fmt: skip
    task, speed = options.task, options.speed
    device = model.head.weight.device
    reset: Callable[[Any], Any] | None = (lambda state: reset_memory(model, state)) if mode == "reset" else None
    found = []
    for first in range(0, len(ids), speed.batch_size):
        rows = ids[first : first + speed.batch_size, -(context + task.target) :]
        part = torch.from_numpy(rows.astype(np.int64)).to(device)
        found.append(score(model, part, task.target, speed.piece, window=task.window, reset=reset, progress=progress))
    return np.concatenate(found)


def _check_tokenizer(model: TitansDNA) -> None:
    tokenizer = tokenizer_of(model)
    if not isinstance(tokenizer, NucleotideTokenizer):
        raise ValueError(f"--model: got a model of {tokenizer.name} tokens, want one whose tokens are single bases")


def _plan(options: ContextOptions, model: TitansDNA, genome: Genome, places: list[Place]) -> dict[str, Any]:
    """What the scores depend on, each by the name under which a difference is reported."""
    task = options.task
    return {
        "model": weights_fingerprint(model) + repr(sorted(model.config.identity().items())),
        "sequence": genome.fingerprint(),
        "longest of --contexts": task.contexts[-1],
        "--target": task.target,
        "--window": task.window,
        "choice of places": [str(place) for place in places],
    }


def _about(
    options: ContextOptions, model: TitansDNA, genome: Genome, places: list[Place], text: list[bytes]
) -> str:  # fmt: skip
    task, config = options.task, model.config
    unknown = 1 - sum(one.count(letter) for one in text for letter in b"ACGTUacgtu") / sum(map(len, text))
    names = ", ".join(path.name for path in genome.paths)
    window = f"attention window {config.window}"
    reaches = {"mac": f"segments of {config.segment}", "mag": window, "mal": window}
    found = [reaches[kind] for kind in dict.fromkeys(config.kinds) if kind in reaches and config.attention]
    reach = ", ".join(dict.fromkeys(found)) or "no attention"
    return "\n".join(
        (
            f"Model: {config.architecture}, {config.layers} blocks of width {config.width}, {model.parameter_count():,} "
            f"parameters, {reach}.",
            f"Sequence: {names}; {len(places)} stretches of {task.target:,} bases at {', '.join(map(str, places))} "
            f"(first base, 0-based); {unknown:.1%} of what is read with the longest context are no A, C, G or T.",
            f"Reset: the memory starts anew every {task.window:,} bases. Repeats: k-mers of {task.k}, the same strand, most "
            "recent earlier occurrence.",
        )
    )


class Scores:
    """Bits of the scored bases by mode and context, in files that appear whole or not at all."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        """folder: made where it is missing. shape: places, bases of each."""
        self.folder, self.shape = folder, shape
        folder.mkdir(exist_ok=True)

    def get(self, mode: str, context: int) -> np.ndarray | None:
        """float32 [places, target], or None where it is not done, or its file is damaged."""
        try:
            found = read_array(self._file(mode, context))
        except (OSError, ValueError):
            return None
        return found if found.shape == self.shape else None

    def put(self, mode: str, context: int, bits: np.ndarray) -> None:
        """Keep what is finished."""
        write_array(self._file(mode, context), bits)

    def all(self) -> dict[tuple[str, int], np.ndarray]:
        """All that is done, by mode and growing context."""
        names = [re.fullmatch(r"(\w+)-(\d+)\.npy", file.name) for file in self.folder.iterdir()]
        keys = sorted(
            ((match[1], int(match[2])) for match in names if match and match[1] in MODES),
            key=lambda key: (MODES.index(key[0]), key[1]),
        )
        found = {key: self.get(*key) for key in keys}
        return {key: bits for key, bits in found.items() if bits is not None}

    def _file(self, mode: str, context: int) -> Path:
        return self.folder / f"{mode}-{context}.npy"
