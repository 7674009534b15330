"""One seed of a fine-tuning run: build, train, keep the best."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import pytorch as pl
from torch import nn
from torch.utils.data import DataLoader, Dataset

from titans_dna.nn.finetuned import Batch, FineTuned
from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.run.signals import Interruption
from titans_dna.tasks.adapters import choose_trained, merge_adapters
from titans_dna.tasks.examples import Examples
from titans_dna.tasks.module import FinetuneModule
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.progress import Progress
from titans_dna.tasks.rounds import Rounds, read_seed


class Fitted(NamedTuple):
    """A seed's end."""

    model: FineTuned | None
    """With the weights of the best validation; None where it was interrupted."""
    signal: int | None
    """The signal that interrupted it."""
    diverged: bool
    best: dict[str, float]
    """The row of the best validation."""
    value: float
    """What it was best in; the more the better."""
    steps: int


def fit(
    directory: Path, options: FinetuneOptions, examples: Examples, backbone: TitansDNA, seed: int, device: str
) -> Fitted:
    """Train with one seed in its directory, from where a checkpoint there left off; `backbone` is left alone."""
    model = build(options, examples, backbone, seed)
    steps = max(1, round(options.train.epochs * examples.epoch_steps))
    every = options.train.valid_every or max(20, examples.epoch_steps // 2)
    module = FinetuneModule(model, options, seed, steps)
    directory.mkdir(parents=True, exist_ok=True)
    saved = read_seed(directory)
    progress = Progress(f"seed {seed}", 0 if saved is None else saved["step"], steps)
    with Interruption() as interruption:
        rounds = Rounds(directory, options, examples, interruption, progress, every)
        if saved is not None:
            rounds.resume(module, saved)
        try:
            if rounds.outcome == "running":
                _train(module, rounds, options, device)
        finally:
            progress.close()
    if interruption.signal is not None:  # in the last step too: the checkpoint is whole, and resuming finishes the seed
        return Fitted(None, interruption.signal, False, {}, -math.inf, module.step)
    if not rounds.best:
        raise ValueError(
            f"--lr: got {options.lr:g}, with which nothing finite came out before the first validation of seed {seed}; "
            "want a lower one"
        )
    model.load_state_dict(rounds.best, strict=False)
    merge_adapters(model)
    best = next((row for row in rounds.history if row["step"] == rounds.best_step), {})
    return Fitted(model.eval(), None, rounds.outcome == "diverged", best, rounds.best_value, module.step)


def build(options: FinetuneOptions, examples: Examples, backbone: TitansDNA, seed: int) -> FineTuned:
    """The model before the first step: a copy of the backbone, or new weights, and a new head."""
    torch.manual_seed(seed)
    scratch = options.tune.preset is not None or options.tune.tune == "scratch"
    own = TitansDNA(backbone.config) if scratch else copy.deepcopy(backbone)
    own.activation_checkpointing = options.run.activation_checkpointing
    model = FineTuned(own, examples.question, tokenizer_of(backbone), options.tune.dropout)
    tune = "scratch" if scratch else options.tune.tune
    for block in own.blocks:
        block.dropout = nn.Dropout(options.tune.dropout if tune in ("scratch", "full") else 0.0)
    model.packed = options.train.packed
    choose_trained(model, tune, options.tune.lora_rank)
    return model.train()


class _Steps(Dataset[list[Batch]]):
    """Step number → its batches."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, number: int) -> list[Batch]:
        return self.examples.step(number)


def _train(module: FinetuneModule, rounds: Rounds, options: FinetuneOptions, device: str) -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    loader = DataLoader(
        _Steps(rounds.examples),
        batch_size=None,
        sampler=_From(module.step, module.steps),
        num_workers=options.run.workers,
        generator=torch.Generator(),  # not the global one, from which it would draw
    )
    trainer = pl.Trainer(
        accelerator=device,
        devices=1,
        precision=options.train.precision,
        max_epochs=1,
        logger=False,
        callbacks=[rounds],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        # Lightning 2.6 asks newer versions of torch in a way that those call deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(module, train_dataloaders=loader)


class _From:
    """Step numbers first … last - 1, in order."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last))

    def __len__(self) -> int:
        return self.last - self.first
