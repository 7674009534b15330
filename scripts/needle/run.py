"""Needle in a genome: `titans-dna bench needle`.

Does a memory that learns at test time still know a word that it met once, up to a million bases ago? Pairs of words are
planted in real sequence (`needle_words`), small models learn the task on short sequences (`needle_train`), and every model
is then asked at all distances, far beyond those it was trained at (`needle_probe`). One half of the sequence trains and
the other tests.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml

from needle.background import Background, read_background
from needle.gates import Gates, read_gates
from needle.models import NeedleModel, build, load_model, save_model
from needle.options import NeedleOptions
from needle.probe import Answer, Test, make_test, probe
from needle.report import write_report
from needle.results import CSV, Row, count, read_rows, write_rows
from needle.train import Step, train
from titans_dna.checkpoint import LANGUAGE
from titans_dna.run.files import check_writable, replacing
from titans_dna.run.run_file import read_options
from titans_dna.train.progress import duration

RUN, ABOUT = "run.yaml", "about.json"
SECONDS = 20
"""Between two lines of progress."""
TEST_SEED = 1 << 32
"""Random numbers of the tests are apart from those of training."""


def bench_needle(options: NeedleOptions, resume: bool = False) -> str:
    """Train and test every model of the options, and return the tables.

    A directory MODEL-SEED in `--out` holds each model with its own results; one that is complete is not done again.
    Raises ValueError and OSError for input that cannot be used, and for a run in `--out` that is another one.
    """
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    directory = Path(options.run.out)
    _check(directory, options, resume)
    background = read_background(options.run.fasta)
    tests = [make_test(np.random.default_rng((seed, TEST_SEED)), background.test, options.task) for seed in
             range(options.run.seeds)]  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    check_writable(directory, "--out")
    _write_yaml(directory / RUN, options)
    rows: list[Row] = []
    about: dict[str, dict[str, float]] = {}
    for name in options.run.models:
        for seed, test in enumerate(tests):
            one = directory / f"{name}-{seed}"
            if not (one / CSV).is_file():
                _one(name, seed, test, background, options, one)
            rows += read_rows(one / CSV)
            about[one.name] = json.loads((one / ABOUT).read_text(encoding="utf-8"))
            write_rows(directory / CSV, rows)
    return write_report(directory, options, background, rows, about)


def _one(name: str, seed: int, test: Test, background: Background, options: NeedleOptions, directory: Path) -> None:
    """Train, unless that was done, and test."""
    say = _Voice(f"{name}, seed {seed}")
    if (directory / LANGUAGE.weights).is_file() and (directory / ABOUT).is_file():
        model = load_model(name, options, directory)
        about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
    else:
        torch.manual_seed(seed)
        model, began = build(name, options), time.perf_counter()
        steps = train(model, background.train, options, seed, lambda step: say.step(step, options.train.steps))
        about = _about(model, steps, time.perf_counter() - began)
        save_model(model, directory)
        _write_json(directory / ABOUT, about)
    gates, began = read_gates(model.eval(), test), time.perf_counter()
    answers = _answers(name, model, test, background, options, say)
    about |= {"test_seconds": time.perf_counter() - began, **({} if gates is None else Gates._asdict(gates))}
    _write_json(directory / ABOUT, about)
    write_rows(directory / CSV, count(name, seed, answers))


def _answers(
    name: str, model: NeedleModel, test: Test, background: Background, options: NeedleOptions, say: _Voice
) -> list[Answer]:
    task = options.task
    limit = task.full_limit if name == "transformer-full" else task.distances[-1]
    distances = tuple(distance for distance in task.distances if distance <= limit)
    found: list[Answer] = []
    for answers in probe(model, test, background.test, distances, task.piece, say.reader(distances)):
        right = [one for answer in answers for one in answer.right]
        say(f"{answers[0].distance:,} bases later {100 * sum(right) / len(right):.0f} % of the bases are recalled")
        found += answers
    return found


def _about(model: NeedleModel, steps: list[Step], seconds: float) -> dict[str, float]:
    last = steps[-max(1, len(steps) // 20) :]
    return {
        "parameters": model.parameter_count(),
        "train_accuracy": sum(step.accuracy for step in last) / len(last),
        "train_seconds": seconds,
    }


def _check(directory: Path, options: NeedleOptions, resume: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"--out: {directory} is a file, want a directory")
    if resume:
        saved, now = read_options(directory / RUN, "bench needle run"), _plain(options)
        for name in now:
            if name not in _FREE and saved.get(name) != now[name]:
                raise ValueError(f"--resume: --{name}: got {now[name]}, want {saved.get(name)} as the run began with")
    elif directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(
            f"--out: {directory} is not empty; add --resume to go on there, or name another directory"
        )


_FREE = ("out", "models", "seeds", "threads")
"""May change when a run goes on: what is done stays true."""


def _plain(options: NeedleOptions) -> dict[str, object]:
    values = options.to_dict()
    values["fasta"] = [str(Path(name).resolve()) for name in options.run.fasta]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _write_yaml(path: Path, options: NeedleOptions) -> None:
    with replacing(path) as aside:
        text = yaml.safe_dump(_plain(options), sort_keys=False)
        aside.write_text(f"# titans-dna {version('titans-dna')}, torch {torch.__version__}\n{text}", encoding="utf-8")


def _write_json(path: Path, values: dict[str, float]) -> None:
    with replacing(path) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class _Voice:
    """Lines on stderr about one model, the small ones not too often."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._began = self._said = time.monotonic()

    def __call__(self, text: str) -> None:
        self._said = time.monotonic()
        print(f"{self.title}: {text} ({duration(self._said - self._began)})", file=sys.stderr, flush=True)

    def step(self, step: Step, steps: int) -> None:
        if step.number == steps or time.monotonic() - self._said >= SECONDS:
            self(
                f"step {step.number:,} of {steps:,}, {step.length:,} tokens, loss {step.loss:.3f}, "
                f"{100 * step.accuracy:.0f} % of the asked bases"
            )

    def reader(self, distances: tuple[int, ...]) -> Callable[[int], None]:
        """Told of bases as they are read."""
        read = 0

        def said(bases: int) -> None:
            nonlocal read
            read += bases
            if time.monotonic() - self._said >= SECONDS:
                self(f"read {read:,} of {distances[-1]:,} bases of each row")

        return said
