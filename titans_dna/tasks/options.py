"""What a fine-tuning run is made of, as frozen dataclasses; the command line and `run.yaml` have the same names."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from titans_dna.config import preset_names
from titans_dna.tasks.data_options import BaseOptions, LabelOptions

BASELINES = ("majority", "length", "kmers", "positions", "cnn", "orf")


@dataclass(frozen=True)
class TuneOptions:
    """Model: what to start from, what to train of it, and the head"""

    model: str | None = None
    """Directory of a pretrained model, or a Hugging Face hub id."""
    preset: str | None = None
    """tiny, mini, small, base, large, xl, or a YAML file of model fields, in place of --model: trains from scratch."""
    variant: Literal["preset", "lmm", "mac", "mag", "mal"] = "preset"
    """Titans variant with --preset: memory alone (lmm), as context (mac), gated (mag) or as a layer (mal)."""
    tune: Literal["full", "frozen", "lora", "scratch"] = "full"
    """What of --model is trained: all of it, its head alone, low-rank adapters beside its weights (needs titans-dna[lora])
    and the head, or all of it from new weights."""
    pool: Literal["mean", "max", "last", "attention", "bins"] = "mean"
    """How the vectors of the bases become that of the sequence: their mean, maximum, last one, a learned weighted mean, or
    the means of --bins stretches side by side, for sequences that are all cut at the same place (as around a start site)."""
    bins: int = 16
    """Stretches of --pool bins, at most as many as the longest sequence has bases; a signal that stands at one base wants
    stretches of one base."""
    dropout: float = 0.1
    """Dropout before the head's output layer, and with --tune full and scratch on the model's residual branches."""
    lora_rank: int = 8
    """Rank of the adapters of --tune lora."""
    rc_augment: bool = True
    """In training, read each sequence from either strand, chosen by a coin."""
    mutate: float = 0.0
    """In training, share of bases that are replaced by random ones, afresh each time: against learning few rows by heart."""
    rc_average: bool = True
    """Score both strands of each sequence and average: a sequence and its reverse complement then have the same scores."""


@dataclass(frozen=True)
class TrainOptions:
    """Training: length, batches, optimiser"""

    epochs: float = 10.0
    """Passes over train at most; the learning rate falls to a twentieth over them."""
    batch_size: int = 0
    """Sequences, or windows of labelled bases, per optimiser step; 0: 64 sequences, 16 windows."""
    batch_bases: int = 32768
    """Bases that are in memory at once; a step with more takes several passes, and its result is the same but for the draws
    of dropout."""
    packed: bool = False
    """Run the sequences of a batch end to end through the model, without padding, in place of rows of like lengths that are
    padded to the longest; the result is the same but for the draws of dropout."""
    lr: float = 0.0
    """Highest learning rate of AdamW; 0: 2e-3, for --tune full 1e-3, for lora 2e-3 and for frozen 1e-2."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises, linearly."""
    weight_decay: float = 0.01
    """Weight decay of matrices."""
    clip: float = 1.0
    """Largest gradient norm, larger ones are scaled down to it; 0: no clipping."""
    precision: Literal["32", "bf16-mixed"] = "32"
    """Number format; bf16-mixed is the choice for recent GPUs."""
    valid_every: int = 0
    """Steps between validations; 0: half an epoch, at least 20."""
    patience: int = 6
    """Validations without a better one that end the training; 0: never."""
    monitor: Literal["loss", "metric"] = "metric"
    """What the best validation is best in: the loss, or MCC (multilabel: AUPRC; regression: Spearman)."""
    seeds: int = 1
    """Number of runs, which differ in the seed of weights, order and dropout; the data split stays the same."""
    seed: int = 0
    """First seed."""


@dataclass(frozen=True)
class FinetuneRunOptions:
    """Run: where to write, on which device, what to compare with"""

    out: str = "runs/finetune"
    """Directory to write; must not hold another run."""
    baselines: tuple[str, ...] = BASELINES
    """Which to score in the same table, of those that apply: majority, length, kmers,
    positions (sequences of one length), cnn, orf (coding sequence), or none."""
    save_every: int = 200
    """Steps between checkpoints; each validation saves one too."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto takes a GPU where there is one."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the main process."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, more time."""


