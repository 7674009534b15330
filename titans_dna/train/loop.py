"""The training loop, for all that learns here: language models, fine-tuned ones, the convolutional baseline, needle models.

A step is seeded with numbers that are known beforehand, so a run that goes on draws what an uninterrupted one draws. Its
gradient is summed over its parts, clipped, and passed over where it is not finite. After it come validation, records, the
checkpoint, and the reasons to stop. Devices, precision and processes are those of Lightning's Fabric.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from titans_dna.run.progress import Progress
from titans_dna.run.signals import Interruption, Stopped
from titans_dna.train.learner import Learner, Optimisers, Step
from titans_dna.train.record import Record, write_checkpoint

if TYPE_CHECKING:
    from lightning.fabric import Fabric

MAX_SKIPPED = 10
"""Steps in a row that may fail before a run gives up."""

Outcome = Literal["running", "finished", "diverged", "out of time", "interrupted"]
_START = {
    "step": 0,
    "skipped_in_a_row": 0,
    "since": 0,
    "seconds": 0.0,
    "outcome": "running",
    "best": None,
    "pending": None,
}


class Machine(NamedTuple):
    """What a training computes on."""

    accelerator: str = "cpu"
    """cpu, cuda or auto."""
    devices: int = 1
    strategy: str = "auto"
    """auto or ddp."""
    precision: str = "32"
    """32, bf16-mixed or bf16-true."""

    def start(self) -> Fabric:
        """With all of its processes."""
        # Here, because it takes seconds, and all that can be wrong has been told by now.
        from lightning.fabric import Fabric

        # Lightning's announcements; its warnings stay.
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        number: Any = {"precision": self.precision}
        if self.precision == "bf16-mixed":
            number = {"plugins": [_mixed("cpu" if self.accelerator == "cpu" else "cuda")]}
        fabric = Fabric(accelerator=self.accelerator, devices=self.devices, strategy=self.strategy, **number)
        fabric.launch()
        return fabric


class Settings(NamedTuple):
    """How long and how fast."""

    steps: int
    rate: Callable[[int], float]
    """The learning rate of a step, counted from 0."""
    clip: float = 0.0
    """Largest norm of the gradient; 0: any."""
    valid_every: int = 0
    """Steps between validations; after the last one there always is one."""
    save_every: int = 0
    """Steps between checkpoints; at a stop there always is one."""
    patience: int = 0
    """Validations without a better one that end the training; 0: never."""
    most_skipped: int = MAX_SKIPPED
    """Steps in a row that fail, after which it gives up."""
    seconds: float = 0.0
    """Time after which it stops; 0: never."""


class Best(NamedTuple):
    """The best validation so far."""

    weights: dict[str, Tensor]
    """Of what is trained, on the CPU."""
    value: float
    """What it was best in; the more the better."""
    row: dict[str, float]
    """What was written down of it."""


class Trained(NamedTuple):
    """How a training ended."""

    outcome: Outcome
    step: int
    """Steps done."""
    best: Best | None


class Loop:
    """One training; `run` is all of it.

    validate: figures of the model as it is, by name, or None where they are not finite, which ends the training.
    monitor: of these figures, what is to be as large as possible; the weights of the best validation are then kept.
    clipped: parameters in the order in which their gradients' norms are added up; by default the optimiser's.
    checkpoint: file to go on from; while there is one, a signal is granted after the step. run: digest of what is trained on
    what, kept with it. saved: what `read_checkpoint` gave of it. title: of the progress; none: silent.
    """

    def __init__(
        self,
        learner: Learner,
        optimiser: torch.optim.Optimizer | Optimisers,
        settings: Settings,
        machine: Machine,
        *,
        validate: Callable[[Fabric], dict[str, float] | None] | None = None,
        monitor: Callable[[dict[str, float]], float] | None = None,
        clipped: Iterable[nn.Parameter] | None = None,
        checkpoint: Path | None = None,
        run: str = "",
        saved: dict[str, Any] | None = None,
        record: Record | None = None,
        title: str = "",
    ) -> None:
        self.learner, self.optimiser, self.settings, self.machine = learner, optimiser, settings, machine
        self.validate, self.monitor, self.checkpoint, self.record = validate, monitor, checkpoint, record
        self.title, self._saved, self._run = title, saved, run
        self._clipped = [one for group in optimiser.param_groups for one in group["params"]]
        if clipped is not None:
            self._clipped = list(clipped)
        start = saved or _START
        self.step, self.skipped_in_a_row, self.since = start["step"], start["skipped_in_a_row"], start["since"]
        self.outcome: Outcome = start["outcome"]
        self.best = None if start["best"] is None else Best(**start["best"])
        self._pending = None if start.get("pending") is None else Step(**start["pending"])
        """The step that is done, but for its validation and its record."""
        self._seconds: float = start["seconds"]
        if saved is not None:
            learner.model.load_state_dict(saved["model"])

    def run(self, batches: Callable[[int, Fabric], Iterable[Iterable[Any]]]) -> Trained:
        """Train to the end, and leave the model on the CPU.

        batches: number of a step, from 0 → the parts of that step, of the next one and so on.

        Raises `Stopped` where a signal came, once all is saved; without a checkpoint it comes as it does anywhere.
        """
        if self.outcome == "running" and self.step >= self.settings.steps and self._pending is None:
            self.outcome = "finished"
        if self.outcome == "running":
            listening = nullcontext() if self.checkpoint is None else Interruption()
            with listening as interruption:
                fabric = self.machine.start()
                self._train(fabric, batches, interruption)
            told = None if interruption is None else interruption.signal
            # In the last step too: what is left to do is done when the run goes on.
            if fabric.is_global_zero and (self.outcome == "interrupted" or told is not None):
                raise Stopped(told or signal.SIGINT)
        return Trained(self.outcome, self.step, self.best)

    def _train(
        self,
        fabric: Fabric,
        batches: Callable[[int, Fabric], Iterable[Iterable[Any]]],
        interruption: Interruption | None,
    ) -> None:
        model = fabric.setup_module(self.learner)
        if self._saved is not None:
            self.optimiser.load_state_dict(self._saved["optimiser"])
            self.learner.restore(self._saved["own"], fabric.device)
        first, self._began = fabric.is_global_zero, time.monotonic()
        with ExitStack() as stack:
            record = self.record if first else None
            if record is not None:
                record.open(self.step)
                stack.callback(record.close)
            progress = None
            if first and self.title:
                progress = stack.enter_context(Progress(self.title, self.settings.steps, unit="step", done=self.step))
            if first and self._saved is None:
                self._save()
            self._saved, last = None, self._began
            # Devices go on together, so none of several gives anything up alone.
            losable = nullcontext if interruption is None or fabric.world_size > 1 else interruption.losable
            try:
                if self._pending is not None:
                    self._end_step(self._pending, fabric, interruption, losable, record, progress)
                for parts in batches(self.step, fabric) if self.outcome == "running" else ():
                    self._pending = self._step(fabric, model, parts, last, losable)
                    self._end_step(self._pending, fabric, interruption, losable, record, progress)
                    if self.outcome != "running":
                        break
                    last = time.monotonic()
            except Stopped:
                if interruption is None or not interruption.late:
                    raise
                self.outcome = "interrupted"
                self._save()
        self.learner.cpu()

    def _end_step(
        self,
        step: Step,
        fabric: Fabric,
        interruption: Interruption | None,
        losable: Callable[[], AbstractContextManager[None]],
        record: Record | None,
        progress: Progress | None,
    ) -> None:
        """What comes after a step: reasons to stop, validation, records, checkpoint."""
        first, self.outcome = fabric.is_global_zero, self._reason(fabric, interruption)
        with losable():
            found = self._validated(fabric)
        self._pending, row = None, self.learner.row(step, found)
        self._judge(found, row)
        if record is not None and row is not None:
            record.write(row)
        if progress is not None:
            self._tell(progress, step, found if record is not None else None)
        if first and self._save_due(found is not None):
            self._save()

    def _step(
        self,
        fabric: Fabric,
        model: nn.Module,
        parts: Iterable[Any],
        began: float,
        losable: Callable[[], AbstractContextManager[None]],
    ) -> Step:
        learner, lr = self.learner, self.settings.rate(self.step)
        learner.begin()
        # The backward too, and the step: operators of our own that it calls are cast as those of the forward.
        with fabric.autocast():
            try:
                with losable():
                    for place, part in enumerate(parts):
                        _seed(learner.entropy(self.step, place, fabric.global_rank))
                        loss = model(fabric.to_device(part))
                        with _repeatable(fabric.device, learner.repeatable):
                            fabric.backward(loss)
            except Stopped:
                learner.undo()
                raise
            tally = learner.tally(fabric)
            norm = self._norm(tally.scale) if tally.finite and tally.scale else 0.0
            finite = tally.finite and math.isfinite(norm)
            if finite and tally.scale:
                for group in self.optimiser.param_groups:
                    group["lr"] = lr * group.get("relative", 1.0)
                self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if not finite:
            learner.skip()
        now = time.monotonic()
        seconds, speed = now - self._began + self._seconds, tally.bases / max(now - began, 1e-9)
        return Step(self.step, tally.loss, tally.bases, lr, norm, not finite, seconds, speed, tally.figures)

    def _norm(self, scale: float) -> float:
        """Of the gradient, scaled; it is then clipped. Rows of look-ups are apart, whose steps no scale changes."""
        found = [(one, one.grad) for one in self._clipped if one.grad is not None]
        for _, gradient in found if scale != 1 else ():
            gradient.mul_(scale)
        dense = [one for one, gradient in found if not gradient.is_sparse]
        finite = all(bool(one._values().isfinite().all()) for _, one in found if one.is_sparse)
        return float(nn.utils.clip_grad_norm_(dense, self.settings.clip or math.inf)) if finite else math.inf

    def _reason(self, fabric: Fabric, interruption: Interruption | None) -> Outcome:
        """Why to stop after this step, if there is a reason."""
        limit = self.settings.seconds
        late = bool(limit) and time.monotonic() - self._began >= limit
        signalled = interruption is not None and interruption.signal is not None
        if fabric.world_size > 1:
            # Devices stop together, so each hears of what happened to any other.
            told = torch.tensor([int(signalled), int(late)], device=fabric.device)
            signalled, late = (bool(one) for one in fabric.all_reduce(told, reduce_op="sum"))
        if self.step >= self.settings.steps:
            return "finished"
        if self.skipped_in_a_row >= self.settings.most_skipped:
            return "diverged"
        return "interrupted" if signalled else "out of time" if late else "running"

    def _validated(self, fabric: Fabric) -> dict[str, float] | None:
        every, last = self.settings.valid_every, self.outcome in ("finished", "diverged", "out of time")
        if self.validate is None or not (last or (every and self.step % every == 0)):
            return None
        found = self.validate(fabric)
        if found is None:
            self.outcome = "diverged"
        return found

    def _judge(self, found: dict[str, float] | None, row: dict[str, float] | None) -> None:
        """Keep what is better than all before; stop where nothing has been for long."""
        if found is None or self.monitor is None:
            return
        value = self.monitor(found)
        self.since += 1
        if self.best is None or value > self.best.value:
            frozen = {name for name, one in self.learner.model.named_parameters() if not one.requires_grad}
            weights = {
                name: one.detach().cpu().clone()
                for name, one in self.learner.model.state_dict().items()
                if name not in frozen
            }
            self.best, self.since = Best(weights, value, row or {}), 0
        elif self.settings.patience and self.since >= self.settings.patience and self.outcome != "diverged":
            self.outcome = "finished"

    def _save_due(self, validated: bool) -> bool:
        every = self.settings.save_every
        due = bool(every) and self.step % every == 0
        return due or self.outcome != "running" or (validated and self.monitor is not None)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        values = {
            "run": self._run,
            "step": self.step,
            "skipped_in_a_row": self.skipped_in_a_row,
            "seconds": time.monotonic() - self._began + self._seconds,
            "outcome": self.outcome if self.outcome in ("finished", "diverged") else "running",
            "model": self.learner.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": None if self.best is None else self.best._asdict(),
            "since": self.since,
            "pending": None if self._pending is None else self._pending._asdict(),
            "own": self.learner.keep(),
        }
        write_checkpoint(self.checkpoint, values)

    def _tell(self, progress: Progress, step: Step, found: dict[str, float] | None) -> None:
        if step.skipped:
            progress.say(f"step {step.number:,}: loss or gradient is not finite; the step was skipped")
        speed = f", {step.bases_per_second / 1000:,.1f} kb/s" if step.bases else ""
        progress.add(1, self.learner.note(step) + speed)
        if found is not None:
            figures = ", ".join(
                f"{name.removeprefix('valid_').replace('_', ' ')} {'no' if math.isnan(value) else f'{value:.4f}'}"
                for name, value in found.items()
            )
            progress.say(f"step {step.number:,} of {self.settings.steps:,}; held out: {figures}")


def _mixed(device: str) -> Any:
    """Lightning's mixed precision, but that inputs stay as they are: weights and labels are no activations. And a cast weight
    is not kept, so that the gradients of its several uses add up in full precision."""
    from lightning.fabric.plugins.precision import MixedPrecision

    class Mixed(MixedPrecision):
        def forward_context(self) -> AbstractContextManager[Any]:
            return torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False)

        def convert_input(self, data: Any) -> Any:
            return data

        def convert_output(self, data: Any) -> Any:
            return data

    return Mixed("bf16-mixed", device)


def _seed(entropy: Sequence[int] | None) -> None:
    if entropy is not None:
        words = np.random.SeedSequence(entropy).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))


@contextmanager
def _repeatable(device: torch.device, wanted: bool) -> Iterator[None]:
    """On a GPU, sums of gradients in one order, as a resumed run needs: attention's are added up as they come otherwise."""
    if device.type != "cuda" or not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or products are refused
    how: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), how.fill_uninitialized_memory
    how.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        how.fill_uninitialized_memory = filled
