"""What is done with a fine-tuned model, and with a suite of data sets: evaluate, predict, benchmark."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from titans_dna.reading.options import bed_option, fasta_option, model_option, out_option, state_option
from titans_dna.run.options import (
    Accelerator,
    Options,
    accelerator_option,
    group,
    option,
    resume_option,
    threads_option,
)
from titans_dna.tasks.options import FinetuneOptions, FinetuneRunOptions, LabelOptions, TrainOptions, TuneOptions


@dataclass(frozen=True)
class RowOptions:
    """Model and labelled sequences"""

    model: str = model_option("that titans-dna finetune wrote", "a fine-tuned model's directory")
    data: tuple[str, ...] = option(
        (),
        "What to score: as for titans-dna finetune, or a part of it: a directory, the name of a set under --root, tables, or "
        "a FASTA file for each class. The labels are those of the model.",
        required=True,
        want="a directory, a data set's name, or files",
        free=True,
        path="data",
    )
    split: Literal["auto", "test", "train", "valid"] = option(
        "auto", "Which rows, where --data has splits; auto: test if it is there, else all."
    )
    root: str | None = option(
        None,
        "Directory of data sets to find by name; by default ~/.genomic_benchmarks.",
        want="a directory",
        free=True,
        path="any",
    )
    sequence_column: str = option("sequence", "Column of the sequence in a table.")
    label_column: tuple[str, ...] = option(
        ("label",), "Column of the label; several columns of 0 and 1 for a multilabel model."
    )
    split_column: str | None = option(None, "Column that says train, valid or test for each row.")
    name_column: str | None = option(
        None, "Column of the name that predictions.csv gives to a row; by default its line number."
    )
    min_length: int = option(0, "Fewest bases of a sequence; 0: 4, and 1 for GenomicBenchmarks directories.", least=0)
    state: str | None = state_option()
    out: str = out_option("Directory to write, new or empty.", "a directory to write")
    resume: bool = resume_option()


@dataclass(frozen=True)
class SequenceFileOptions:
    """Files: what to read, and where the predictions go"""

    model: str = model_option("that titans-dna finetune wrote", "a fine-tuned model's directory")
    fasta: tuple[str, ...] = fasta_option("; one row for each record unless --bed says otherwise.")
    bed: str | None = bed_option(
        "BED file of intervals (0-based half-open): one row for each; column 4 is its name, and where column 6 is - the "
        "other strand is read."
    )
    state: str | None = state_option()
    out: str = out_option(
        "File to write: .csv, .tsv or .parquet; .bed for a model with an answer for each base.",
        "a file to write: .csv, .tsv or .parquet",
    )
    overwrite: bool = option(False, "Replace an output that exists.", free=True)
    resume: bool = resume_option()


@dataclass(frozen=True)
class ScoringOptions:
    """Speed and memory: they change no prediction"""

    batch_size: int = option(64, "Sequences read side by side.", least=1)
    batch_bases: int = option(131072, "Bases that are in memory at once; a longer sequence is read in pieces.", least=1)
    workers: int = option(0, "Processes that read and tokenise; 0 does so in the main process.", least=0)
    threads: int = threads_option()
    accelerator: Accelerator = accelerator_option()


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """Score a fine-tuned model on labelled sequences, by its own label map.

    Example: titans-dna evaluate --model runs/promoters --data other.csv --out runs/promoters-other
    """

    output: ClassVar[str] = "whole"

    rows: RowOptions = group(RowOptions)
    scoring: ScoringOptions = group(ScoringOptions, free=True)


@dataclass(frozen=True)
class PredictOptions(Options):
    """Classes and probabilities, or values, of sequences from a fine-tuned model.

    Example: titans-dna predict --model runs/promoters --fasta genome.fa --bed windows.bed --out promoters.csv
    """

    output: ClassVar[str] = "file"

    files: SequenceFileOptions = group(SequenceFileOptions)
    scoring: ScoringOptions = group(ScoringOptions, free=True)


@dataclass(frozen=True)
class SuiteOptions:
    """Data sets"""

    suite: Literal["genomic_benchmarks", "GUE"] = option(
        "genomic_benchmarks", "genomic_benchmarks is scored by accuracy, GUE by MCC, as published."
    )
    root: str | None = option(
        None,
        "Directory of the data sets, one or two levels deep; for genomic_benchmarks by default ~/.genomic_benchmarks.",
        want="a directory",
        free=True,
        path="any",
    )
    only: tuple[str, ...] = option((), "Names of the sets to run; by default all that are there.", free=True)
    sequence_column: str = option("sequence", "Column of the sequence in a table.")
    label_column: tuple[str, ...] = option(("label",), "Column of the label in a table.")
    min_length: int = option(
        0,
        "Fewest bases of a sequence; 0: 1 for genomic_benchmarks, whose rows stand as published, and 4 for GUE.",
        least=0,
    )
    valid_fraction: float = option(
        0.1,
        "Share of each class of train that is held out for validation, where no validation split is given.",
        above=0,
        most=0.5,
    )


@dataclass(frozen=True)
class SuiteRunOptions(FinetuneRunOptions):
    """Run: where to write, on which device, what to compare with"""

    out: str = option("runs/benchmark", "Directory to write; must not hold another run.", want="a directory")


@dataclass(frozen=True)
class BenchmarkOptions(Options):
    """Run the same fine-tuning on every data set of a suite, and put the results beside the published ones.

    Example: titans-dna benchmark --suite GUE --root GUE --model runs/first --seeds 5 --out runs/gue
    """

    output: ClassVar[str] = "run"
    record: ClassVar[str] = "benchmark.yaml"

    sets: SuiteOptions = group(SuiteOptions)
    tune: TuneOptions = group(TuneOptions)
    train: TrainOptions = group(TrainOptions)
    run: SuiteRunOptions = group(SuiteRunOptions, free=True)

    @classmethod
    def upgraded(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """As `FinetuneOptions` has it."""
        return FinetuneOptions.upgraded(saved)

    def check(self) -> None:
        """ValueError as `FinetuneOptions` has it for the run of each set."""
        if self.sets.suite != "genomic_benchmarks" and not self.sets.root:
            raise ValueError(f"--root: got none, want the directory that holds the sets of {self.sets.suite}")
        self.of(Path("any"), Path(self.run.out))

    def of(self, data: Path, out: Path) -> FinetuneOptions:
        """The fine-tuning run of one data set."""
        sets = self.sets
        shortest = sets.min_length or (1 if sets.suite == "genomic_benchmarks" else 0)
        labels = LabelOptions(
            data=(str(data),),
            sequence_column=sets.sequence_column,
            label_column=sets.label_column,
            min_length=shortest,
            valid_fraction=sets.valid_fraction,
        )
        return FinetuneOptions(labels, self.tune, self.train, dataclasses.replace(self.run, out=str(out)))
