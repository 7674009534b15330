"""The training loop on a model of two weights: it stops anywhere and goes on as if it had not; it keeps the best."""

import math
import signal
import time

import pytest
import torch
from torch import nn

from titans_dna.run.signals import Stopped, stoppable
from titans_dna.train.learner import Learner
from titans_dna.train.loop import Loop, Machine, Settings
from titans_dna.train.record import Record, read_checkpoint, read_metrics

STEPS = 12


class Line(Learner):
    """A line through points; dropout makes the draws count. Interrupted at a step, it notes all that it was told."""

    def __init__(self, stop=None, spoil=()):
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Dropout(0.3), nn.Linear(2, 1)), seed=5)
        self.stop, self.spoil, self.losses, self.number = stop, spoil, [], 0

    def loss(self, part):
        number, points, values = part
        self.number = number
        if self.stop == (number, "loss"):
            signal.raise_signal(signal.SIGTERM)
        loss = (self.model(points)[:, 0] - values).square().mean()
        return loss * math.nan if number in self.spoil else loss

    def validate(self, fabric):
        if self.stop == (self.number, "validate"):
            signal.raise_signal(signal.SIGINT)
        self.model.eval()
        with torch.no_grad():
            _, points, values = part_of(999)
            loss = float((self.model(points)[:, 0] - values).square().mean())
        self.model.train()
        return {"valid_loss": loss} if math.isfinite(loss) else None

    def row(self, step, found):
        self.losses.append(step.loss)
        return None if found is None else {"step": step.number, "seen": sum(self.losses), **found}

    def keep(self):
        return {"losses": self.losses}

    def restore(self, values, device):
        self.losses = values["losses"]


def part_of(number):
    generator = torch.Generator().manual_seed(number)
    points = torch.randn(8, 2, generator=generator)
    return number, points, points @ torch.tensor([1.0, -2.0]) + 0.1 * torch.randn(8, generator=generator)


def loop_of(learner, folder=None, *, best=True, **changes):
    settings = {"steps": STEPS, "rate": lambda step: 0.3 / (step + 1), "valid_every": 3, "save_every": 2, **changes}
    kept = {} if folder is None else {
        "checkpoint": folder / "checkpoint.pt",
        "saved": read_checkpoint(folder / "checkpoint.pt"),
        "record": Record(folder / "metrics.csv"),
    }  # fmt: skip
    return Loop(
        learner,
        torch.optim.AdamW(learner.parameters(), lr=0.0),
        Settings(**settings),
        Machine(),
        validate=learner.validate,
        monitor=(lambda found: -found["valid_loss"]) if best else None,
        **kept,
    )


def run(loop):
    return loop.run(lambda first, fabric: ([part_of(2 * i), part_of(2 * i + 1)] for i in range(first, 10_000)))


def state(loop, folder):
    """What is there when a training has ended: plain values, tensors, rows."""
    kept = read_checkpoint(folder / "checkpoint.pt")
    best, moments = loop.best, kept["optimiser"]["state"].values()
    tensors = [*loop.learner.model.state_dict().values(), *kept["model"].values(), *best.weights.values()]
    tensors += [one for entry in moments for one in entry.values()]
    plain = (loop.outcome, loop.step, loop.since, best.value, best.row, kept["own"])
    return plain, tensors, (folder / "metrics.csv").read_text()


