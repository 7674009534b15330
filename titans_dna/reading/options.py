"""What is read, and what is kept of it: embed keeps vectors, remember keeps a state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from titans_dna.run.options import (
    Accelerator,
    Options,
    accelerator_option,
    group,
    option,
    resume_option,
    threads_option,
)


def model_option(what: str, want: str = "a model directory") -> Any:
    """The field `model: str`; what: a directory there may be, such as `that titans-dna pretrain wrote`."""
    said = f"Directory {what}, or a Hugging Face hub id (user/name)."
    return option("", said, required=True, want=want, free=True, path="model")


def fasta_option(more: str) -> Any:
    """The field `fasta: tuple[str, ...]`; more: how its records are taken."""
    said = f"Sequence files: FASTA, GenBank, EMBL or FASTQ, gzipped or not{more}"
    return option((), said, required=True, want="at least one sequence file", free=True, path="input")


def bed_option(said: str) -> Any:
    """The field `bed: str | None`."""
    return option(None, said, want="a BED file", free=True, path="input")


def state_option(
    said: str = "State file of titans-dna remember, of the same model: each sequence is read as what comes after it.",
) -> Any:
    """The field `state: str | None`."""
    return option(None, said, want="a state file", free=True, path="input")


def out_option(said: str, want: str) -> Any:
    """The field `out: str` of a verb whose output has no usual name."""
    return option("", said, required=True, want=want, free=True)


@dataclass(frozen=True)
class FileOptions:
    """Files: what to read, and where the vectors go"""

    model: str = model_option("that titans-dna pretrain wrote")
    fasta: tuple[str, ...] = fasta_option("; one vector for each record unless --bed says otherwise.")
    bed: str | None = bed_option(
        "BED file of intervals (0-based half-open): one vector for each; column 4 is its name, and where column 6 is - the "
        "other strand is read."
    )
    state: str | None = state_option()
    out: str = out_option(
        "File to write: .npy (with names and coordinates in a .tsv beside it), .parquet or .h5.",
        "a file to write: .npy, .parquet or .h5",
    )
    overwrite: bool = option(False, "Replace an output that exists.", free=True)
    resume: bool = resume_option()


@dataclass(frozen=True)
class VectorOptions:
    """Vectors: what of the model's states is kept"""

    pool: Literal["mean", "max", "last", "none"] = option(
        "mean",
        "Over the bases of a sequence: their mean, their maximum, the last one, or none: one vector for each base.",
    )
    layer: int = option(-1, "Block whose output is taken, from 0; -1: the last one, after the last norm.")
    rc: bool = option(False, "Average the vectors of both strands.")


@dataclass(frozen=True)
class SpeedOptions:
    """Speed and memory: they change no vector"""

    batch_size: int = option(8, "Sequences read side by side.", least=1)
    piece: int = option(
        4096,
        "Bases of each sequence per call of the model; what a long sequence needs in memory grows with it.",
        least=1,
    )
    workers: int = option(0, "Processes that read and tokenise; 0 does so in the main process.", least=0)
    threads: int = threads_option()
    accelerator: Accelerator = accelerator_option()


@dataclass(frozen=True)
class EmbedOptions(Options):
    """Turn sequences into vectors with a trained model.

    Example: titans-dna embed --model runs/first --fasta genome.fa --bed genes.bed --out genes.npy
    """

    output: ClassVar[str] = "file"

    files: FileOptions = group(FileOptions)
    vectors: VectorOptions = group(VectorOptions)
    speed: SpeedOptions = group(SpeedOptions, free=True)


@dataclass(frozen=True)
class ReadOptions:
    """Files: what to read, and where what is remembered goes"""

    model: str = model_option("that titans-dna pretrain or finetune wrote")
    fasta: tuple[str, ...] = fasta_option(". Their records are read one after the other, as one.")
    bed: str | None = bed_option(
        "BED file of intervals (0-based half-open) to read in place of the records, in its order; where column 6 is - the "
        "other strand is read."
    )
    state: str | None = state_option("State file to go on from, of the same model.")
    out: str = out_option(
        "State file to write: --state of a later remember, embed, predict or evaluate.", "a state file to write"
    )
    track: str | None = option(
        None,
        "bedGraph file to write: bits per base along the sequence, each base predicted from all that was read before it.",
        want="a bedGraph file to write",
        free=True,
        path="new",
    )
    bin: int = option(1000, "Bases of a row of the track.", least=1)
    overwrite: bool = option(False, "Replace outputs that exist.", free=True)
    resume: bool = resume_option()


@dataclass(frozen=True)
class ReadSpeedOptions:
    """Speed and memory: they change no number beyond rounding"""

    piece: int = option(8192, "Bases per call of the model.", least=1)
    save_every: float = option(
        1.0,
        "Minutes between the marks from which an interrupted run goes on, kept in OUT.partial; 0: none.",
        least=0,
        most=math.inf,
    )
    threads: int = threads_option()
    accelerator: Accelerator = accelerator_option()


@dataclass(frozen=True)
class RememberOptions(Options):
    """Read sequence of any length, in constant memory, and keep what the model remembers in a file.

    Example: titans-dna remember --model runs/first --fasta chr1.fa --out chr1.state --track chr1.bedgraph
    """

    output: ClassVar[str] = "file"

    read: ReadOptions = group(ReadOptions)
    speed: ReadSpeedOptions = group(ReadSpeedOptions, free=True)
