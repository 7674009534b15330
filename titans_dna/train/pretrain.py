"""Pretraining from genome files to a model directory: the order in which everything happens."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.rank_zero import rank_zero_only

from titans_dna import checkpoint
from titans_dna.baselines.markov import MarkovRow
from titans_dna.genome.intervals import write_split
from titans_dna.nn.model import TitansDNA
from titans_dna.run.device import choose_device
from titans_dna.run.directory import RunDirectory
from titans_dna.run.progress import say
from titans_dna.train.language import COLUMNS, Language
from titans_dna.train.loop import Loop, Machine, Outcome, Settings
from titans_dna.train.optimiser import adamw, warmup_cosine
from titans_dna.train.options import PretrainOptions
from titans_dna.train.record import CHECKPOINT, METRICS, Record, read_checkpoint
from titans_dna.train.reports import held_out, plot_loss, write_card, write_markov
from titans_dna.train.source import Source, describe_plan, open_source
from titans_dna.train.validate import validate

SPLIT, EVENTS = "split.bed", "tensorboard"
_COMPARED = {"fingerprint": "--fasta", "split": "--bed (or --split)", "tokenizer": "--tokenizer"}


class RunResult(NamedTuple):
    """How a run ended."""

    directory: Path
    outcome: Outcome
    step: int
    """Steps done."""
    bits_per_base: float
    """On held-out sequence; NaN in the processes of further devices, which write nothing."""
    best_markov: MarkovRow | None


def pretrain(options: PretrainOptions, *, resume: bool = False) -> RunResult:
    """Train a model and write its directory; with `resume`, continue the run that is in it.

    All input is checked before anything is written. The directory then holds `run.yaml`, `data.json`, `split.bed`,
    `metrics.csv`, TensorBoard events and `checkpoint.pt`, at the end also the model (see `titans_dna.checkpoint`),
    `markov.csv`, `loss.png` and `README.md`.

    Raises ValueError or OSError, with one line for people, for any fault of the input, and `Stopped` where a signal came.
    """
    # Lightning starts a process for each device; the first one does all the writing.
    first = options.run.devices == 1 or getattr(rank_zero_only, "rank", 0) == 0
    with RunDirectory(options.run.out, "pretrain", first=first) as home:
        home.check(resume, options)
        device = _device(options)
        source = open_source(options)
        about = _about(source)
        saved = _read_saved(home, about) if resume else None
        if options.run.threads:
            torch.set_num_threads(options.run.threads)
        loop = _prepare(options, source, home.path, device, saved)
        home.open(options, about)
        if first:
            write_split(home.path / SPLIT, source.split)
            say("\n".join(describe_plan(options, source, _model(loop).parameter_count())))
            if loop.step:
                say(f"resumed at step {loop.step:,}")
        done = loop.run(lambda step, fabric: _batches(options, source, step, fabric))
        if not first:
            return RunResult(home.path, done.outcome, done.step, math.nan, None)
        return _report(home.path, options, source, _model(loop), done.outcome, done.step)


def _device(options: PretrainOptions) -> str:
    kind = choose_device(options.run.accelerator)
    if kind == "cuda" and options.run.devices > torch.cuda.device_count():
        raise ValueError(f"--devices: got {options.run.devices}, want at most {torch.cuda.device_count()}")
    return kind


def _about(source: Source) -> dict[str, Any]:
    rows = [f"{name} {one}" for name, part in source.split._asdict().items() for one in part]
    return {**source.describe(), "split": _digest(rows), "tokenizer": _digest(source.tokenizer.to_dict())}


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read_saved(home: RunDirectory, about: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint, once the data are those of the run; None where the run was killed before its first one."""
    home.check_same(about, _COMPARED, since=("split", "tokenizer"))
    saved = read_checkpoint(home.path / CHECKPOINT)
    if saved is None:
        return None
    # Version 0.1.0 kept these in its checkpoint, as they are.
    for name in ("split", "tokenizer") if "about" in saved else ():
        if _digest(saved["about"][name]) != about[name]:
            raise ValueError(f"--resume: {_COMPARED[name]} is not that of the run in {home.path}: its {name} differs")
    # One that diverged has the steps left to recover in.
    return {**saved, "outcome": "running"}


def _prepare(
    options: PretrainOptions, source: Source, directory: Path, device: str, saved: dict[str, Any] | None
) -> Loop:
    optimiser, run = options.optimiser, options.run
    torch.manual_seed(optimiser.seed)
    model = TitansDNA(options.config.replace(vocab_size=source.tokenizer.vocab_size))
    model.activation_checkpointing = run.activation_checkpointing
    learner = Language(
        model,
        source.tokenizer.lengths,
        seed=optimiser.seed,
        accumulate=optimiser.accumulate,
        carry=options.data.lane > 0,
        scale=optimiser.batch_size * options.data.context,
        piece=run.piece,
    )

    def held_out_bits(fabric: Fabric) -> dict[str, float]:
        piece = min(options.data.context, run.piece or options.data.context)
        batches = source.valid_batches()
        return {
            "valid_bits_per_base": validate(model, batches, learner.lengths, piece=piece, precision=fabric.autocast())
        }

    def rate(step: int) -> float:
        fall = optimiser.steps - 1 - optimiser.warmup
        return warmup_cosine(
            step, rise=optimiser.warmup, warmup=optimiser.warmup, fall=fall, high=optimiser.lr, low=optimiser.min_lr
        )

    return Loop(
        learner,
        adamw(model, optimiser.weight_decay, (optimiser.beta1, optimiser.beta2)),
        Settings(
            optimiser.steps,
            rate,
            clip=optimiser.clip,
            valid_every=run.valid_every,
            save_every=run.save_every,
            seconds=run.max_time * 60,
        ),
        Machine(device, run.devices, run.strategy, optimiser.precision),
        validate=held_out_bits,
        # The norm of the whole gradient has always been added up in the order of the model.
        clipped=model.parameters(),
        checkpoint=directory / CHECKPOINT,
        saved=saved,
        record=Record(directory / METRICS, COLUMNS, events=directory / EVENTS),
        title="pretrain",
    )


def _batches(options: PretrainOptions, source: Source, step: int, fabric: Fabric) -> Iterator[Iterator[Any]]:
    accumulate = options.optimiser.accumulate
    batches = iter(source.module.train_batches(step * accumulate, rank=fabric.global_rank, ranks=fabric.world_size))
    return (islice(batches, accumulate) for _ in count())


def _model(loop: Loop) -> TitansDNA:
    assert isinstance(loop.learner.model, TitansDNA)
    return loop.learner.model


def _report(
    directory: Path, options: PretrainOptions, source: Source, model: TitansDNA, outcome: Outcome, step: int
) -> RunResult:
    """Model, Markov table, plot and card."""
    checkpoint.save(model, directory, source.tokenizer)
    best = write_markov(directory, source)
    bits = held_out(directory)
    plot_loss(directory, best)
    write_card(directory, options, source, model.parameter_count(), bits, best)
    return RunResult(directory, outcome, step, bits, best)