@pytest.mark.parametrize("patience", [0, 2])
def test_stopped_anywhere_it_goes_on_as_if_it_had_not(tmp_path, patience):
    whole = loop_of(Line(), tmp_path, patience=patience)
    run(whole)
    wanted = state(whole, tmp_path)
    stops = [(2 * number, "loss") for number in range(whole.step)]
    stops += [(2 * number + 1, "validate") for number in (2, 5, whole.step - 1)]
    for i, stop in enumerate(stops):
        folder = tmp_path / f"{i}"
        folder.mkdir()
        loop = loop_of(Line(stop), folder, patience=patience)
        with pytest.raises(Stopped) as stopped, stoppable():
            run(loop)
        assert stopped.value.number == (signal.SIGTERM if stop[1] == "loss" else signal.SIGINT)
        assert read_checkpoint(folder / "checkpoint.pt")["step"] == loop.step
        again = loop_of(Line(), folder, patience=patience)
        run(again)
        found = state(again, folder)
        assert (found[0], found[2]) == (wanted[0], wanted[2]), stop
        assert all(torch.equal(one, other) for one, other in zip(found[1], wanted[1], strict=True)), stop


def test_killed_between_checkpoints_it_does_so_too(tmp_path):
    class Killed(Line):
        def loss(self, part):
            if part[0] == 14:
                raise RuntimeError("killed")
            return super().loss(part)

    folder = tmp_path / "broken"
    folder.mkdir()
    whole = loop_of(Line(), tmp_path, save_every=5)
    run(whole)
    with pytest.raises(RuntimeError):
        run(loop_of(Killed(), folder, save_every=5))
    again = loop_of(Line(), folder, save_every=5)
    assert again.step == 6  # the last validation's
    run(again)
    for one, other in zip(state(again, folder), state(whole, tmp_path), strict=True):
        assert all(map(torch.equal, one, other)) if isinstance(one, list) else one == other


def test_without_a_checkpoint_a_signal_comes_at_once():
    loop = loop_of(Line((6, "loss")))
    with pytest.raises(Stopped), stoppable():
        run(loop)
    assert loop.step == 3


def test_a_second_signal_does_not_wait(tmp_path):
    class Twice(Line):
        def loss(self, part):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError

    with pytest.raises(Stopped), stoppable():
        run(loop_of(Twice(), tmp_path))
    assert read_checkpoint(tmp_path / "checkpoint.pt")["step"] == 0


def test_the_best_weights_are_kept_and_patience_ends_it():
    learner = Line()
    done = run(loop_of(learner, valid_every=1, patience=3, rate=lambda step: 0.5 if step < 4 else 3.0))
    assert done.outcome == "finished"
    assert done.step == done.best.row["step"] + 3 < STEPS
    learner.model.load_state_dict(done.best.weights)
    assert learner.validate(None) == {"valid_loss": done.best.row["valid_loss"]} == {"valid_loss": -done.best.value}


def test_a_frozen_weight_is_not_kept():
    learner = Line()
    learner.model[1].bias.requires_grad_(False)
    assert [*run(loop_of(learner)).best.weights] == ["1.weight"]


def test_steps_that_fail_are_passed_over_until_there_are_too_many():
    learner = Line(spoil={8, 13, 16, 18, 21, 22})
    done = run(loop_of(learner, most_skipped=3, valid_every=0))
    assert (done.outcome, done.step) == ("diverged", 11)
    assert [math.isnan(one) for one in learner.losses] == [i in (4, 6, 8, 9, 10) for i in range(11)]
    assert done.best.row["step"] == 11  # a last look at the weights of the last good step


def test_what_validates_to_nothing_finite_ends_it():
    learner = Line()
    done = run(loop_of(learner, rate=lambda step: math.inf))
    assert (done.outcome, done.step, done.best) == ("diverged", 3, None)


def test_out_of_time_it_goes_on_later(tmp_path):
    loop = loop_of(Line(), tmp_path, seconds=1e-9)
    assert (run(loop).outcome, loop.step) == ("out of time", 1)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [1]
    assert run(loop_of(Line(), tmp_path)).step == STEPS
    assert read_checkpoint(tmp_path / "checkpoint.pt")["outcome"] == "finished"
    began = time.monotonic()
    assert run(loop_of(Line(), tmp_path)).outcome == "finished"
    assert time.monotonic() - began < 1


