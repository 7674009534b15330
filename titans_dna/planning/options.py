"""What `titans-dna plan` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from titans_dna.config import TitansConfig
from titans_dna.planning.sizes import parse_bases, parse_bytes
from titans_dna.run.options import Accelerator, group, option, threads_option
from titans_dna.train.options import PresetOptions, model_fields, preset_option

DEFAULT_STEP = 8192
"""Bases of an optimiser step of `titans-dna pretrain` as it comes: 8 windows of 1,024."""
READ_PIECE = 4096
"""Bases a call, as `titans-dna embed` reads."""


@dataclass(frozen=True)
class PlanFlags:
    """Plan: what is to run, and on what"""

    preset: str = preset_option()
    variant: Literal["preset", "lmm", "mac", "mag", "mal"] = option(
        "preset", "Titans variant: memory alone (lmm), as context (mac), gated (mag) or as a layer (mal)."
    )
    length: str = option(
        "",
        "Bases of a training window (titans-dna pretrain --context), or of a sequence to read: 1M, 250k, 1Mi, 1048576.",
        required=True,
        want="the bases of a window, such as 1M",
    )
    work: Literal["train", "read"] = option(
        "train", "train, or read without a gradient, as embed and remember do.", name="pass"
    )
    memory: str = option(
        "", "Memory of a device: 80GB, 16GiB; empty: what this machine has available. Settings stay below 90 % of it."
    )
    devices: int = option(1, "Devices that train side by side, each with windows of its own.", least=1)
    batch_size: int = option(
        0,
        "Windows of a step on each device, read side by side or, where that does not fit, one part after the other "
        "(--accumulate); 0: as many as make 8,192 bases, at least one. With --pass read: sequences side by side, 0: one.",
        least=0,
    )
    piece: str = option(
        "auto", "Bases of a window that are worked on at a time; 0: the whole window; auto: the most that fits."
    )
    activation_checkpointing: Literal["auto", "yes", "no"] = option(
        "auto", "Run each block again in the backward; auto: where it does not fit otherwise."
    )
    bases: str = option("", "Bases to read in all, for the time of it: 3.1G; empty: none.")
    threads: int = threads_option()
    accelerator: Accelerator = option(
        "auto",
        "Device to plan for; auto takes a GPU where there is one. Figures for a GPU that is not here come from the CPU.",
    )
    no_calibration: bool = option(
        False, "Run nothing: memory from a table of what the presets took, good to a factor of two, and no time."
    )
    json: bool = option(False, "Print the same as JSON.")


@dataclass(frozen=True)
class PlanOptions(PresetOptions):
    """What a long run will need: memory, time, and the settings that fit, from a short run here.

    Example: titans-dna plan --preset small --variant lmm --length 1M --bases 3.1G
    """

    flags: PlanFlags = group(PlanFlags)
    config: TitansConfig = model_fields()

    def check(self) -> None:
        """ValueError for sizes that are none, and for options that do not go together."""
        super().check()
        _ = self.length, self.bases, self.memory, self.piece
        if self.flags.work == "read" and self.flags.activation_checkpointing == "yes":
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
