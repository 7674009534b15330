"""What `titans-dna bench needle` is told, as frozen dataclasses with the names of the flags."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MODELS = (
    "lmm",
    "mac",
    "mag",
    "mal",
    "lmm-no-momentum",
    "lmm-no-forgetting",
    "lmm-linear",
    "lmm-quick",
    "lmm-no-memory",
    "transformer-window",
    "transformer-full",
)
"""In the order of the table; `needle_models` says what each is."""


@dataclass(frozen=True)
class NeedleRunOptions:
    """Run: what is compared, on what sequence, and where the results go"""

    fasta: tuple[str, ...] = ()
    """Sequence files that the background is taken from: the first half trains, the second half tests; by default the
    phage lambda that ships with the package."""
    out: str = ""
    """Directory for the models, results.csv, needle.md and needle.png."""
    models: tuple[str, ...] = MODELS
    """Models to train and test, each by its name."""
    seeds: int = 1
    """Times that each model is trained and tested, from other random numbers each time."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""


@dataclass(frozen=True)
class NeedleTaskOptions:
    """Task: what is planted, and how far away it is asked for"""

    key_lengths: tuple[int, ...] = (4, 6, 8)
    """Bases of the keys; needles of a row take them in turn, in training as in the test."""
    value_length: int = 4
    """Bases of a value."""
    needles: tuple[int, ...] = (1, 4, 16)
    """Pairs planted in a row of the test; one group of rows for each number."""
    rows: tuple[int, ...] = (4, 2, 2)
    """Rows of the test, one number for each of --needles."""
    distances: tuple[int, ...] = (1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000)
    """Bases between the last planted pair and the question."""
    piece: int = 2048
    """Bases of each row per call of the model; changes no answer."""
    full_limit: int = 16_384
    """Distance up to which transformer-full is tested: its memory and time grow with it."""


@dataclass(frozen=True)
class NeedleTrainOptions:
    """Training: the same for all models"""

    steps: int = 500
    """Steps of the optimiser."""
    train_length: int = 1024
    """Tokens of a training sequence, the longest one where it grows."""
    batch: int = 4
    """Training sequences of a step at the full length; more where they are shorter."""
    lr: float = 4e-3
    """Largest learning rate, after the warm-up; falls to nought as a cosine."""
    width: int = 64
    """Width of every model."""
    layers: int = 2
    """Blocks of every model."""
    heads: int = 1
    """Heads of every model: with one, its memory is as large as it can be at this width."""
    chunk: int = 32
    """Tokens that share one anchor in the memory."""


@dataclass(frozen=True)
class NeedleOptions:
    """All of a call. Raises ValueError naming the option, the value got and the value wanted."""

    run: NeedleRunOptions
    task: NeedleTaskOptions
    train: NeedleTrainOptions

    def __post_init__(self) -> None:
        if not self.run.out:
            raise ValueError("--out: got none, want a directory")
        if "" in self.run.fasta:
            raise ValueError("--fasta: got '', want sequence files")
        self._check_models()
        for name, most in (("key_lengths", 32), ("needles", 64), ("distances", 1 << 40)):
            self._check_list(name, most)
        if len(self.task.rows) != len(self.task.needles) or min(self.task.rows) < 1:
            raise ValueError(
                f"--rows: got {' '.join(map(str, self.task.rows))}, want a number from 1 on for each of the "
                f"{len(self.task.needles)} of --needles"
            )
        for part in (self.run, self.task, self.train):
            for name, got in asdict(part).items():
                low = 0 if name == "threads" else 1
                if type(got) is int and got < low:
                    raise ValueError(f"--{name}: got {got}, want at least {low}")
        if self.train.width % (2 * self.train.heads):
            raise ValueError(
                f"--heads: got {self.train.heads}, want an even head width out of --width {self.train.width}"
            )
        if not self.train.lr > 0:
            raise ValueError(f"--lr: got {self.train.lr}, want above 0")
        if self.train.train_length < 256:
            raise ValueError(f"--train_length: got {self.train.train_length}, want at least 256, room for the pairs")

    def to_dict(self) -> dict[str, Any]:
        """All options by name, for the file beside the results."""
        values = {**asdict(self.run), **asdict(self.task), **asdict(self.train)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def resolved(self) -> NeedleOptions:
        """Until the options are one form."""
        return self

    def difference(self, other: dict[str, Any]) -> str | None:
        """What may not change, and has."""
        for name, value in self.to_dict().items():
            mine = list(value) if isinstance(value, tuple) else value
            if name not in ("out", "models", "seeds", "threads") and mine != other.get(name):
                return f"--{name}: got {mine}, but the run to resume has {other.get(name)}"
        return None

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