def test_a_step_is_the_sum_of_its_parts_and_its_draws_are_its_own():
    """However many draws were made before."""
    norms = []
    for before in (0, 3):
        learner, steps = Line(), []
        learner.row = lambda step, found, steps=steps: steps.append(step)
        loop = loop_of(learner, steps=2, clip=0.5, best=False)
        torch.rand(before)
        run(loop)
        norms.append([(step.loss, step.gradient_norm) for step in steps])
        assert all(norm > 0.5 for _, norm in norms[-1])
    assert norms[0] == norms[1]


@pytest.mark.parametrize("kind", ["titans-dna run 1", "titans-dna fine-tuning 1"])
def test_checkpoints_of_version_0_1_0(tmp_path, kind):
    """As it laid them out, and what is in them."""
    with pytest.raises(Stopped), stoppable():
        run(loop_of(Line((14, "loss")), tmp_path))
    new = read_checkpoint(tmp_path / "checkpoint.pt")
    old = {"format": kind, "model": new["model"], "optimiser": new["optimiser"]}
    if kind == "titans-dna run 1":
        counters = {"step": 8, "batches": 16, "skipped": 0, "skipped_in_a_row": new["skipped_in_a_row"]}
        old |= {"counters": counters, "about": {"seconds": 2.5, "split": []}, "state": None, "device": "cpu"}
    else:
        best, rows = new["best"], read_metrics(tmp_path / "metrics.csv")
        old |= {"step": 8, "history": rows, "losses": [1.0], "best": best["weights"], "best_value": best["value"]}
        old |= {"best_step": best["row"]["step"], "since": new["since"], "outcome": "running"}
    torch.save(old, tmp_path / "old.pt")
    found = read_checkpoint(tmp_path / "old.pt")
    assert (found["step"], found["outcome"]) == (8, "running")
    learner = Line()
    loop = loop_of(learner, best=kind != "titans-dna run 1")
    loop = Loop(
        learner, loop.optimiser, loop.settings, Machine(), validate=learner.validate, monitor=loop.monitor,
        saved={**found, "own": {"losses": new["own"]["losses"]}},
    )  # fmt: skip
    whole = loop_of(Line(), best=kind != "titans-dna run 1")
    run(whole), run(loop)
    for one, other in zip(learner.model.parameters(), whole.learner.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (found["own"], found["seconds"]) == (
        ({"state": None, "device": "cpu"}, 2.5) if kind == "titans-dna run 1" else ({"losses": [1.0]}, 0.0)
    )
    if kind == "titans-dna fine-tuning 1":
        assert loop.best.row == whole.best.row


class Slow(Line):
    """Its signal comes in the middle of something that takes long."""

    def loss(self, part):
        loss = super().loss(part)
        if self.stop == (part[0], "loss"):
            _for_long()
        return loss

    def validate(self, fabric):
        found = super().validate(fabric)
        if self.stop == (self.number, "validate"):
            _for_long()
        return found


def _for_long():
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.01)


def test_what_takes_long_is_given_up_and_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr("titans_dna.run.signals.PATIENCE", 0.05)
    whole = loop_of(Line(), tmp_path)
    run(whole)
    wanted = state(whole, tmp_path)
    for i, stop in enumerate([(0, "loss"), (9, "loss"), (5, "validate"), (2 * whole.step - 1, "validate")]):
        folder = tmp_path / f"{i}"
        folder.mkdir()
        loop, began = loop_of(Slow(stop), folder), time.monotonic()
        with pytest.raises(Stopped), stoppable():
            run(loop)
        assert time.monotonic() - began < 30
        assert read_checkpoint(folder / "checkpoint.pt")["step"] == loop.step == (stop[0] + (stop[1] != "loss")) // 2
        again = loop_of(Line(), folder)
        run(again)
        found = state(again, folder)
        assert (found[0], found[2]) == (wanted[0], wanted[2]), stop
        assert all(torch.equal(one, other) for one, other in zip(found[1], wanted[1], strict=True)), stop
