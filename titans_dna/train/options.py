"""What a pretraining run is made of, as frozen dataclasses; the command line and `run.yaml` have the same names."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from titans_dna.config import TitansConfig, preset_names

EMBEDDED = ("lambda",)
"""Genomes that ship with the package, by name."""


@dataclass(frozen=True)
class DataOptions:
    """Sequence data: which bases to learn from, and which to hold out"""

    fasta: tuple[str, ...] = ()
    """Genome files: FASTA, GenBank, EMBL or FASTQ, gzipped or not, or `lambda` for the phage genome that ships with
    the package."""
    bed: str | None = None
    """BED file of the intervals to use (0-based half-open); a 4th column of train, valid or test is the split."""
    tokenizer: str = "nucleotide"
    """nucleotide (one token per base), kmer-6 (or another k; kmer-6-overlapping) or the path of a saved tokenizer."""
    context: int = 1024
    """Bases of a training window."""
    lane: int = 0
    """Bases over which the model's state is carried from window to window, a multiple of context; 0: windows are
    independent. This is how contexts far longer than a window are trained."""
    reverse_complement: bool = True
    """Read each window from either strand, chosen by a coin."""
    soft_masked_weight: float = 1.0
    """Weight in the loss of lower-case (repeat-masked) bases, 0 to 1."""
    max_n: float = 0.5
    """Largest share of N in a training window, 0 to 1; windows with more are never drawn."""
    split: Literal["blocks", "contig", "bed"] = "blocks"
    """How validation sequence is held out: blocks along every contig, whole contigs, or as the BED file says."""
    valid_fraction: float = 0.1
    """Share of the bases that `--split blocks` holds out."""
    block: int = 0
    """Bases of a held-out block of `--split blocks`; 0 chooses a length that suits the genome."""
    valid_contigs: tuple[str, ...] = ()
    """Names of the contigs that `--split contig` holds out."""
    valid_bases: int = 200_000
    """Held-out bases that each validation reads at most, evenly spaced windows; 0: all of them."""


@dataclass(frozen=True)
class ModelOptions:
    """Model: a preset, and any field of it changed"""

    preset: str = "small"
    """tiny (tests), mini (0.12 M parameters), small (0.5 M), base (7 M), large (170 M) or xl (400 M)."""
    variant: Literal["preset", "lmm", "mac", "mag", "mal"] = "preset"
    """Titans variant: memory alone (lmm), as context (mac), gated (mag) or as a layer (mal); preset: as the preset or
    --model.variant says."""


@dataclass(frozen=True)
class OptimiserOptions:
    """Training: steps, optimiser and schedule"""

    steps: int = 1000
    """Optimiser steps of the whole run."""
    batch_size: int = 8
    """Windows (or lanes) per batch and device."""
    accumulate: int = 1
    """Batches per optimiser step."""
    lr: float = 2e-3
    """Highest learning rate of AdamW, reached after the warm-up."""
    min_lr: float = 2e-4
    """Learning rate of the last step; a cosine leads there."""
    warmup: int = 100
    """Steps over which the learning rate rises from 0 to lr, linearly."""
    weight_decay: float = 0.1
    """Weight decay of matrices; norms, biases, embeddings and initial memories have none."""
    beta1: float = 0.9
    """Decay of AdamW's mean of gradients."""
    beta2: float = 0.95
    """Decay of AdamW's mean of squared gradients."""
    clip: float = 1.0
    """Largest gradient norm, larger ones are scaled down to it; 0: no clipping."""
    precision: Literal["32", "bf16-mixed", "bf16-true"] = "32"
    """Number format; bf16-mixed is the choice for recent GPUs."""
    length_warmup: int = 0
    """Doublings of the window length: start with windows of context / 2^N bases and 2^N times as many, double N times,
    evenly over the first half of the run; 0: the full context throughout."""
    seed: int = 0
    """Seed of the initial weights, of the order of the data and of dropout."""


