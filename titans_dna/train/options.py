"""What a pretraining run is made of."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from titans_dna.config import TitansConfig, check_variant
from titans_dna.run.options import (
    Accelerator,
    Options,
    accelerator_option,
    current_names,
    flags,
    group,
    option,
    resume_option,
    threads_option,
)

EMBEDDED = ("lambda",)
"""Genomes that ship with the package, by name."""


@dataclass(frozen=True)
class PresetOptions(Options):
    """Options with --preset, --variant, and the fields of the model under `--model`, in `config`."""

    @classmethod
    def defaults(cls, values: dict[str, Any], named: Set[str]) -> dict[str, Any]:
        """The fields of the preset; the size of the vocabulary is the tokenizer's. Look-ups are for single nucleotides and
        one device, and not among the defaults elsewhere."""
        follow = {name: values[f"model.{name}"] for name in ("layers", "mixers") if f"model.{name}" in named}
        fields = TitansConfig.preset(values["preset"], **follow).to_dict()
        if values.get("tokenizer", "nucleotide") != "nucleotide" or values.get("devices", 1) > 1:
            fields["kmers"] = []
        return {f"model.{name}": value for name, value in fields.items() if name != "vocab_size"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """As `Options.from_dict`; the variant that is named on its own comes first."""
        given = current_names(cls, values)
        if given.get("variant", "preset") != "preset":
            check_variant(given["variant"], given.get("model.mixers"))
            given["model.variant"] = given["variant"]
        return super().from_dict(given)

    def check(self) -> None:
        """ValueError for a preset that there is not."""
        TitansConfig.preset(next(self.value(flag) for flag in flags(type(self)) if flag.name == "preset"))


def preset_option() -> Any:
    """The field `preset: str` of such options."""
    return option(
        "small",
        "tiny (tests), mini (0.28 M parameters), small (0.7 M), base (5 M), large (170 M) or xl (400 M); mini-0.1.0, "
        "small-0.1.0 and base-0.1.0 are those of that version.",
    )


def model_fields() -> Any:
    """The field `config: TitansConfig` of such options."""
    title = "Model fields, each in place of the preset's"
    return group(TitansConfig, prefix="model", skip=("vocab_size",), title=title)


@dataclass(frozen=True)
class DataOptions:
    """Sequence data: which bases to learn from, and which to hold out"""

    fasta: tuple[str, ...] = option(
        (),
        "Genome files: FASTA, GenBank, EMBL or FASTQ, gzipped or not, or `lambda` for the phage genome that ships with the "
        "package.",
        required=True,
        want="at least one genome file, or lambda for the one that ships",
        free=True,
        path="input",
        words=EMBEDDED,
    )
    bed: str | None = option(
        None,
        "BED file of the intervals to use (0-based half-open); a 4th column of train, valid or test is the split.",
        want="a BED file",
        free=True,
        path="input",
    )
    tokenizer: str = option(
        "nucleotide",
        "nucleotide (one token per base), kmer-6 (or another k; kmer-6-overlapping), bpe-4096 (or another number of ids, "
        "learned from the training intervals first) or the path of a saved tokenizer.",
        free=True,
        path="file",
    )
    counts: bool = option(
        False,
        "Count what follows the last bases in the training sequence, and let the model look there: a file of its own, of "
        "eight bytes a base, beside the weights.",
    )
    context: int = option(1024, "Bases of a training window.", least=1)
    lane: int = option(
        0,
        "Bases over which the model's state is carried from window to window, a multiple of context; 0: windows are "
        "independent. This is how contexts far longer than a window are trained.",
        least=0,
    )
    rc_augment: bool = option(
        True, "Read each window from either strand, chosen by a coin.", old=("reverse_complement",)
    )
    soft_masked_weight: float = option(
        1.0, "Weight in the loss of lower-case (repeat-masked) bases, 0 to 1.", least=0, most=1
    )
    max_n: float = option(
        0.5, "Largest share of N in a training window, 0 to 1; windows with more are never drawn.", least=0, most=1
    )
    split: Literal["blocks", "contig", "bed"] = option(
        "blocks",
        "How validation sequence is held out: blocks along every contig, whole contigs, or as the BED file says.",
    )
    valid_fraction: float = option(0.1, "Share of the bases that `--split blocks` holds out.", above=0, below=1)
    block: int = option(
        0, "Bases of a held-out block of `--split blocks`; 0 chooses a length that suits the genome.", least=0
    )
    valid_contigs: tuple[str, ...] = option((), "Names of the contigs that `--split contig` holds out.")
    valid_bases: int = option(
        200_000, "Held-out bases that each validation reads at most, evenly spaced windows; 0: all of them.", least=0
    )


@dataclass(frozen=True)
class ModelOptions:
    """Model: a preset, and any field of it changed"""

    preset: str = preset_option()
    variant: Literal["preset", "lmm", "mac", "mag", "mal"] = option(
        "preset",
        "Titans variant: memory alone (lmm), as context (mac), gated (mag) or as a layer (mal); preset: as the preset or "
        "--model.variant says.",
        kept=False,
    )


@dataclass(frozen=True)
class OptimiserOptions:
    """Training: steps, optimiser and schedule"""

    steps: int = option(1000, "Optimiser steps of the whole run.", least=1)
    batch_size: int = option(4, "Windows (or lanes) per batch and device.", least=1, before=8)
    accumulate: int = option(1, "Batches per optimiser step.", least=1)
    lr: float = option(4e-3, "Highest learning rate of AdamW, reached after the warm-up.", above=0, before=2e-3)
    optimizer: Literal["adamw", "muon"] = option(
        "muon",
        "muon: Muon for the matrices of the blocks and AdamW for the rest, which learns more per base; adamw: for all.",
        before="adamw",
    )
    muon_lr: float = option(
        0.02, "Highest learning rate of Muon, which rises and falls as AdamW's does.", above=0, most=1
    )
    min_lr: float = option(2e-4, "Learning rate of the last step; a cosine leads there.", least=0)
    warmup: int = option(100, "Steps over which the learning rate rises from 0 to lr, linearly.", least=0)
    weight_decay: float = option(
        0.1, "Weight decay of matrices; norms, biases, embeddings and initial memories have none.", least=0
    )
    beta1: float = option(0.9, "Decay of AdamW's mean of gradients.", above=0, below=1)
    beta2: float = option(0.95, "Decay of AdamW's mean of squared gradients.", above=0, below=1)
    clip: float = option(
        1.0, "Largest gradient norm, larger ones are scaled down to it; 0: no clipping.", least=0, most=math.inf
    )
    precision: Literal["32", "bf16-mixed", "bf16-true"] = option(
        "32", "Number format; bf16-mixed is the choice for recent GPUs."
    )
    length_warmup: int = option(
        0,
        "Doublings of the window length: start with windows of context / 2^N bases and 2^N times as many, double N times, "
        "evenly over the first half of the run; 0: the full context throughout.",
        least=0,
        most=20,
    )
    write_price: float = option(
        0.0,
        "Nats that a token costs for each unit that its gate of theta, before the sigmoid, is above -14, from 0.35 of the "
        "steps on; a twentieth of the tokens of each memory is free. So a memory learns to write what matters alone; 0.01 "
        "serves the needle benchmark.",
        least=0,
    )
    seed: int = option(
        0, "Seed of the initial weights, of the order of the data and of dropout.", least=0, most=2**63 - 1
    )


@dataclass(frozen=True)
class RunOptions:
    """Run: where to write, on which device, how often to check and to save"""

    out: str = option("runs/pretrain", "Directory to write; must not hold another run.", want="a directory", free=True)
    valid_every: int = option(100, "Steps between validations; 0: only at the end.", least=0)
    save_every: int = option(100, "Steps between checkpoints; 0: only at the end.", least=0, free=True)
    max_time: float = option(
        0.0,
        "Stop after this many minutes, saved and reported properly; 0: no limit.",
        least=0,
        most=math.inf,
        free=True,
    )
    workers: int = option(0, "Processes that load data; 0 loads in the main process.", least=0, most=1024, free=True)
    threads: int = threads_option()
    piece: int = option(
        0,
        "Bases of a window that are worked on at a time, in training and validation: full backpropagation through the "
        "window in the memory of a piece, for one more forward pass; 0: the whole window at once.",
        least=0,
        free=True,
    )
    activation_checkpointing: bool = option(
        False, "Recompute each block in the backward pass: less memory, more time.", free=True
    )
    accelerator: Accelerator = accelerator_option("train on")
    devices: int = option(1, "Number of devices.", least=1, free=True)
    strategy: Literal["auto", "ddp"] = option(
        "auto", "ddp trains on several devices, each with its own windows.", free=True
    )
    resume: bool = resume_option()


@dataclass(frozen=True)
class PretrainOptions(PresetOptions):
    """Train a Titans language model on genome files.

    Example: titans-dna pretrain --fasta genome.fa --variant mac --out runs/first
    """

    output: ClassVar[str] = "run"
    overridable: ClassVar[bool] = True

    data: DataOptions = group(DataOptions)
    model: ModelOptions = group(ModelOptions)
    config: TitansConfig = model_fields()
    optimiser: OptimiserOptions = group(OptimiserOptions)
    run: RunOptions = group(RunOptions)

    def check(self) -> None:
        """ValueError for options that do not go together."""
        super().check()
        data, optimiser = self.data, self.optimiser
        if data.split == "bed" and not data.bed:
            raise ValueError("--bed: got none, want a BED file with a split column for --split bed")
        if data.split == "contig" and not data.valid_contigs:
            raise ValueError("--valid_contigs: got none, want the contigs to hold out for --split contig")
        if data.valid_contigs and data.split != "contig":
            raise ValueError(f"--valid_contigs: got them with --split {data.split}, want --split contig")
        if optimiser.min_lr > optimiser.lr:
            raise ValueError(f"--min_lr: got {optimiser.min_lr}, want at most --lr ({optimiser.lr})")
        if data.split == "contig" and data.bed:
            raise ValueError("--bed: got it with --split contig, want one of the two")
        if self.config.counts and not data.counts:
            raise ValueError(f"--model.counts: got {list(self.config.counts)} without --counts, want both or none")
        if self.config.kmers and self.run.devices > 1:
            raise ValueError(
                f"--devices: got {self.run.devices} with --model.kmers, want 1: look-ups learn on one device"
            )
        if data.counts and data.tokenizer != "nucleotide":
            raise ValueError(f"--counts: got them with --tokenizer {data.tokenizer}, want nucleotide")
        if data.counts and self.run.devices > 1:
            raise ValueError(f"--devices: got {self.run.devices} with --counts, want 1: counts are kept on one device")
        if optimiser.optimizer != "muon" and optimiser.muon_lr != OptimiserOptions().muon_lr:
            raise ValueError(f"--muon_lr: got {optimiser.muon_lr:g} with --optimizer {optimiser.optimizer}, want muon")
        self._check_price()
        if data.lane and self.run.devices > 1:
            raise ValueError(f"--devices: got {self.run.devices} with --lane, want 1: lanes are kept on one device")
        if data.lane and data.lane % data.context:
            raise ValueError(f"--lane: got {data.lane}, want a multiple of --context ({data.context}) or 0")
        if data.lane and optimiser.length_warmup:
            raise ValueError("--length_warmup: got it with --lane, want one of the two")
        if data.context % 2**optimiser.length_warmup:
            raise ValueError(
                f"--length_warmup: got {optimiser.length_warmup}, want a context ({data.context}) that can be halved as "
                "often"
            )

    def _check_price(self) -> None:
        """A price is of gates that a step sees, all at once."""
        price, kinds = self.optimiser.write_price, self.config.mixers or (self.config.variant,)
        if price and set(kinds) == {"conv"}:
            raise ValueError(f"--write_price: got {price:g} for a model without a memory, want 0, or a memory to price")
        for name in ("piece", "activation_checkpointing"):
            if price and getattr(self.run, name):
                raise ValueError(f"--{name}: got it with --write_price, want one of the two")
