"""Pretraining from genome files to a model directory: the order in which everything happens."""

from __future__ import annotations

import json
import logging
import math
import warnings
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning import pytorch as pl
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger

from titans_dna import checkpoint
from titans_dna.baselines.markov import MarkovRow
from titans_dna.genome.intervals import write_split
from titans_dna.nn.model import TitansDNA, map_state
from titans_dna.run.device import choose_device
from titans_dna.run.files import replacing
from titans_dna.run.run_file import read_options
from titans_dna.run.signals import Interruption
from titans_dna.train.metrics import FILE as METRICS
from titans_dna.train.module import PretrainModule
from titans_dna.train.options import PretrainOptions
from titans_dna.train.plan import describe_plan
from titans_dna.train.recorder import Outcome, Recorder
from titans_dna.train.reports import CARD, MARKOV, PLOT, held_out, plot_loss, write_card, write_markov
from titans_dna.train.run_checkpoint import FILE as CHECKPOINT
from titans_dna.train.run_checkpoint import read_checkpoint, restore
from titans_dna.train.source import Source, open_source
from titans_dna.train.validate import validate

RUN = "run.yaml"
DATA = "data.json"
SPLIT = "split.bed"
_WRITTEN = (DATA, SPLIT, METRICS, checkpoint.LANGUAGE.config, checkpoint.TOKENIZER, MARKOV, PLOT, CARD, "tensorboard")


class RunResult(NamedTuple):
    """How a run ended."""

    directory: Path
    outcome: Outcome
    signal: int | None
    """The signal that interrupted it, if one did."""
    step: int
    """Steps done."""
    bits_per_base: float
    """On held-out sequence; NaN where the run was interrupted."""
    best_markov: MarkovRow | None


def pretrain(options: PretrainOptions, *, resume: bool = False) -> RunResult:
    """Train a model and write its directory; with `resume`, continue the run that is in it.

    All input is checked before anything is written. The directory then holds `run.yaml`, `data.json`, `split.bed`,
    `metrics.csv`, TensorBoard events and `checkpoint.pt`, at the end also the model (see `titans_dna.checkpoint`),
    `markov.csv`, `loss.png` and `README.md`.

    Raises ValueError or OSError, with one line for people, for any fault of the input.
    """
    directory = Path(options.run.out)
    _check_directory(directory, options, resume)
    device = _device(options)
    source = open_source(options)
    about = {**source.describe(), "split": _rows(source), "tokenizer": source.tokenizer.to_dict()}
    resumed = _read_resumed(directory, about) if resume else None
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    module = _build(options, source)
    if resumed is not None:
        restore(module, resumed)
        source.module.start_batch = module.batches
    if _is_first():
        if resumed is None:
            _open_directory(directory, options, source)
        lines = describe_plan(options, source, module.model.parameter_count())
        lines += [f"resumed at step {module.step:,}"] if module.step else []
        print("\n".join(lines), flush=True)
    outcome, signal = _train(options, source, module, about, resumed, device)
    if outcome == "interrupted" or not _is_first():
        return RunResult(directory, outcome, signal, module.step, math.nan, None)
    return _report(directory, options, source, module, outcome)


def _check_directory(directory: Path, options: PretrainOptions, resume: bool) -> None:
    """Complain about an `--out` that cannot be used."""
    if resume:
        different = options.difference(read_run(directory))
        if different:
            raise ValueError(f"--resume: {different}")
        return
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"--out: {directory} is a file, want a directory")
    if not _is_first():
        return
    held = [name for name in (RUN, CHECKPOINT, checkpoint.LANGUAGE.weights) if (directory / name).exists()]
    if held:
        raise FileExistsError(f"--out: {directory} holds another run ({held[0]}); add --resume, or name another one")
    # Somebody's own files, such as the README of a project.
    kept = [name for name in _WRITTEN if (directory / name).exists()]
    if kept:
        raise FileExistsError(f"--out: {directory / kept[0]} would be overwritten, want a new or an empty directory")


def read_run(directory: Path) -> dict[str, Any]:
    """Options of the run in a directory; raises what `read_options` raises."""
    return read_options(directory / RUN, "run")


