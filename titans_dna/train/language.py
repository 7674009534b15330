"""A causal language model as the loop trains it: on windows of a genome, or on lanes, where the state goes on."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from titans_dna.nn.model import TitansDNA, map_state
from titans_dna.nn.state import pack_state, unpack_state
from titans_dna.train.learner import Learner, Step, Tally
from titans_dna.train.loss import LossSums, bits_per_base, loss_sums, price_of_writing, watched_gates
from titans_dna.train.piecewise import piecewise_loss

if TYPE_CHECKING:
    from lightning.fabric import Fabric

COLUMNS = (
    "step",
    "loss",
    "bits_per_base",
    "valid_bits_per_base",
    "lr",
    "gradient_norm",
    "bases",
    "skipped",
    "seconds",
    "bases_per_second",
)


class Language(Learner):
    """Bits per base of the next token. A part is a batch (see `genome.batches.WindowBatch`): ids [b, t + 1], weight [b, t + 1].

    model: `model(ids [b, t], state) -> .logits [b, t, vocabulary], .state`. lengths: bases per token id [vocabulary].
    accumulate: batches of a step. carry: hand the state of each batch on to the next one, unless that one starts afresh.
    scale: any number near the tokens of a batch; it keeps gradients in range until their true divisor, the weight of the
    targets of all batches and devices, is known. piece: tokens of a window that are worked on at a time, by
    `piecewise_loss`; 0: all at once. counted: what is trained on is what the model's counts counted, so that each target is
    left out of them. write_price: what a token's writing costs (`price_of_writing`), in nats, from step `price_from` on.
    """

    def __init__(
        self,
        model: TitansDNA,
        lengths: np.ndarray,
        *,
        seed: int = 0,
        accumulate: int = 1,
        carry: bool = False,
        scale: float = 1.0,
        piece: int = 0,
        counted: bool = False,
        write_price: float = 0.0,
        price_from: int = 0,
    ) -> None:
        super().__init__(model, seed)
        self.accumulate, self.carry, self.scale, self.piece = accumulate, carry, scale, piece
        self.counted = counted
        self.write_price, self.price_from = write_price, price_from
        self._step = 0
        self.lengths: Tensor
        self.register_buffer("lengths", torch.as_tensor(lengths), persistent=False)
        self._sums: LossSums | None = None
        self._after: Any = None
        self._before: Any = None

    def entropy(self, step: int, place: int, rank: int) -> tuple[int, int, int]:
        """Of the number of the batch."""
        self._step = step  # the loop says it here, before each part
        return self.seed, step * self.accumulate + place, rank

    def forward(self, part: dict[str, Any]) -> Tensor:
        """The weighted sum of the loss, over `scale`."""
        ids, weight = part["ids"], part["weight"]
        priced = self.write_price > 0 and self._step >= self.price_from
        with watched_gates(self.model) if priced else nullcontext() as seen:
            sums, after = self._loss(ids[:, :-1], ids[:, 1:], weight[:, 1:], None if part["reset"] else self._after)
        mine = sums.detach()
        self._sums = mine if self._sums is None else self._sums.plus(mine)
        self._after = _copied(after) if self.carry else None
        weighted = sums.weighted
        if seen:
            weighted = weighted + self.write_price * price_of_writing(seen) * sums.weight
        return weighted / self.scale

    def tally(self, fabric: Fabric) -> Tally:
        """Mean loss over the weight; a step without a target is none."""
        assert self._sums is not None
        together = fabric.all_reduce(torch.stack([one.double() for one in self._sums]), reduce_op="sum")
        assert isinstance(together, Tensor)
        weighted, weight, nats, bases = together.tolist()
        self._sums = None
        # Several devices have averaged their gradients already, while `weight` is their sum.
        scale = self.scale * fabric.world_size / weight if weight > 0 else 0.0
        loss = weighted / weight if weight > 0 else 0.0
        return Tally(loss, math.isfinite(nats), int(bases), scale, {"bits_per_base": bits_per_base(nats, bases)})

    def begin(self) -> None:
        """No state is ever changed in place."""
        self._before = self._after

    def undo(self) -> None:
        self._sums, self._after = None, self._before

    def skip(self) -> None:
        """The state may hold what made the step fail, so the lanes begin again from a fresh one."""
        self._after = None

    def row(self, step: Step, found: dict[str, float] | None) -> dict[str, float]:
        """Every step is one of `metrics.csv`."""
        values = {**step._asdict(), **step.figures, **(found or {}), "step": step.number, "skipped": int(step.skipped)}
        return {name: values[name] for name in COLUMNS if name in values}

    def note(self, step: Step) -> str:
        """Bits per base."""
        bits = step.figures["bits_per_base"]
        return f"{'no' if math.isnan(bits) else f'{bits:.4f}'} bits/base"

    def keep(self) -> dict[str, Any]:
        """The lanes."""
        return {"state": pack_state(self._after), "device": self.lengths.device.type}

    def restore(self, values: dict[str, Any], device: torch.device) -> None:
        """Raises ValueError where lanes would have to move between a CPU and an accelerator."""
        if values["state"] is not None and values["device"] != device.type:
            raise ValueError(f"--accelerator: got {device.type}, but the lanes to resume are on {values['device']}")
        self._after = _copied(unpack_state(values["state"], device))

    def _loss(self, ids: Tensor, targets: Tensor, weight: Tensor, state: Any) -> tuple[LossSums, Any]:
        def of_piece(logits: Tensor, piece: slice) -> LossSums:
            return loss_sums(logits, targets[:, piece], weight[:, piece], self.lengths)

        own = targets if self.counted else None
        if 0 < self.piece < ids.shape[1]:
            return piecewise_loss(self.model, ids, of_piece, self.piece, state, own)
        out = self.model(ids, state, own=own) if self.counted else self.model(ids, state)
        return of_piece(out.logits, slice(None)), out.state


def _copied(state: Any) -> Any:
    # A state may be a view of the weights, as where a memory begins again, and the optimiser is about to change those.
    # Contiguous, because sums over another layout round differently, and a resumed run must not.
    return map_state(lambda one: one.detach().clone(memory_format=torch.contiguous_format), state)
