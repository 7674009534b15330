"""What `titans-dna evaluate`, `predict` and `benchmark` are told, as frozen dataclasses with the names of the flags."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from titans_dna.run.options import Options
from titans_dna.tasks.data_options import LabelOptions
from titans_dna.tasks.options import FinetuneOptions, FinetuneRunOptions, TrainOptions, TuneOptions

SUITES = ("genomic_benchmarks", "GUE")


@dataclass(frozen=True)
class RowOptions:
    """Model and labelled sequences"""

    model: str = ""
    """Directory that titans-dna finetune wrote, or a Hugging Face hub id (user/name)."""
    data: tuple[str, ...] = ()
    """What to score: as for titans-dna finetune, or a part of it: a directory, the name of a set under --root, tables, or a
    FASTA file for each class. The labels are those of the model."""
    split: Literal["auto", "test", "train", "valid"] = "auto"
    """Which rows, where --data has splits; auto: test if it is there, else all."""
    root: str | None = None
    """Directory of data sets to find by name; by default ~/.genomic_benchmarks."""
    sequence_column: str = "sequence"
    """Column of the sequence in a table."""
    label_column: tuple[str, ...] = ("label",)
    """Column of the label; several columns of 0 and 1 for a multilabel model."""
    split_column: str | None = None
    """Column that says train, valid or test for each row."""
    name_column: str | None = None
    """Column of the name that predictions.csv gives to a row; by default its line number."""
    min_length: int = 0
    """Fewest bases of a sequence; 0: 4, and 1 for GenomicBenchmarks directories."""
    state: str | None = None
    """State file of titans-dna remember, of the same model: each sequence is read as what comes after it."""
    out: str = ""
    """Directory to write, new or empty."""


@dataclass(frozen=True)
class SequenceFileOptions:
    """Files: what to read, and where the predictions go"""

    model: str = ""
    """Directory that titans-dna finetune wrote, or a Hugging Face hub id (user/name)."""
    fasta: tuple[str, ...] = ()
    """Sequence files: FASTA, GenBank, EMBL or FASTQ, gzipped or not; one row for each record unless --bed says otherwise."""
    bed: str | None = None
    """BED file of intervals (0-based half-open): one row for each; column 4 is its name, and where column 6 is - the other
    strand is read."""
    state: str | None = None
    """State file of titans-dna remember, of the same model: each sequence is read as what comes after it."""
    out: str = ""
    """File to write: .csv, .tsv or .parquet; .bed for a model with an answer for each base."""
    overwrite: bool = False
    """Replace an output that exists."""


@dataclass(frozen=True)
class ScoringOptions:
    """Speed and memory: they change no prediction"""

    batch_size: int = 64
    """Sequences read side by side."""
    batch_bases: int = 131072
    """Bases that are in memory at once; a longer sequence is read in pieces."""
    workers: int = 0
    """Processes that read and tokenise; 0 does so in the main process."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("batch_bases", 1), ("workers", 0), ("threads", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name}: got {getattr(self, name)}, want at least {low}")


@dataclass(frozen=True)
class EvaluateOptions:
    """All of an evaluation. Raises ValueError naming the option, the value got and the value wanted."""

    rows: RowOptions
    scoring: ScoringOptions = field(default_factory=ScoringOptions)

    def __post_init__(self) -> None:
        for name, want in (("model", "a fine-tuned model's directory"), ("out", "a directory to write")):
            if not getattr(self.rows, name):
                raise ValueError(f"--{name}: got none, want {want}")
        if not self.rows.data or "" in self.rows.data:
            raise ValueError("--data: got none, want a directory, a data set's name, or files")
        if self.rows.state == "":
            raise ValueError("--state: got '', want a state file")
        if self.rows.min_length < 0:
            raise ValueError(f"--min_length: got {self.rows.min_length}, want at least 0")

    def resolved(self) -> EvaluateOptions:
        """Until the options are one form."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Flat plain values."""
        parts = {**vars(self.rows), **vars(self.scoring)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in parts.items()}

    def difference(self, other: dict[str, Any]) -> str | None:
        """What may not change, and has."""
        for name in ("split", "sequence_column", "label_column", "split_column", "name_column", "min_length"):
            if self.to_dict()[name] != other.get(name):
                return f"--{name}: got {self.to_dict()[name]!r}, but the run to resume has {other.get(name)!r}"
        return None


@dataclass(frozen=True)
class PredictOptions(Options):
    """All of a prediction. Raises ValueError naming the option, the value got and the value wanted."""

    files: SequenceFileOptions
    scoring: ScoringOptions = field(default_factory=ScoringOptions)

    def check(self) -> None:
        """What is wanted."""
        for name, want in (
            ("model", "a fine-tuned model's directory"),
            ("out", "a file to write: .csv, .tsv or .parquet"),
        ):
            if not getattr(self.files, name):
                raise ValueError(f"--{name}: got none, want {want}")
        if not self.files.fasta or "" in self.files.fasta:
            raise ValueError("--fasta: got none, want at least one sequence file")
        for name, want in (("bed", "a BED file"), ("state", "a state file")):
            if getattr(self.files, name) == "":
                raise ValueError(f"--{name}: got '', want {want}")


@dataclass(frozen=True)
class SuiteOptions:
    """Data sets"""

    suite: Literal["genomic_benchmarks", "GUE"] = "genomic_benchmarks"
    """genomic_benchmarks is scored by accuracy, GUE by MCC, as published."""
    root: str | None = None
    """Directory of the data sets, one or two levels deep; for genomic_benchmarks by default ~/.genomic_benchmarks."""
    only: tuple[str, ...] = ()
    """Names of the sets to run; by default all that are there."""
    sequence_column: str = "sequence"
    """Column of the sequence in a table."""
    label_column: tuple[str, ...] = ("label",)
    """Column of the label in a table."""
    min_length: int = 0
    """Fewest bases of a sequence; 0: 1 for genomic_benchmarks, whose rows stand as published, and 4 for GUE."""
    valid_fraction: float = 0.1
    """Share of each class of train that is held out for validation, where no validation split is given."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """All of a benchmark: what is fine-tuned on each set. Raises ValueError as `FinetuneOptions` does."""

    sets: SuiteOptions
    tune: TuneOptions
    train: TrainOptions
    run: FinetuneRunOptions

    def __post_init__(self) -> None:
        if self.sets.suite not in SUITES:
            raise ValueError(f"--suite: got {self.sets.suite!r}, want one of {', '.join(SUITES)}")
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

    def resolved(self) -> BenchmarkOptions:
        """Until the options are one form."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Flat plain values with absolute paths, as the command line names them."""
        values = self.of(Path("any"), Path(self.run.out)).resolved().to_dict()
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.sets).items()}
        kinds = (TuneOptions, TrainOptions, FinetuneRunOptions)
        kept = {one.name: values[one.name] for kind in kinds for one in dataclasses.fields(kind)}
        root = self.sets.root and str(Path(self.sets.root).expanduser().absolute())
        return {**plain, "root": root, **kept}

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first option that must be that of the benchmark to go on with and is not, as a message."""
        for name, value in self.to_dict().items():
            if name not in _MAY_CHANGE and value != other.get(name):
                return f"--{name}: got {value!r}, but the run to resume has {other.get(name)!r}"
        return None


# The sets themselves, and the model, are compared by fingerprint when a set's own run goes on.
_MAY_CHANGE = {"root", "only", "model", "seeds", *(one.name for one in dataclasses.fields(FinetuneRunOptions))}
