"""What `titans-dna plan` is told, as a frozen dataclass with the names of the flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from titans_dna.config import TitansConfig, preset_names
from titans_dna.planning.sizes import parse_bases, parse_bytes

DEFAULT_STEP = 8192
"""Bases of an optimiser step of `titans-dna pretrain` as it comes: 8 windows of 1,024."""
READ_PIECE = 4096
"""Tokens a call, as `titans-dna embed` reads."""


@dataclass(frozen=True)
class PlanFlags:
    """Plan: what is to run, and on what"""

    preset: str = "small"
    """tiny (tests), mini (0.12 M parameters), small (0.5 M), base (7 M), large (170 M) or xl (400 M)."""
    variant: Literal["preset", "lmm", "mac", "mag", "mal"] = "preset"
    """Titans variant: memory alone (lmm), as context (mac), gated (mag) or as a layer (mal)."""
    length: str = ""
    """Bases of a training window (titans-dna pretrain --context), or of a sequence to read: 1M, 250k, 1Mi, 1048576."""
    work: Literal["train", "read"] = "train"
    """train, or read without a gradient, as embed and remember do."""
    memory: str = ""
    """Memory of a device: 80GB, 16GiB; empty: what this machine has available. Settings stay below 90 % of it."""
    devices: int = 1
    """Devices that train side by side, each with windows of its own."""
    batch_size: int = 0
    """Windows of a step on each device, read side by side or, where that does not fit, one part after the other
    (--accumulate); 0: as many as make 8,192 bases, at least one. With --pass read: sequences side by side, 0: one."""
    piece: str = "auto"
    """Bases of a window that are worked on at a time; 0: the whole window; auto: the most that fits."""
    activation_checkpointing: Literal["auto", "yes", "no"] = "auto"
    """Run each block again in the backward; auto: where it does not fit otherwise."""
    bases: str = ""
    """Bases to read in all, for the time of it: 3.1G; empty: none."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to plan for; auto takes a GPU where there is one. Figures for a GPU that is not here come from the CPU."""
    no_calibration: bool = False
    """Run nothing: memory from a table of what the presets took, good to a factor of two, and no time."""
    json: bool = False
    """Print the same as JSON."""


@dataclass(frozen=True)
class PlanOptions:
    """All of a call. Raises ValueError naming the option, the value got and the value wanted."""

    flags: PlanFlags
    config: TitansConfig

    def __post_init__(self) -> None:
        flags = self.flags
        if flags.preset not in preset_names():
            raise ValueError(f"--preset: got {flags.preset!r}, want one of {', '.join(preset_names())}")
        if not flags.length:
            raise ValueError("--length: got none, want the bases of a window, such as 1M")
        for name, low in (("devices", 1), ("batch_size", 0), ("threads", 0)):
            if getattr(flags, name) < low:
                raise ValueError(f"--{name}: got {getattr(flags, name)}, want at least {low}")
        _ = self.length, self.bases, self.memory, self.piece
        if flags.work == "read" and flags.activation_checkpointing == "yes":
            raise ValueError("--activation_checkpointing: got yes with --pass read, want it with --pass train")

    @property
    def length(self) -> int:
        """Bases of a window."""
        return parse_bases(self.flags.length, "--length")

    @property
    def bases(self) -> int:
        """Bases to read in all; 0 where none were named."""
        return parse_bases(self.flags.bases, "--bases") if self.flags.bases else 0

    @property
    def memory(self) -> int:
        """Bytes of a device; 0 where none were named."""
        return parse_bytes(self.flags.memory, "--memory") if self.flags.memory else 0

    @property
    def piece(self) -> int | None:
        """Bases of a piece, 0 for the whole window; None for auto."""
        text = self.flags.piece
        if text == "auto":
            return None
        return 0 if text == "0" else min(parse_bases(text, "--piece"), self.length)

    @property
    def windows(self) -> int:
        """Windows of a step on one device."""
        default = 1 if self.flags.work == "read" else -(-DEFAULT_STEP // self.length)
        return self.flags.batch_size or default
