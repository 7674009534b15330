"""Needle in a genome: `python scripts/bench_needle.py`.

Does a memory that learns at test time still know a word that it met once, up to a million bases ago? Pairs of words are
planted in real sequence (`needle.words`), small models learn the task on short sequences (`needle.train`), and every model
is then asked at all distances, far beyond those it was trained at (`needle.probe`). One half of the sequence trains and
the other tests.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from needle.background import Background, read_background
from needle.gates import Gates, read_gates
from needle.models import NeedleModel, build, load_model, save_model
from needle.options import NeedleOptions
from needle.probe import Answer, Test, make_test, probe
from needle.report import write_report
from needle.results import CSV, Row, count, read_rows, write_rows
from needle.train import Step, steps_in, train
from titans_dna.checkpoint import LANGUAGE
from titans_dna.run.directory import RunDirectory
from titans_dna.run.files import write_text
from titans_dna.run.progress import Progress

ABOUT = "about.json"
TEST_SEED = 1 << 32
"""Random numbers of the tests are apart from those of training."""


def bench_needle(options: NeedleOptions, resume: bool = False) -> str:
    """Train and test every model of the options, and return the tables.

    A directory MODEL-SEED in `--out` holds each model with its own results; one that is complete is not done again.
    Raises ValueError and OSError for input that cannot be used, and for a run in `--out` that is another one.
    """
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    with RunDirectory(options.run.out, "bench needle", command="python scripts/bench_needle.py") as home:
        home.check(resume, options)
        background = read_background(options.run.fasta)
        seeds = [np.random.default_rng((seed, TEST_SEED)) for seed in range(options.run.seeds)]
        tests = [make_test(rng, background.test, options.task) for rng in seeds]
        home.open(options)
        rows: list[Row] = []
        about: dict[str, dict[str, float]] = {}
        for name in options.run.models:
            for seed, test in enumerate(tests):
                one = home.path / f"{name}-{seed}"
                if not (one / CSV).is_file():
                    _one(name, seed, test, background, options, one)
                rows += read_rows(one / CSV)
                about[one.name] = json.loads((one / ABOUT).read_text(encoding="utf-8"))
                write_rows(home.path / CSV, rows)
        return write_report(home.path, options, background, rows, about)


def _one(name: str, seed: int, test: Test, background: Background, options: NeedleOptions, directory: Path) -> None:
    """Train, unless that was done, and test."""
    title = f"{name}, seed {seed}"
    if (directory / LANGUAGE.weights).is_file() and (directory / ABOUT).is_file():
        model = load_model(name, options, directory)
        about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
    else:
        if options.train.seconds:
            torch.manual_seed(seed)
            steps = steps_in(name, background.train, options)
            options = dataclasses.replace(options, train=dataclasses.replace(options.train, steps=steps))
        torch.manual_seed(seed)
        model, began = build(name, options), time.process_time()
        done = train(model, background.train, options, seed, name, title)
        about = _about(model, done, time.process_time() - began)
        save_model(model, directory)
        _write_about(directory, about)
    gates, began = read_gates(model.eval(), test), time.process_time()
    answers = _answers(name, model, test, background, options, title)
    about |= {"test_seconds": time.process_time() - began, **({} if gates is None else Gates._asdict(gates))}
    _write_about(directory, about)
    write_rows(directory / CSV, count(name, seed, answers))


def _answers(
    name: str, model: NeedleModel, test: Test, background: Background, options: NeedleOptions, title: str
) -> list[Answer]:
    task = options.task
    limit = task.full_limit if name == "transformer-full" else task.distances[-1]
    distances = tuple(distance for distance in task.distances if distance <= limit)
    found: list[Answer] = []
    # Of each row.
    with Progress(title, distances[-1]) as progress:
        for answers in probe(model, test, background.test, distances, task.piece, progress.add):
            right = [one for answer in answers for one in answer.right]
            share = 100 * sum(right) / len(right)
            progress.say(f"{answers[0].distance:,} bases later {share:.0f} % of the bases are recalled")
            found += answers
    return found


def _about(model: NeedleModel, steps: list[Step], seconds: float) -> dict[str, float]:
    last = steps[-max(1, len(steps) // 20) :]
    return {
        "parameters": model.parameter_count(),
        "train_accuracy": sum(step.accuracy for step in last) / len(last),
        "train_seconds": seconds,
        "steps": len(steps),
    }


def _write_about(directory: Path, about: dict[str, float]) -> None:
    write_text(directory / ABOUT, json.dumps(about, indent=2) + "\n")
