"""What `titans-dna embed` is told, as frozen dataclasses with the names of the flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from titans_dna.run.options import Options


@dataclass(frozen=True)
class FileOptions:
    """Files: what to read, and where the vectors go"""

    model: str = ""
    """Directory that titans-dna pretrain wrote, or a Hugging Face hub id (user/name)."""
    fasta: tuple[str, ...] = ()
    """Sequence files: FASTA, GenBank, EMBL or FASTQ, gzipped or not; one vector for each record unless --bed says
    otherwise."""
    bed: str | None = None
    """BED file of intervals (0-based half-open): one vector for each; column 4 is its name, and where column 6 is - the
    other strand is read."""
    state: str | None = None
    """State file of titans-dna remember, of the same model: each sequence is read as what comes after it."""
    out: str = ""
    """File to write: .npy (with names and coordinates in a .tsv beside it), .parquet or .h5."""
    overwrite: bool = False
    """Replace an output that exists."""


@dataclass(frozen=True)
class VectorOptions:
    """Vectors: what of the model's states is kept"""

    pool: Literal["mean", "max", "last", "none"] = "mean"
    """Over the bases of a sequence: their mean, their maximum, the last one, or none: one vector for each base."""
    layer: int = -1
    """Block whose output is taken, from 0; -1: the last one, after the last norm."""
    rc: bool = False
    """Average the vectors of both strands."""


@dataclass(frozen=True)
class SpeedOptions:
    """Speed and memory: they change no vector"""

    batch_size: int = 8
    """Sequences read side by side."""
    piece: int = 4096
    """Bases of each sequence per call of the model; what a long sequence needs in memory grows with it."""
    workers: int = 0
    """Processes that read and tokenise; 0 does so in the main process."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto takes a GPU where there is one."""


@dataclass(frozen=True)
class EmbedOptions(Options):
    """All of a call. Raises ValueError naming the option, the value got and the value wanted."""

    files: FileOptions
    vectors: VectorOptions
    speed: SpeedOptions

    def check(self) -> None:
        """What is wanted."""
        for name, want in (("model", "a model directory"), ("out", "a file to write: .npy, .parquet or .h5")):
            if not getattr(self.files, name):
                raise ValueError(f"--{name}: got none, want {want}")
        if not self.files.fasta or "" in self.files.fasta:
            raise ValueError("--fasta: got none, want at least one sequence file")
        for name, want in (("bed", "a BED file"), ("state", "a state file")):
            if getattr(self.files, name) == "":
                raise ValueError(f"--{name}: got '', want {want}")
        for name, low in (("batch_size", 1), ("piece", 1), ("workers", 0), ("threads", 0)):
            if getattr(self.speed, name) < low:
                raise ValueError(f"--{name}: got {getattr(self.speed, name)}, want at least {low}")
