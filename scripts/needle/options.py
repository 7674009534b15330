"""What the needle benchmark is told."""

from __future__ import annotations

from dataclasses import dataclass

from titans_dna.run.options import Options, group, option, resume_option, threads_option

MODELS = (
    "lmm",
    "mac",
    "mag",
    "mal",
    "lmm-token-gates",
    "lmm-silu-keys",
    "lmm-no-price",
    "lmm-no-momentum",
    "lmm-no-forgetting",
    "lmm-deep",
    "lmm-no-memory",
    "lmm-0.1.0",
    "transformer-window",
    "transformer-full",
)
"""In the order of the table; `needle_models` says what each is."""


@dataclass(frozen=True)
class NeedleRunOptions:
    """Run: what is compared, on what sequence, and where the results go"""

    fasta: tuple[str, ...] = option(
        (),
        "Sequence files that the background is taken from: the first half trains, the second half tests; by default the "
        "phage lambda that ships with the package.",
        want="sequence files",
        path="any",
    )
    out: str = option(
        "",
        "Directory for the models, results.csv, needle.md and needle.png.",
        required=True,
        want="a directory",
        free=True,
    )
    models: tuple[str, ...] = option(MODELS, "Models to train and test, each by its name.", free=True)
    seeds: int = option(
        1, "Times that each model is trained and tested, from other random numbers each time.", least=1, free=True
    )
    threads: int = threads_option()
    resume: bool = resume_option()


@dataclass(frozen=True)
class NeedleTaskOptions:
    """Task: what is planted, and how far away it is asked for"""

    key_lengths: tuple[int, ...] = option(
        (4, 6, 8), "Bases of the keys; needles of a row take them in turn, in training as in the test."
    )
    value_length: int = option(4, "Bases of a value.", least=1)
    needles: tuple[int, ...] = option(
        (1, 4, 16), "Pairs planted in a row of the test; one group of rows for each number."
    )
    rows: tuple[int, ...] = option((4, 2, 2), "Rows of the test, one number for each of --needles.")
    distances: tuple[int, ...] = option(
        (1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000), "Bases between the last planted pair and the question."
    )
    piece: int = option(2048, "Bases of each row per call of the model; changes no answer.", least=1)
    full_limit: int = option(
        16_384, "Distance up to which transformer-full is tested: its memory and time grow with it.", least=1
    )


@dataclass(frozen=True)
class NeedleTrainOptions:
    """Training: the same for all models"""

    steps: int = option(400, "Steps of the optimiser.", least=1)
    seconds: float = option(
        0.0,
        "CPU seconds of training, in place of --steps: as many steps of each model as a measurement beforehand says; 0: "
        "--steps.",
        least=0,
    )
    train_length: int = option(1024, "Tokens of a training sequence, the longest one where it grows.", least=1)
    batch: int = option(4, "Training sequences of a step at the full length; more where they are shorter.", least=1)
    lr: float = option(4e-3, "Largest learning rate, after the warm-up; falls to nought as a cosine.", above=0)
    width: int = option(64, "Width of every model.", least=1)
    layers: int = option(1, "Blocks of every model.", least=1)
    heads: int = option(
        1, "Heads of every model: with one, its memory is as large as it can be at this width.", least=1
    )
    chunk: int = option(32, "Tokens that share one anchor in the memory.", least=1)


@dataclass(frozen=True)
class NeedleOptions(Options):
    """Needle in a genome: train small models to recall words planted in real sequence, and ask them 1,000 to 1,000,000 bases
    later.

    Example: python scripts/bench_needle.py --fasta genome.fa --models lmm mag --out runs/needle
    """

    run: NeedleRunOptions = group(NeedleRunOptions)
    task: NeedleTaskOptions = group(NeedleTaskOptions)
    train: NeedleTrainOptions = group(NeedleTrainOptions)

    def check(self) -> None:
        """ValueError for options that do not go together."""
        task, train = self.task, self.train
        self._check_models()
        for name, most in (("key_lengths", 32), ("needles", 64), ("distances", 1 << 40)):
            self._check_list(name, most)
        if len(task.rows) != len(task.needles) or min(task.rows) < 1:
            raise ValueError(
                f"--rows: got {' '.join(map(str, task.rows))}, want a number from 1 on for each of the {len(task.needles)} "
                "of --needles"
            )
        if train.width % (2 * train.heads):
            raise ValueError(f"--heads: got {train.heads}, want an even head width out of --width {train.width}")
        if train.train_length < 256:
            raise ValueError(f"--train_length: got {train.train_length}, want at least 256, room for the pairs")

    def _check_models(self) -> None:
        for name in self.run.models:
            if name not in MODELS:
                raise ValueError(f"--models: got {name!r}, want some of {', '.join(MODELS)}")
        if len(set(self.run.models)) < len(self.run.models) or not self.run.models:
            raise ValueError(f"--models: got {' '.join(self.run.models) or 'none'}, want each name once")

    def _check_list(self, name: str, most: int) -> None:
        got = getattr(self.task, name)
        if not got or any(not 1 <= one <= most for one in got) or list(got) != sorted(set(got)):
            raise ValueError(
                f"--{name}: got {' '.join(map(str, got)) or 'none'}, want whole numbers from 1 to {most}, growing"
            )
