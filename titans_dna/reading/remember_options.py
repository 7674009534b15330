"""What `titans-dna remember` is told, as frozen dataclasses with the names of the flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from titans_dna.run.options import Options


@dataclass(frozen=True)
class ReadOptions:
    """Files: what to read, and where what is remembered goes"""

    model: str = ""
    """Directory that titans-dna pretrain or finetune wrote, or a Hugging Face hub id (user/name)."""
    fasta: tuple[str, ...] = ()
    """Sequence files: FASTA, GenBank, EMBL or FASTQ, gzipped or not. Their records are read one after the other, as one."""
    bed: str | None = None
    """BED file of intervals (0-based half-open) to read in place of the records, in its order; where column 6 is - the other
    strand is read."""
    state: str | None = None
    """State file to go on from, of the same model."""
    out: str = ""
    """State file to write: --state of a later remember, embed, predict or evaluate."""
    track: str | None = None
    """bedGraph file to write: bits per base along the sequence, each base predicted from all that was read before it."""
    bin: int = 1000
    """Bases of a row of the track."""
    overwrite: bool = False
    """Replace outputs that exist."""


@dataclass(frozen=True)
class ReadSpeedOptions:
    """Speed and memory: they change no number beyond rounding"""

    piece: int = 8192
    """Bases per call of the model."""
    save_every: float = 1.0
    """Minutes between the marks from which an interrupted run goes on, kept in OUT.partial; 0: none."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto takes a GPU where there is one."""


@dataclass(frozen=True)
class RememberOptions(Options):
    """All of a call. Raises ValueError naming the option, the value got and the value wanted."""

    read: ReadOptions
    speed: ReadSpeedOptions

    def check(self) -> None:
        """What is wanted."""
        read, speed = self.read, self.speed
        for name, want in (("model", "a model directory"), ("out", "a state file to write")):
            if not getattr(read, name):
                raise ValueError(f"--{name}: got none, want {want}")
        if not read.fasta or "" in read.fasta:
            raise ValueError("--fasta: got none, want at least one sequence file")
        for name, want in (("bed", "a BED file"), ("state", "a state file"), ("track", "a bedGraph file to write")):
            if getattr(read, name) == "":
                raise ValueError(f"--{name}: got '', want {want}")
        if read.bin < 1:
            raise ValueError(f"--bin: got {read.bin}, want at least 1")
        for name, value, low in (
            ("piece", speed.piece, 1),
            ("threads", speed.threads, 0),
            ("save_every", speed.save_every, 0),
        ):
            if not value >= low:
                raise ValueError(f"--{name}: got {value}, want at least {low}")
