"""One optimiser step of fine-tuning, and the parameters it moves."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from lightning import pytorch as pl
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from titans_dna.nn.finetuned import Batch, FineTuned
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.train.optimiser import parameter_groups

LAST_LR = 0.05
"""Of the highest learning rate, where the cosine ends."""


class Step(NamedTuple):
    """What one optimiser step came to."""

    number: int
    """From 1."""
    loss: float
    """Mean over its rows, or bases."""
    bases: int
    skipped: bool
    """True where loss or gradient was not finite, and the parameters were left alone."""


class FinetuneModule(pl.LightningModule):
    """A fine-tuned model under training; `step` counts the steps done, `result` is the last one's."""

    def __init__(self, model: FineTuned, options: FinetuneOptions, seed: int, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.options, self.seed, self.steps = model, options, seed, steps
        self.step = 0
        self.skipped_in_a_row = 0
        self.result: Step | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained; the learning rate is set at each step."""
        groups = parameter_groups(self.model, self.options.train.weight_decay)
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.98))

    def adamw(self) -> LightningOptimizer:
        """The optimiser of the running trainer."""
        optimiser = self.optimizers()
        assert isinstance(optimiser, LightningOptimizer)
        return optimiser

    def training_step(self, batches: list[Batch], batch_idx: int) -> None:
        """The batches of one step: their losses are summed, so that how they are cut changes nothing."""
        del batch_idx
        self._seed()
        answers = max(1, sum(int((batch.labels >= 0).sum()) if self._bases else len(batch.ids) for batch in batches))
        loss = 0.0
        for batch in batches:
            part = self.model.losses(batch).sum() / answers
            self.manual_backward(part)
            loss += float(part.detach())
        self.result = self._optimise(loss, sum(int(batch.widths.sum()) for batch in batches))

    @property
    def _bases(self) -> bool:
        return self.model.question.unit == "base"

    def _optimise(self, loss: float, bases: int) -> Step:
        optimiser, lr = self.adamw(), learning_rate(self.step, self.steps, self.options)
        self.step += 1
        parameters = [one for group in optimiser.param_groups for one in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.options.train.clip or math.inf))
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        return Step(self.step, loss, bases, not finite)

    def _seed(self) -> None:
        # Dropout of a step is a function of (seed, step), so a resumed run draws what an uninterrupted one draws.
        words = np.random.SeedSequence([self.seed, self.step]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))


def learning_rate(step: int, steps: int, options: FinetuneOptions) -> float:
    """Of step number `step` (from 0) of `steps`: a linear warm-up, then a cosine to a twentieth of the highest."""
    warmup = options.train.warmup * steps
    if step < warmup:
        return options.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - 1 - warmup)
    return options.lr * (LAST_LR + (1 - LAST_LR) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