@dataclass(frozen=True)
class FinetuneOptions:
    """All of a run. Raises ValueError naming the option, the value got and the value wanted."""

    labels: LabelOptions
    tune: TuneOptions
    train: TrainOptions
    run: FinetuneRunOptions
    bases: BaseOptions = dataclasses.field(default_factory=BaseOptions)

    def __post_init__(self) -> None:
        if (not self.labels.data or "" in self.labels.data) and not self.bases.annotation:
            raise ValueError(
                "--data: got none, want a directory, a data set's name, or files; or --annotation and --fasta"
            )
        if not self.bases.annotation and (extra := _changed(self.bases, "annotation", "fasta")):
            raise ValueError(f"--{extra}: got it without --annotation, which it belongs to")
        if self.bases.annotation and (extra := _changed(self.labels, "data")):
            raise ValueError(f"--{extra}: got it with --annotation, want it with --data")
        if self.bases.annotation and (self.tune.pool != "mean" or self.tune.mutate):
            raise ValueError("--pool, --mutate: got one of them with --annotation, want them with --data")
        if self.labels.data and self.bases.annotation:
            raise ValueError("--data: got it with --annotation, want sequences or bases to label, one of the two")
        if bool(self.bases.annotation) != bool(self.bases.fasta):
            raise ValueError("--annotation: got it, or --fasta, alone; want both: features and their genome")
        if bool(self.bases.valid_contigs) != bool(self.bases.test_contigs):
            raise ValueError("--valid_contigs: got it, or --test_contigs, alone; want both")
        if (self.tune.model is None) == (self.tune.preset is None):
            got = "neither it nor" if self.tune.model is None else "it and"
            raise ValueError(
                f"--model: got {got} --preset, want one of the two: a model to start from, or the size of one to train from "
                "scratch"
            )
        preset = self.tune.preset
        if preset is not None and preset not in preset_names() and not Path(preset).is_file():
            raise ValueError(
                f"--preset: got {preset!r}, want {', '.join(preset_names())} or a YAML file of model fields"
            )
        if self.tune.preset is not None and self.tune.tune in ("frozen", "lora"):
            raise ValueError(f"--tune: got {self.tune.tune} with --preset, want --model: new weights need training")
        if self.tune.model is not None and self.tune.variant != "preset":
            raise ValueError("--variant: got it with --model, which has its own; want --preset")
        for part in (self.labels, self.bases, self.tune, self.train, self.run):
            for name, value in vars(part).items():
                _check_range(name, value)
        if not self.run.out:
            raise ValueError("--out: got '', want a directory")
        unknown = [name for name in self.run.baselines if name not in (*BASELINES, "none")]
        if unknown or ("none" in self.run.baselines and len(self.run.baselines) > 1):
            got = " ".join(self.run.baselines)
            raise ValueError(f"--baselines: got {got}, want some of {', '.join(BASELINES)}, or none")

    @property
    def batch_size(self) -> int:
        """Sequences or windows per step, chosen where none was given."""
        return self.train.batch_size or (16 if self.bases.annotation else 64)

    @property
    def lr(self) -> float:
        """The learning rate, chosen where none was given."""
        kind = "scratch" if self.tune.preset is not None else self.tune.tune
        return self.train.lr or {"scratch": 2e-3, "full": 1e-3, "lora": 2e-3, "frozen": 1e-2}[kind]

    def to_dict(self) -> dict[str, Any]:
        """Flat plain values, as the command line names them."""
        parts = (self.labels, self.bases, self.tune, self.train, self.run)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for part in parts
            for name, value in vars(part).items()
        }

    def resolved(self) -> FinetuneOptions:
        """With absolute paths, so that the run can be repeated or resumed from any directory."""
        names = {name: tuple(map(_absolute, getattr(self.labels, name))) for name in ("data", "valid", "test")}
        labels = dataclasses.replace(self.labels, **names, root=self.labels.root and _absolute(self.labels.root))
        bases = dataclasses.replace(
            self.bases,
            fasta=tuple(map(_absolute, self.bases.fasta)),
            annotation=self.bases.annotation and _absolute(self.bases.annotation),
            bed=self.bases.bed and _absolute(self.bases.bed),
        )
        starts = {
            name: value and _absolute(value) for name, value in vars(self.tune).items() if name in ("model", "preset")
        }
        tune = dataclasses.replace(self.tune, **starts)
        return dataclasses.replace(self, labels=labels, bases=bases, tune=tune)

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first option that a resumed run must share with the run it continues and does not, as a message."""
        for name, value in self.to_dict().items():
            # An option that the run does not know yet had what is now its default.
            if name not in _MAY_CHANGE and value != (theirs := other.get(name, _DEFAULTS.get(name))):
                return f"--{name}: got {value!r}, but the run to resume has {theirs!r}"
        return None


# Where and how fast a run goes may change on resuming, and how many seeds; what it computes may not. Files may have
# moved: data and model are compared by fingerprint.
_MAY_CHANGE = {
    *("data", "valid", "test", "root", "fasta", "annotation", "bed", "model", "preset", "seeds"),
    *(field.name for field in dataclasses.fields(FinetuneRunOptions)),
}

_DEFAULTS = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for kind in (LabelOptions, BaseOptions, TuneOptions, TrainOptions, FinetuneRunOptions)
    for field in dataclasses.fields(kind)
}

_LEAST: dict[str, float] = {
    "min_length": 0,
    "lora_rank": 1,
    "bins": 1,
    "batch_size": 0,
    "context": 1,
    "block": 1,
    "batch_bases": 1,
    "lr": 0,
    "weight_decay": 0,
    "clip": 0,
    "valid_every": 0,
    "patience": 0,
    "seeds": 1,
    "seed": 0,
    "save_every": 1,
    "workers": 0,
    "threads": 0,
}


def _changed(part: Any, *spared: str) -> str | None:
    """The first field that does not have its default."""
    for field in dataclasses.fields(part):
        if field.name not in spared and getattr(part, field.name) != field.default:
            return field.name
    return None


def _check_range(name: str, value: Any) -> None:
    if name in _LEAST and not _LEAST[name] <= value < math.inf:
        raise ValueError(f"--{name}: got {value}, want at least {_LEAST[name]}")
    if name == "epochs" and not 0 < value < math.inf:
        raise ValueError(f"--epochs: got {value}, want above 0")
    if name in ("dropout", "warmup", "mutate") and not 0 <= value < 1:
        raise ValueError(f"--{name}: got {value}, want at least 0 and below 1")
    if name == "valid_fraction" and not 0 < value <= 0.5:
        raise ValueError(f"--valid_fraction: got {value}, want above 0 and at most 0.5")


def _absolute(name: str) -> str:
    # A data set's name or a hub id is no path.
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name
