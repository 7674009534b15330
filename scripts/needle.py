"""Recall of marked words at one distance: trains one model of the needle benchmark, asks it, and prints one line.

    python scripts/needle.py --variant lmm --distance 1000000 --seed 0 --json

`scripts/bench_needle.py` is the whole benchmark; this is one point of it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from needle.options import MODELS, NeedleOptions, NeedleRunOptions, NeedleTaskOptions, NeedleTrainOptions
from titans_dna.run.commandline import parse
from titans_dna.run.options import Options, group, option, threads_option
from titans_dna.run.signals import ended


@dataclass(frozen=True)
class PointOptions:
    """Point: one model, one distance"""

    variant: str = option("lmm", f"Model: {', '.join(MODELS)}.")
    distance: int = option(1_000_000, "Bases between the last planted pair and the question.", least=1)
    seed: int = option(0, "Seed of weights, training and test.", least=0)
    fasta: tuple[str, ...] = option(
        (), "Sequence files of the background, by default phage lambda.", want="sequence files", path="any"
    )
    rows: tuple[int, ...] = option((8, 4, 4), "Rows of the test with 1, 4 and 16 needles.")
    steps: int = option(NeedleTrainOptions().steps, "Steps of the optimiser.", least=1)
    json: bool = option(False, "Print one line of JSON.")
    threads: int = threads_option()


@dataclass(frozen=True)
class OnePointOptions(Options):
    """One point of the needle benchmark.

    Example: python scripts/needle.py --variant mag --distance 1000000 --seed 1 --json
    """

    point: PointOptions = group(PointOptions)

    def needle(self) -> NeedleOptions:
        """The options of the benchmark that has this point."""
        one = self.point
        task = dataclasses.replace(NeedleTaskOptions(), rows=tuple(one.rows), distances=(one.distance,))
        return NeedleOptions(
            NeedleRunOptions(fasta=one.fasta, out="unused", models=(one.variant,)),
            task,
            dataclasses.replace(NeedleTrainOptions(), steps=one.steps),
        )

    def check(self) -> None:
        """ValueError for a model that there is not, or rows that do not go with the needles."""
        if self.point.variant not in MODELS:
            raise ValueError(f"--variant: got {self.point.variant!r}, want one of {', '.join(MODELS)}")
        self.needle().check()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and ask with these arguments, by default the process's; ends with SystemExit, as `titans-dna` does."""
    given = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(ended(lambda: _run(given), "needle.py"))


def _run(arguments: Sequence[str]) -> int:
    options = parse(OnePointOptions, arguments, verb="needle", program="python scripts/needle.py")
    from needle.background import read_background
    from needle.models import build
    from needle.probe import make_test, probe
    from needle.results import wilson
    from needle.run import TEST_SEED
    from needle.train import train
    from titans_dna.run.progress import Progress

    one, needle = options.point, options.needle()
    if one.threads:
        torch.set_num_threads(one.threads)
    background, began = read_background(one.fasta), time.process_time()
    test = make_test(np.random.default_rng((one.seed, TEST_SEED)), background.test, needle.task)
    torch.manual_seed(one.seed)
    model = build(one.variant, needle)
    train(model, background.train, needle, one.seed, one.variant, title=one.variant)
    trained = time.process_time()
    with Progress("test", one.distance) as progress:
        (answers,) = probe(model.eval(), test, background.test, (one.distance,), needle.task.piece, said=progress.add)
    right = [base for answer in answers for base in answer.right]
    share = wilson(sum(right), len(right))
    single = [base for answer in answers if answer.question.needles == 1 for base in answer.right]
    found = {
        "variant": one.variant,
        "distance": one.distance,
        "seed": one.seed,
        "accuracy": round(share.value, 4),
        "low": round(share.low, 4),
        "high": round(share.high, 4),
        "bases": share.n,
        "single": round(sum(single) / len(single), 4),
        "parameters": model.parameter_count(),
        "train_cpu_seconds": round(trained - began, 1),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    print(json.dumps(found) if one.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    main()
