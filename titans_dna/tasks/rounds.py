"""What happens between the steps of a fine-tuning run: validate, keep the best, write down, save, stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import pytorch as pl
from torch import Tensor

from titans_dna.run.files import replacing
from titans_dna.run.signals import Interruption
from titans_dna.tasks.examples import Examples
from titans_dna.tasks.module import FinetuneModule
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.progress import Progress
from titans_dna.train.run_checkpoint import read_values, write_values

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.csv"
MAX_SKIPPED = 10
"""Steps in a row that may fail before the run gives up."""
MONITORED = {"binary": "mcc", "multiclass": "mcc", "multilabel": "auprc", "regression": "spearman"}
_FORMAT = "titans-dna fine-tuning 1"

Outcome = Literal["running", "finished", "interrupted", "diverged"]


class Rounds(pl.Callback):
    """Validates every so many steps; `best` is then the weights of the best validation, `outcome` why training ended.

    Checkpoints hold all of it, so that a run that was interrupted at any step goes on to the same result.
    """

    def __init__(
        self,
        directory: Path,
        options: FinetuneOptions,
        examples: Examples,
        interruption: Interruption,
        progress: Progress,
        every: int,
    ) -> None:
        self.directory, self.options, self.examples = directory, options, examples
        self.interruption, self.progress, self.every = interruption, progress, every
        self.outcome: Outcome = "running"
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_value, self.best_step = -math.inf, 0
        self.since = 0
        """Validations since the best one."""
        self._losses: list[float] = []

    def resume(self, module: FinetuneModule, values: dict[str, Any]) -> None:
        """Put back what `save` wrote; the optimiser follows once training begins."""
        module.model.load_state_dict(values["model"])
        module.step = values["step"]
        self.history, self.best, self._losses = values["history"], values["best"], values["losses"]
        self.best_value, self.best_step = values["best_value"], values["best_step"]
        self.since, self.outcome = values["since"], values["outcome"]
        self._optimiser = values["optimiser"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue where the checkpoint left off."""
        # Lightning's own handler of SIGTERM, just put in place, would end the run without saving it.
        self.interruption.listen()
        module = _module(pl_module)
        if module.step:
            module.adamw().optimizer.load_state_dict(self._optimiser)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After each step."""
        del outputs, batch, batch_idx
        module = _module(pl_module)
        result = module.result
        assert result is not None
        if not result.skipped:
            self._losses.append(result.loss)
        last = module.step >= module.steps
        if module.skipped_in_a_row >= MAX_SKIPPED:
            self.outcome = "diverged"
        elif module.step % self.every == 0 or last:
            if self._validate(module):
                late = self.options.train.patience and self.since >= self.options.train.patience
                self.outcome = "finished" if last or late else "running"
            else:
                self.outcome = "diverged"
        if self.outcome == "running" and self.interruption.signal is not None:
            self.outcome = "interrupted"
        self.progress.step(result, self.history[-1] if module.step % self.every == 0 and self.history else None)
        if self.outcome != "running" or module.step % self.options.run.save_every == 0 or module.step % self.every == 0:
            self.save(module)
        trainer.should_stop = self.outcome != "running"

    def save(self, module: FinetuneModule) -> None:
        """Write the checkpoint."""
        write_values(
            self.directory / CHECKPOINT,
            {
                "format": _FORMAT,
                "step": module.step,
                "model": module.model.state_dict(),
                "optimiser": module.adamw().optimizer.state_dict(),
                "history": self.history,
                "losses": self._losses,
                "best": self.best,
                "best_value": self.best_value,
                "best_step": self.best_step,
                "since": self.since,
                "outcome": "running" if self.outcome == "interrupted" else self.outcome,
            },
        )

    def _validate(self, module: FinetuneModule) -> bool:
        """False where what the model says is not finite."""
        scores = self.examples.scores(module.model, "valid")
        if not np.isfinite(scores).all():
            return False
        metrics = {name: one.value for name, one in self.examples.metrics(scores, "valid").items()}
        train = sum(self._losses) / len(self._losses) if self._losses else math.nan
        loss = self.examples.loss(scores, "valid")
        self._losses = []
        self.history.append({"step": module.step, "train_loss": train, "valid_loss": loss, **metrics})
        write_history(self.directory / METRICS, self.history)
        wanted = MONITORED[module.model.question.task]
        value = -loss if self.options.train.monitor == "loss" else metrics[wanted]
        # A metric that is not defined (one class in a small validation split) leaves the choice to the loss.
        value = value if math.isfinite(value) else -loss
        self.since += 1
        if value > self.best_value or not self.best:
            self.best_value, self.best_step, self.since = value, module.step, 0
            trained = {name for name, one in module.model.named_parameters() if one.requires_grad}
            self.best = {
                name: one.detach().cpu().clone() for name, one in module.model.state_dict().items() if name in trained
            }
        return True


def read_seed(directory: Path) -> dict[str, Any] | None:
    """The checkpoint of a seed's directory; None where it has none yet. ValueError for a damaged one."""
    path = directory / CHECKPOINT
    return read_values(path, _FORMAT, "titans-dna finetune") if path.exists() else None


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One row a validation."""
    with replacing(path) as aside, open(aside, "w", encoding="utf-8", newline="") as out:
        out.write(",".join(history[0]) + "\n")
        out.writelines(",".join(_cell(value) for value in row.values()) + "\n" for row in history)


def _cell(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _module(module: pl.LightningModule) -> FinetuneModule:
    assert isinstance(module, FinetuneModule)
    return module