@dataclass(frozen=True)
class RunOptions:
    """Run: where to write, on which device, how often to check and to save"""

    out: str = "runs/pretrain"
    """Directory to write; must not hold another run."""
    valid_every: int = 100
    """Steps between validations; 0: only at the end."""
    save_every: int = 100
    """Steps between checkpoints; 0: only at the end."""
    max_time: float = 0.0
    """Stop after this many minutes, saved and reported properly; 0: no limit."""
    workers: int = 0
    """Processes that load data; 0 loads in the main process."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    piece: int = 0
    """Bases of a window that are worked on at a time, in training and validation: full backpropagation through the window in
    the memory of a piece, for one more forward pass; 0: the whole window at once."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, more time."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto takes a GPU where there is one."""
    devices: int = 1
    """Number of devices."""
    strategy: Literal["auto", "ddp"] = "auto"
    """ddp trains on several devices, each with its own windows."""


@dataclass(frozen=True)
class PretrainOptions:
    """All of a run. Raises ValueError naming the option, the value got and the value wanted."""

    data: DataOptions
    model: ModelOptions
    config: TitansConfig
    optimiser: OptimiserOptions
    run: RunOptions

    def __post_init__(self) -> None:
        if not self.data.fasta or "" in self.data.fasta:
            raise ValueError("--fasta: got none, want at least one genome file, or lambda for the one that ships")
        if self.model.preset not in preset_names():
            raise ValueError(f"--preset: got {self.model.preset!r}, want one of {', '.join(preset_names())}")
        for part in (self.data, self.optimiser, self.run):
            for name, value in dataclasses.asdict(part).items():
                _check_range(name, value)
        if self.data.split == "bed" and not self.data.bed:
            raise ValueError("--bed: got none, want a BED file with a split column for --split bed")
        if self.data.split == "contig" and not self.data.valid_contigs:
            raise ValueError("--valid_contigs: got none, want the contigs to hold out for --split contig")
        if self.data.valid_contigs and self.data.split != "contig":
            raise ValueError(f"--valid_contigs: got them with --split {self.data.split}, want --split contig")
        if self.optimiser.min_lr > self.optimiser.lr:
            raise ValueError(f"--min_lr: got {self.optimiser.min_lr}, want at most --lr ({self.optimiser.lr})")
        if not self.run.out:
            raise ValueError("--out: got '', want a directory")
        if self.data.split == "contig" and self.data.bed:
            raise ValueError("--bed: got it with --split contig, want one of the two")
        if self.data.lane and self.run.devices > 1:
            raise ValueError(f"--devices: got {self.run.devices} with --lane, want 1: lanes are kept on one device")
        if self.data.lane and self.data.lane % self.data.context:
            raise ValueError(f"--lane: got {self.data.lane}, want a multiple of --context ({self.data.context}) or 0")
        if self.data.lane and self.optimiser.length_warmup:
            raise ValueError("--length_warmup: got it with --lane, want one of the two")
        if self.data.context % 2**self.optimiser.length_warmup:
            raise ValueError(
                f"--length_warmup: got {self.optimiser.length_warmup}, want a context ({self.data.context}) that can "
                "be halved as often"
            )

    def to_dict(self) -> dict[str, Any]:
        """Flat plain values, as the command line names them; the model's fields under `model`."""
        flat = {**_plain(self.data), "preset": self.model.preset, **_plain(self.optimiser), **_plain(self.run)}
        return {**flat, "model": {name: value for name, value in self.config.to_dict().items() if name != "vocab_size"}}

    def resolved(self) -> PretrainOptions:
        """With absolute paths, so that the run can be repeated or resumed from any directory."""
        data = dataclasses.replace(
            self.data,
            fasta=tuple(_absolute(name) for name in self.data.fasta),
            bed=None if self.data.bed is None else _absolute(self.data.bed),
            tokenizer=_absolute(self.data.tokenizer),
        )
        return dataclasses.replace(self, data=data)

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first option that a resumed run must share with the run it continues and does not, as a message."""
        mine = self.to_dict()
        for name in mine:
            if name not in _MAY_CHANGE and name != "model" and mine[name] != other.get(name):
                return f"--{name}: got {mine[name]!r}, but the run to resume has {other.get(name)!r}"
        theirs = other.get("model") or {}
        for name, value in mine["model"].items():
            if value != theirs.get(name):
                return f"--model.{name}: got {value!r}, but the run to resume has {theirs.get(name)!r}"
        return None


# Where and how fast a run goes may change on resuming; what it computes may not. The files may have moved: their
# content is compared by fingerprint.
_MAY_CHANGE = {
    "fasta",
    "bed",
    "tokenizer",
    *(field.name for field in dataclasses.fields(RunOptions) if field.name != "valid_every"),
}

_RANGES: dict[str, tuple[float, float]] = {
    "context": (1, math.inf),
    "lane": (0, math.inf),
    "soft_masked_weight": (0, 1),
    "max_n": (0, 1),
    "block": (0, math.inf),
    "valid_bases": (0, math.inf),
    "steps": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulate": (1, math.inf),
    "min_lr": (0, math.inf),
    "warmup": (0, math.inf),
    "weight_decay": (0, math.inf),
    "clip": (0, math.inf),
    "length_warmup": (0, 20),
    "seed": (0, 2**63 - 1),
    "valid_every": (0, math.inf),
    "save_every": (0, math.inf),
    "max_time": (0, math.inf),
    "workers": (0, 1024),
    "threads": (0, 4096),
    "piece": (0, math.inf),
    "devices": (1, math.inf),
}
_OPEN_RANGES: dict[str, tuple[float, float]] = {
    "valid_fraction": (0, 1),
    "lr": (0, math.inf),
    "beta1": (0, 1),
    "beta2": (0, 1),
}


def _check_range(name: str, value: Any) -> None:
    if name in _RANGES:
        low, high = _RANGES[name]
        if not low <= value <= high:
            wanted = f"at least {low}" if high == math.inf else f"{low} to {high}"
            raise ValueError(f"--{name}: got {value}, want {wanted}")
    if name in _OPEN_RANGES:
        low, high = _OPEN_RANGES[name]
        if not low < value < high:
            wanted = f"above {low}" if high == math.inf else f"above {low} and below {high}"
            raise ValueError(f"--{name}: got {value}, want {wanted}")


def _absolute(name: str) -> str:
    # `nucleotide` and its like are names, not files.
    return str(Path(name).absolute()) if name not in EMBEDDED and Path(name).is_file() else name


def _plain(part: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(part).items()}
