"""What happens after each optimiser step: validate, write down, save, and stop when it is time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning import pytorch as pl

from titans_dna.run.signals import Interruption
from titans_dna.train.metrics import FILE as METRICS
from titans_dna.train.metrics import MetricsFile
from titans_dna.train.module import PretrainModule, StepResult
from titans_dna.train.options import PretrainOptions
from titans_dna.train.progress import Progress
from titans_dna.train.run_checkpoint import FILE as CHECKPOINT
from titans_dna.train.run_checkpoint import restore_running, save_checkpoint

MAX_SKIPPED = 10
"""Steps in a row that may fail before the run gives up."""

Outcome = Literal["running", "finished", "interrupted", "out of time", "diverged"]


class Recorder(pl.Callback):
    """Keeps the run directory up to date; `outcome` says why training ended.

    validate: bits per base on the held-out windows. about: plain values that each checkpoint carries. resumed: the
    checkpoint to continue from, or None. Checkpoints fall on optimiser steps alone, so no gradient is ever half
    accumulated in one. Under several devices only the first writes.
    """

    def __init__(
        self,
        directory: Path,
        options: PretrainOptions,
        validate: Callable[[], float],
        interruption: Interruption,
        about: dict[str, Any],
        resumed: dict[str, Any] | None,
    ) -> None:
        self.directory, self.options, self.validate = directory, options, validate
        self.interruption, self.about, self.resumed = interruption, about, resumed
        self.outcome: Outcome = "running"
        self.seconds_before: float = resumed["about"]["seconds"] if resumed else 0.0
        self._metrics: MetricsFile | None = None
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue where the checkpoint left off; begin to measure time."""
        module = _pretrain(pl_module)
        # Lightning's own handler of SIGTERM, just put in place, would end the run without saving it.
        self.interruption.listen()
        if self.resumed is not None:
            restore_running(module, self.resumed)
        self._began = self._last = time.monotonic()
        if trainer.is_global_zero:
            self._metrics = MetricsFile(self.directory / METRICS, keep=module.step)
            self._progress = Progress(module.step, self.options.optimiser.steps)
            if self.resumed is None:
                self.save(module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Nothing unless the batch completed an optimiser step."""
        del outputs, batch, batch_idx
        module = _pretrain(pl_module)
        if module.result is None:
            return
        now = time.monotonic()
        speed = module.result.bases / max(now - self._last, 1e-9)
        self.outcome = self._reason_to_stop(trainer, module)
        valid = self._validate_if_due(module.result.step)
        if trainer.is_global_zero:
            self._write(trainer, module.result, valid, now - self._began + self.seconds_before, speed)
            every = self.options.run.save_every
            if self.outcome != "running" or (every and module.step % every == 0):
                self.save(module)
        trainer.should_stop = self.outcome != "running"
        self._last = time.monotonic()

    def save(self, module: PretrainModule) -> None:
        """Write the checkpoint."""
        about = {**self.about, "seconds": time.monotonic() - self._began + self.seconds_before}
        save_checkpoint(self.directory / CHECKPOINT, module, about)

    def close(self) -> None:
        """Close files and bar, however training ended."""
        if self._metrics is not None and self._progress is not None:
            self._metrics.close()
            self._progress.close()

    def _reason_to_stop(self, trainer: pl.Trainer, module: PretrainModule) -> Outcome:
        limit = self.options.run.max_time * 60
        late = bool(limit) and time.monotonic() - self._began >= limit
        # Devices must stop together, so each hears of what happened to any other.
        agreed = trainer.strategy.reduce_boolean_decision
        if module.step >= self.options.optimiser.steps:
            return "finished"
        if module.skipped_in_a_row >= MAX_SKIPPED:
            return "diverged"
        if agreed(self.interruption.signal is not None, all=False):
            return "interrupted"
        return "out of time" if agreed(late, all=False) else "running"

    def _validate_if_due(self, step: int) -> float | None:
        every = self.options.run.valid_every
        due = (every and step % every == 0) or self.outcome in ("finished", "out of time", "diverged")
        return self.validate() if due else None

    def _write(
        self, trainer: pl.Trainer, result: StepResult, valid: float | None, seconds: float, speed: float
    ) -> None:
        assert self._metrics is not None
        assert self._progress is not None
        row = {**result._asdict(), "skipped": int(result.skipped), "seconds": seconds, "bases_per_second": speed}
        if valid is not None:
            row["valid_bits_per_base"] = valid
        self._metrics.write(row)
        if trainer.logger is not None:
            trainer.logger.log_metrics({name: value for name, value in row.items() if name != "step"}, result.step)
        self._progress.step(result, speed, valid)


def _pretrain(module: pl.LightningModule) -> PretrainModule:
    assert isinstance(module, PretrainModule)
    return module
