"""What a fine-tuning run is made of: labelled sequences or labelled bases, a model, and how it is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from titans_dna.config import preset_names
from titans_dna.run.options import (
    Accelerator,
    Options,
    accelerator_option,
    group,
    option,
    resume_option,
    threads_option,
)

BASELINES = ("majority", "length", "kmers", "positions", "cnn", "orf")
EPOCHS, FEWEST_STEPS, MANY_STEPS, FEWEST_EPOCHS = 10, 400, 1500, 3
"""Of a fine-tuning by default: the first, but at least the second, and at most the larger one of the others."""


@dataclass(frozen=True)
class LabelOptions:
    """Labelled sequences"""

    data: tuple[str, ...] = option(
        (),
        "What to learn: a GenomicBenchmarks or GUE directory, the name of a set under --root, a table (CSV, TSV, parquet) "
        "with the columns sequence and label, or a FASTA file for each class.",
        free=True,
        path="data",
    )
    valid: tuple[str, ...] = option(
        (),
        "Files of the validation split, where --data names files; without them a part of train is held out.",
        free=True,
        path="data",
    )
    test: tuple[str, ...] = option((), "Files of the test split, where --data names files.", free=True, path="data")
    root: str | None = option(
        None,
        "Directory of data sets to find by name; by default ~/.genomic_benchmarks.",
        want="a directory",
        free=True,
        path="any",
    )
    sequence_column: str = option("sequence", "Column of the sequence in a table.")
    label_column: tuple[str, ...] = option(
        ("label",), "Column of the label; several columns of 0 and 1 are a multilabel task."
    )
    split_column: str | None = option(None, "Column that says train, valid or test for each row.")
    name_column: str | None = option(
        None, "Column of the name that predictions.csv gives to a row; by default its line number."
    )
    task: Literal["auto", "binary", "multiclass", "multilabel", "regression"] = option(
        "auto", "auto decides by the labels."
    )
    min_length: int = option(0, "Fewest bases of a sequence; 0: 4, and 1 for GenomicBenchmarks directories.", least=0)
    valid_fraction: float = option(
        0.1,
        "Share of each class of train that is held out for validation, where no validation split is given.",
        above=0,
        most=0.5,
    )


@dataclass(frozen=True)
class BaseOptions:
    """Labelled bases, in place of labelled sequences"""

    annotation: str | None = option(
        None,
        "BED, GFF3, GTF, GenBank or EMBL file of features of --fasta: each base is labelled with the feature it lies in, or "
        "none. Held out by region: blocks, --bed, or --test_contigs.",
        want="a file of features",
        free=True,
        path="input",
    )
    fasta: tuple[str, ...] = option(
        (), "Genome files: FASTA, GenBank, EMBL or FASTQ, gzipped or not.", free=True, path="input"
    )
    features: tuple[str, ...] = option(
        (), "Types of features that are classes; by default CDS, for BED all names of column 4."
    )
    class_by: str | None = option(None, "Attribute that names the class of a feature, in place of its type.")
    stranded: bool = option(False, "Tell features of the two strands apart, as CDS+ and CDS-.")
    context: int = option(4096, "Bases of a window, in training and in test.", least=1)
    block: int = option(100_000, "Bases of a block; one in ten is for test, another one for validation.", least=1)
    bed: str | None = option(
        None, "BED file whose 4th column says train, valid or test.", want="a BED file", free=True, path="input"
    )
    valid_contigs: tuple[str, ...] = option((), "Contigs of the validation split, with --test_contigs.")
    test_contigs: tuple[str, ...] = option((), "Contigs of the test split.")


@dataclass(frozen=True)
class TuneOptions:
    """Model: what to start from, what to train of it, and the head"""

    model: str | None = option(
        None,
        "Directory of a pretrained model, or a Hugging Face hub id.",
        want="a model directory",
        free=True,
        path="model",
    )
    preset: str | None = option(
        None,
        "tiny, mini, small, base, large, xl, or a YAML file of model fields, in place of --model: trains from scratch.",
        want="the name of a preset",
        free=True,
        path="file",
    )
    variant: Literal["preset", "lmm", "mac", "mag", "mal"] = option(
        "preset", "Titans variant with --preset: memory alone (lmm), as context (mac), gated (mag) or as a layer (mal)."
    )
    tune: Literal["full", "frozen", "lora", "scratch"] = option(
        "full",
        "What of --model is trained: all of it, its head alone, low-rank adapters beside its weights (needs "
        "titans-dna[lora]) and the head, or all of it from new weights.",
    )
    pool: Literal["auto", "mean", "max", "mean-max", "last", "attention", "bins"] = option(
        "auto",
        "How the vectors of the bases become that of the sequence: their mean, maximum, both, last one, a learned weighted "
        "mean, or the means of --bins stretches side by side, for sequences that are all cut at the same place (as around "
        "a start site). auto: every base side by side where all sequences have one length and single positions foretell the "
        "validation rows better than the share of each base, and otherwise the mean.",
        before="mean",
    )
    bins: int = option(
        16,
        "Stretches of --pool bins, at most as many as the longest sequence has bases; a signal that stands at one base wants "
        "stretches of one base.",
        least=1,
    )
    dropout: float = option(
        0.1,
        "Dropout before the head's output layer, and with --tune full and scratch on the model's residual branches.",
        least=0,
        below=1,
    )
    hidden: int = option(0, "Width of a layer between pool and answer; 0: none.", least=0, most=1 << 20)
    kmers: bool = option(
        True,
        "Begin with a regression on counts of k-mers, and let the model learn what these do not say; of labelled sequences, "
        "read base by base.",
        before=False,
    )
    smooth: bool = option(
        True,
        "Of labelled bases: smooth the answers into segments in place of specks, at a price of a change of class that serves "
        "the validation split best.",
        before=False,
    )
    margin: int = option(
        256,
        "Of labelled bases: bases that are read on either side of a window when the model is used, and labelled by the windows "
        "beside it, so that windows overlap.",
        least=0,
        most=1 << 20,
        before=0,
    )
    lora_rank: int = option(8, "Rank of the adapters of --tune lora.", least=1)
    rc_augment: bool | None = option(
        None, "In training, read each sequence from either strand, chosen by a coin; by default as --rc.", before=True
    )
    mutate: float = option(
        0.0,
        "In training, share of bases that are replaced by random ones, afresh each time: against learning few rows by heart.",
        least=0,
        below=1,
    )
    rc: bool | None = option(
        None,
        "Read both strands. The scores of a sequence are averaged, so that it and its reverse complement have the same ones; "
        "a window of labelled bases is read from both ends, so that each base is labelled by what lies on either side of it. "
        "By default yes, unless k-mers of the given strand alone foretell the validation rows better (--kmers), or it counts "
        "where a base stands (--pool auto).",
        before=True,
        old=("rc_average", "both_strands"),
    )


@dataclass(frozen=True)
class TrainOptions:
    """Training: length, batches, optimiser"""

    epochs: float = option(
        0.0,
        f"Passes over train at most, over which the learning rate falls to a twentieth; 0: {EPOCHS}, as many as "
        f"make {FEWEST_STEPS} steps where train is small, and as many as make {MANY_STEPS:,} where it is large, but at least "
        f"{FEWEST_EPOCHS}.",
        least=0,
    )
    steps: int = option(0, "Optimiser steps at most, in place of --epochs; 0: as many as those make.", least=0)
    batch_size: int = option(
        0, "Sequences, or windows of labelled bases, per optimiser step; 0: 64 sequences, 16 windows.", least=0
    )
    batch_bases: int = option(
        32768,
        "Bases that are in memory at once; a step with more takes several passes, and its result is the same but for the "
        "draws of dropout.",
        least=1,
    )
    packed: bool = option(
        False,
        "Run the sequences of a batch end to end through the model, without padding, in place of rows of like lengths that "
        "are padded to the longest; the result is the same but for the draws of dropout.",
    )
    lr: float = option(
        0.0,
        "Highest learning rate of AdamW; 0: 2e-3, for --tune full 1e-3, for lora 2e-3 and for frozen 1e-2.",
        least=0,
    )
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "muon: Muon for the matrices of the blocks, with --tune full and scratch, and AdamW for the rest."
    )
    muon_lr: float = option(
        0.02, "Highest learning rate of Muon, which rises and falls as AdamW's does.", above=0, most=1
    )
    warmup: float = option(0.05, "Share of the steps over which the learning rate rises, linearly.", least=0, below=1)
    weight_decay: float = option(0.01, "Weight decay of matrices.", least=0)
    clip: float = option(1.0, "Largest gradient norm, larger ones are scaled down to it; 0: no clipping.", least=0)
    precision: Literal["32", "bf16-mixed"] = option("32", "Number format; bf16-mixed is the choice for recent GPUs.")
    valid_every: int = option(0, "Steps between validations; 0: half an epoch, at least 20.", least=0)
    patience: int = option(6, "Validations without a better one that end the training; 0: never.", least=0)
    monitor: Literal["loss", "metric"] = option(
        "metric", "What the best validation is best in: the loss, or MCC (multilabel: AUPRC; regression: Spearman)."
    )
    seeds: int = option(
        1,
        "Number of runs, which differ in the seed of weights, order and dropout; the data split stays the same.",
        least=1,
        free=True,
    )
    seed: int = option(0, "First seed.", least=0)
    ensemble: int = option(
        0,
        "Train so many models, which differ as --seeds has it, and write them as one whose answers are the mean of theirs; 0: "
        "the model of the best seed alone.",
        least=0,
        most=100,
        free=True,
    )

    @property
    def runs(self) -> int:
        """Number of models that are trained."""
        return self.ensemble or self.seeds

    def most_steps(self, epoch: int) -> int:
        """Optimiser steps at most, chosen where none were given; epoch: those of a pass over train."""
        most = max(MANY_STEPS, FEWEST_EPOCHS * epoch)
        chosen = self.epochs * epoch or min(max(EPOCHS * epoch, FEWEST_STEPS), most)
        return self.steps or max(1, round(chosen))

    @property
    def length(self) -> str:
        """The same in words."""
        chosen = f"{EPOCHS} epochs, of few rows {FEWEST_STEPS} steps, of many {MANY_STEPS:,} or {FEWEST_EPOCHS} epochs"
        return f"{self.steps:,} steps" if self.steps else f"{self.epochs:g} epochs" if self.epochs else chosen


@dataclass(frozen=True)
class FinetuneRunOptions:
    """Run: where to write, on which device, what to compare with"""

    out: str = option("runs/finetune", "Directory to write; must not hold another run.", want="a directory")
    baselines: tuple[str, ...] = option(
        BASELINES,
        "Which to score in the same table, of those that apply: majority, length, kmers, positions (sequences of one "
        "length), cnn, orf (coding sequence), or none.",
    )
    save_every: int = option(200, "Steps between checkpoints; each validation saves one too.", least=1)
    accelerator: Accelerator = accelerator_option("train on")
    workers: int = option(0, "Processes that prepare batches; 0 prepares them in the main process.", least=0)
    threads: int = threads_option()
    activation_checkpointing: bool = option(False, "Recompute each block in the backward pass: less memory, more time.")
    resume: bool = resume_option()


@dataclass(frozen=True)
class FinetuneOptions(Options):
    """Fine-tune a model on labelled sequences, or train one from scratch, and compare it with baselines.

    Example: titans-dna finetune --model runs/first --data train.csv --test test.csv --out runs/promoters
    """

    output: ClassVar[str] = "run"
    overridable: ClassVar[bool] = True

    labels: LabelOptions = group(LabelOptions)
    bases: BaseOptions = dataclasses.field(default_factory=BaseOptions, kw_only=True)
    tune: TuneOptions = group(TuneOptions)
    train: TrainOptions = group(TrainOptions)
    run: FinetuneRunOptions = group(FinetuneRunOptions, free=True)

    @classmethod
    def outdated(cls, given: dict[str, Any]) -> set[str]:
        """Version 0.1.0 had one option for sequences and one for bases, and wrote both down."""
        if not {"rc_average", "both_strands"} <= given.keys():
            return set()
        return {"rc_average"} if given.get("annotation") else {"both_strands"}

    @classmethod
    def upgraded(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """The presets of version 0.1.0, which knew no `kmers`, by the names that they have today."""
        renamed = f"{saved.get('preset')}-0.1.0"
        return {**saved, "preset": renamed} if "kmers" not in saved and renamed in preset_names() else saved

    def check(self) -> None:
        """ValueError for options that do not go together."""
        labels, bases, tune = self.labels, self.bases, self.tune
        if (not labels.data or "" in labels.data) and not bases.annotation:
            raise ValueError(
                "--data: got none, want a directory, a data set's name, or files; or --annotation and --fasta"
            )
        if not bases.annotation and (extra := _changed(bases, "annotation", "fasta")):
            raise ValueError(f"--{extra}: got it without --annotation, which it belongs to")
        if not bases.annotation and tune.margin not in (0, TuneOptions().margin):
            raise ValueError(f"--margin: got {tune.margin} without --annotation, which it belongs to")
        if bases.annotation and (extra := _changed(labels, "data")):
            raise ValueError(f"--{extra}: got it with --annotation, want it with --data")
        if bases.annotation and (tune.pool not in ("auto", "mean") or tune.mutate):
            raise ValueError("--pool, --mutate: got one of them with --annotation, want them with --data")
        if labels.data and bases.annotation:
            raise ValueError("--data: got it with --annotation, want sequences or bases to label, one of the two")
        if bool(bases.annotation) != bool(bases.fasta):
            raise ValueError("--annotation: got it, or --fasta, alone; want both: features and their genome")
        if bool(bases.valid_contigs) != bool(bases.test_contigs):
            raise ValueError("--valid_contigs: got it, or --test_contigs, alone; want both")
        if tune.pool == "auto" and tune.bins != TuneOptions().bins:
            raise ValueError(f"--bins: got {tune.bins} with --pool auto, want --pool bins")
        self._check_model()
        if self.train.steps and self.train.epochs:
            raise ValueError("--steps: got it with --epochs, want one of the two")
        if self.train.ensemble and self.train.seeds > 1:
            raise ValueError(
                f"--ensemble: got {self.train.ensemble} with --seeds {self.train.seeds}, want --seeds 1 or --ensemble 0"
            )
        named = self.run.baselines
        if not {*named} <= {*BASELINES, "none"} or ("none" in named and len(named) > 1):
            raise ValueError(f"--baselines: got {' '.join(named)}, want some of {', '.join(BASELINES)}, or none")

    def _check_model(self) -> None:
        tune = self.tune
        if (tune.model is None) == (tune.preset is None):
            got = "neither it nor" if tune.model is None else "it and"
            raise ValueError(
                f"--model: got {got} --preset, want one of the two: a model to start from, or the size of one to train from "
                "scratch"
            )
        if tune.preset is not None and tune.preset not in preset_names() and not Path(tune.preset).is_file():
            raise ValueError(
                f"--preset: got {tune.preset!r}, want {', '.join(preset_names())} or a YAML file of model fields"
            )
        if tune.preset is not None and tune.tune in ("frozen", "lora"):
            raise ValueError(f"--tune: got {tune.tune} with --preset, want --model: new weights need training")
        if self.train.optimizer == "muon" and tune.tune in ("frozen", "lora"):
            raise ValueError(f"--optimizer: got muon with --tune {tune.tune}, want it with full or scratch")
        if self.train.optimizer != "muon" and self.train.muon_lr != TrainOptions().muon_lr:
            raise ValueError(f"--muon_lr: got {self.train.muon_lr:g} with --optimizer adamw, want muon")
        if tune.model is not None and tune.variant != "preset":
            raise ValueError("--variant: got it with --model, which has its own; want --preset")

    @property
    def batch_size(self) -> int:
        """Sequences or windows per step, chosen where none was given."""
        return self.train.batch_size or (16 if self.bases.annotation else 64)

    @property
    def lr(self) -> float:
        """The learning rate, chosen where none was given."""
        kind = "scratch" if self.tune.preset is not None else self.tune.tune
        return self.train.lr or {"scratch": 2e-3, "full": 1e-3, "lora": 2e-3, "frozen": 1e-2}[kind]


def _changed(part: Any, *spared: str) -> str | None:
    """The first field that does not have its default."""
    for field in dataclasses.fields(part):
        if field.name not in spared and getattr(part, field.name) != field.default:
            return field.name
    return None
