"""One optimiser step of pretraining: loss, gradient accumulation, clipping, and the refusal of non-finite steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import pytorch as pl
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from titans_dna.nn.model import TitansDNA
from titans_dna.train.loss import LossSums, bits_per_base, loss_sums
from titans_dna.train.optimiser import learning_rate, parameter_groups
from titans_dna.train.options import OptimiserOptions
from titans_dna.train.piecewise import piecewise_loss


class StepResult(NamedTuple):
    """What one optimiser step came to."""

    step: int
    """Number of the step, from 1."""
    loss: float
    """Weighted mean cross-entropy in nats; 0 where no target was counted."""
    bits_per_base: float
    """NaN where no target was counted."""
    bases: int
    """Bases of the counted targets."""
    lr: float
    gradient_norm: float
    """Before clipping."""
    skipped: bool
    """True where loss or gradient was not finite, and the parameters were left alone."""


class PretrainModule(pl.LightningModule):
    """A causal language model under training.

    model: `model(ids [b, t], state) -> .logits [b, t, vocabulary], .state`. lengths: bases per token id [vocabulary].
    carry: hand the state of each batch on to the next one, unless that one starts afresh. copy_state: a copy of a state
    without its graph. piece: tokens of a window that are worked on at a time, by `piecewise_loss`; 0: all at once.

    `batches` and `step` count what has been consumed and tried; `result` is the last batch's StepResult where that
    batch completed a step, else None.
    """

    def __init__(
        self,
        model: TitansDNA,
        lengths: np.ndarray,
        options: OptimiserOptions,
        *,
        carry: bool,
        copy_state: Callable[[Any], Any],
        scale: float,
        piece: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.options = options
        self.carry = carry
        self.copy_state = copy_state
        self.piece = piece
        self.scale = scale
        """Any number near the tokens of a batch; it keeps gradients in range until their true divisor is known."""
        self.lengths: torch.Tensor
        self.register_buffer("lengths", torch.as_tensor(lengths), persistent=False)
        self.batches = 0
        self.step = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.state: Any = None
        self.result: StepResult | None = None
        self._sums: LossSums | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over `parameter_groups`; the learning rate is set at each step."""
        groups = parameter_groups(self.model, self.options.weight_decay)
        return torch.optim.AdamW(groups, lr=0.0, betas=(self.options.beta1, self.options.beta2))

    def adamw(self) -> LightningOptimizer:
        """The optimiser of the running trainer."""
        optimiser = self.optimizers()
        assert isinstance(optimiser, LightningOptimizer)
        return optimiser

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """One batch: ids [b, t + 1], weight [b, t + 1]. Every `accumulate`-th one moves the parameters."""
        del batch_idx
        self._seed(int(batch["batch"]))
        ids, weight = batch["ids"], batch["weight"]
        before = None if batch["reset"] or not self.carry else self.state
        sums, after = self._loss(ids[:, :-1], ids[:, 1:], weight[:, 1:], before)
        self.manual_backward(sums.weighted / self.scale)
        sums = sums.detach()
        self._sums = sums if self._sums is None else self._sums.plus(sums)
        self.state = self.copy_state(after) if self.carry else None
        self.batches += 1
        self.result = self._optimise() if self.batches % self.options.accumulate == 0 else None

    def _loss(self, ids: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, state: Any) -> tuple[LossSums, Any]:
        def of_piece(logits: torch.Tensor, piece: slice) -> LossSums:
            return loss_sums(logits, targets[:, piece], weight[:, piece], self.lengths)

        if 0 < self.piece < ids.shape[1]:
            return piecewise_loss(self.model, ids, of_piece, self.piece, state)
        out = self.model(ids, state)
        return of_piece(out.logits, slice(None)), out.state

    def _seed(self, batch: int) -> None:
        # Dropout of a batch is a function of (seed, batch), so a resumed run draws what an uninterrupted one draws.
        words = np.random.SeedSequence([self.options.seed, batch, self.global_rank]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))

    def _optimise(self) -> StepResult:
        assert self._sums is not None
        together = self.trainer.strategy.reduce(torch.stack([value.double() for value in self._sums]), reduce_op="sum")
        weighted, weight, nats, bases = together.tolist()
        self._sums = None
        lr = learning_rate(self.step, self.options)
        self.step += 1
        optimiser = self.adamw()
        norm, finite = 0.0, bool(np.isfinite(nats))
        if weight > 0 and finite:
            norm = self._scale_and_clip(weight)
            finite = bool(np.isfinite(norm))
            if finite:
                for group in optimiser.param_groups:
                    group["lr"] = lr
                optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if not finite:
            # The state may hold what made the step fail, so the lanes begin again from a fresh one.
            self.state = None
            self.skipped += 1
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        loss = weighted / weight if weight > 0 else 0.0
        return StepResult(self.step, loss, bits_per_base(nats, bases), int(bases), lr, norm, not finite)

    def _scale_and_clip(self, weight: float) -> float:
        """Divide the summed gradient by the summed weight, then clip; returns the norm before clipping."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        # Several devices have averaged their gradients already, while `weight` is their sum.
        factor = self.scale * self.trainer.world_size / weight
        for gradient in gradients:
            gradient.mul_(factor)
        limit = self.options.clip or float("inf")
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), limit, foreach=True))
