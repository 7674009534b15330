"""`needle.md`: accuracy over distance, by number of needles and with distractors, and what the gates do."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from needle.background import Background
from needle.options import NeedleOptions
from needle.results import MARKDOWN, PLOT, Row, bases, plot, table, words
from titans_dna.run.files import NONE, markdown, write_text

GATES = ("forget_background", "forget_needle", "half_life", "rate_background", "rate_needle")


def write_report(
    directory: Path,
    options: NeedleOptions,
    background: Background,
    rows: Sequence[Row],
    about: dict[str, dict[str, float]],
) -> str:
    """`needle.md` and `needle.png`; returns the tables.

    about: of each MODEL-SEED, what `needle.py` keeps in its about.json.
    """
    title = "bases between needle and question"
    text = f"Per base, all needles, chance 25 %:\n\n{table(rows, title, bases)}"
    text += f"\nWhole values, chance {100 * 0.25**options.task.value_length:.2g} %:\n\n{table(rows, title, words)}"
    for needles in options.task.needles:
        chosen = [row for row in rows if row.needles == needles]
        text += f"\nPer base, {needles} in a row:\n\n{table(chosen, title, bases)}"
    for distractors, name in ((0, "without a distractor"), (1, "with a distractor")):
        chosen = [row for row in rows if row.distractors == distractors]
        if chosen:
            text += f"\nPer base, needles {name}:\n\n{table(chosen, title, bases)}"
    if len(options.task.key_lengths) > 1:
        for length in options.task.key_lengths:
            chosen = [row for row in rows if row.key_length == length]
            if chosen:
                text += f"\nPer base, keys of {length} bases:\n\n{table(chosen, title, bases)}"
    text += f"\n{_models(about)}"
    write_text(directory / MARKDOWN, f"{_head(options, background)}\n{text}")
    plot(directory / PLOT, rows)
    return text


def _head(options: NeedleOptions, background: Background) -> str:
    task, train = options.task, options.train
    keys, here, other = ", ".join(map(str, task.key_lengths)), len(background.test), len(background.train)
    lines = [
        "# Needle in a genome",
        "",
        f"Pairs [SEP] key [RESERVED] value, keys of {keys} bases, values of {task.value_length}, planted in real sequence; "
        "every second needle has a distractor, a pair whose key differs in one base. Asked after so many bases of "
        "background, the value's bases one by one, those before given. In brackets the 95 % interval (Wilson); the bases "
        "of one value are not independent, so that the intervals per base are narrow.",
        "",
        f"Background: {other:,} bases to train, {here:,} others to test."
        + f" The test half begins again every {here:,} bases." * (here < task.distances[-1]),
        f"Training: {_long(options)} of {train.batch * train.train_length:,} tokens a step, sequences of at most "
        f"{train.train_length:,}; width {train.width}, {train.layers} block(s), {train.heads} head(s), chunk {train.chunk}.",
        f"Machine: {platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}.",
    ]
    return "\n".join(lines) + "\n"


def _long(options: NeedleOptions) -> str:
    train = options.train
    return f"{train.seconds:g} CPU seconds" if train.seconds else f"{train.steps:,} steps"


def _models(about: dict[str, dict[str, float]]) -> str:
    """One line for each trained model."""
    heads = ["model, seed", "parameters", "steps", "recalled in training", "training, CPU", "test, CPU"]
    heads += ["forgets: background", "needle", "half-life", "learns: background", "needle"]
    lines = []
    for name, one in about.items():
        # A model that a run of version 0.1.0 trained has that version's memory, and did not say its steps.
        cells = [
            name,
            f"{one['parameters']:,.0f}",
            f"{one['steps']:,.0f}" if "steps" in one else "of 0.1.0",
            f"{100 * one['train_accuracy']:.0f} %",
        ]
        cells += [f"{one['train_seconds']:.0f} s", f"{one['test_seconds']:.0f} s"]
        cells += [_number(one[gate]) if gate in one else NONE for gate in GATES]
        lines.append(cells)
    return (
        markdown(heads, lines)
        + "\nForgets: mean of alpha; half-life: bases of background, of the head that forgets least. "
        "Learns: mean of theta as a share of the largest.\n"
    )


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