def _read_resumed(directory: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint, checked against the data; None where the run was killed before its first one."""
    path = directory / CHECKPOINT
    if not path.exists():
        return None
    values = read_checkpoint(path)
    for name in ("fingerprint", "split", "tokenizer"):
        if values["about"][name] != about[name]:
            raise ValueError(f"--resume: the {name} of the data is not that of the run in {directory}")
    return values


def _is_first() -> bool:
    # Lightning starts one process for each device; the first one does all the writing.
    return getattr(rank_zero_only, "rank", 0) == 0


def _device(options: PretrainOptions) -> str:
    kind = choose_device(options.run.accelerator)
    if kind == "cuda" and options.run.devices > torch.cuda.device_count():
        raise ValueError(f"--devices: got {options.run.devices}, want at most {torch.cuda.device_count()}")
    return kind


def _build(options: PretrainOptions, source: Source) -> PretrainModule:
    torch.manual_seed(options.optimiser.seed)
    model = TitansDNA(options.config.replace(vocab_size=source.tokenizer.vocab_size))
    model.activation_checkpointing = options.run.activation_checkpointing
    return PretrainModule(
        model,
        source.tokenizer.lengths,
        options.optimiser,
        carry=options.data.lane > 0,
        copy_state=_copy_state,
        scale=options.optimiser.batch_size * options.data.context,
        piece=options.run.piece,
    )


def _copy_state(state: Any) -> Any:
    # Contiguous, because sums over another layout round differently, and a resumed run must not.
    return map_state(lambda value: value.detach().clone(memory_format=torch.contiguous_format), state)


def _rows(source: Source) -> list[str]:
    return [f"{name} {one}" for name, part in source.split._asdict().items() for one in part]


def _open_directory(directory: Path, options: PretrainOptions, source: Source) -> None:
    """Write down what the run is, before it begins."""
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / RUN) as aside:
        text = yaml.safe_dump(options.resolved().to_dict(), sort_keys=False)
        aside.write_text(f"# titans-dna {version('titans-dna')}, torch {torch.__version__}\n{text}")
    with replacing(directory / DATA) as aside:
        aside.write_text(json.dumps(source.describe(), indent=2) + "\n")
    write_split(directory / SPLIT, source.split)


def _train(
    options: PretrainOptions,
    source: Source,
    module: PretrainModule,
    about: dict[str, Any],
    resumed: dict[str, Any] | None,
    device: str,
) -> tuple[Outcome, int | None]:
    if module.step >= options.optimiser.steps:
        return "finished", None
    directory = Path(options.run.out)
    # Lightning's own announcements; its warnings stay.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)

    def held_out_bits() -> float:
        context: AbstractContextManager[Any] = trainer.strategy.precision_plugin.forward_context()
        batches = source.valid_batches()
        piece = min(options.data.context, options.run.piece or options.data.context)
        return validate(module.model, batches, module.lengths, piece=piece, precision=context)

    with Interruption() as interruption:
        recorder = Recorder(directory, options, held_out_bits, interruption, about, resumed)
        trainer = pl.Trainer(
            accelerator=device,
            devices=options.run.devices,
            strategy=options.run.strategy,
            precision=options.optimiser.precision,
            max_epochs=1,
            logger=TensorBoardLogger(directory, name=None, version="tensorboard", purge_step=module.step + 1),
            callbacks=[recorder],
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        # For the rank alone: a whole data module would bring Lightning's own validation along.
        source.module.trainer = trainer
        try:
            with warnings.catch_warnings():
                # Lightning 2.6 asks newer versions of torch in a way that those call deprecated.
                warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
                trainer.fit(module, train_dataloaders=source.module.train_dataloader())
        finally:
            recorder.close()
    return recorder.outcome, interruption.signal


def _report(
    directory: Path, options: PretrainOptions, source: Source, module: PretrainModule, outcome: Outcome
) -> RunResult:
    """Model, Markov table, plot and card."""
    module.model.to("cpu")
    checkpoint.save(module.model, directory, source.tokenizer)
    best = write_markov(directory, source)
    bits = held_out(directory)
    plot_loss(directory, best)
    write_card(directory, options, source, module.model.parameter_count(), bits, best)
    return RunResult(directory, outcome, None, module.step, bits, best)
