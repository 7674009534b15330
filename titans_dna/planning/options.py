"""What `titans-dna plan` is told; sizes as people write them: 250k, 1M, 3.1Gb, 80GB, and the way back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from titans_dna.config import TitansConfig
from titans_dna.run.options import Accelerator, group, option, threads_option
from titans_dna.train.options import PresetOptions, model_fields, preset_option

DEFAULT_STEP = 4096
"""Bases of an optimiser step of `titans-dna pretrain` as it comes: 4 windows of 1,024."""
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
        "(--accumulate); 0: as many as make 4,096 bases, at least one. With --pass read: sequences side by side, 0: one.",
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


_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bases(text: str, flag: str) -> int:
    """A number of bases: 1048576, 1,048,576, 250k, 1M, 1Mb, 3.1 Gbp (thousands), or 1Mi (1,048,576).

    Raises ValueError naming the flag for anything else, and for less than one base.
    """
    return _parse(text, flag, "b|bp|bases", "a number of bases, such as 250k, 1M, 3.1Gb, 1048576 or 1Mi")


def parse_bytes(text: str, flag: str) -> int:
    """An amount of memory: 80GB (thousands), 16GiB (1,024 each), 500M. Raises ValueError naming the flag."""
    return _parse(text, flag, "b|bytes", "an amount of memory, such as 80GB, 16GiB or 500MB")


def show_bases(n: int) -> str:
    """1,048,576, and 3.1 G from ten millions on."""
    return f"{n:,}" if n < 10**7 else _short(n, "")


def show_bytes(n: float) -> str:
    """Three digits and a unit of thousands: 4.12 GB."""
    return _short(n, "B")


def show_time(seconds: float) -> str:
    """A duration in the unit that suits it: 0.31 s, 12 min, 5.0 h, 19 days."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"), (63_072_000, 86_400, "days")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}" if seconds / unit < 10 else f"{seconds / unit:,.0f} {name}"
    return f"{seconds / 31_557_600:,.0f} years"


def _parse(text: str, flag: str, unit: str, wanted: str) -> int:
    found = re.fullmatch(rf"([0-9][0-9_,]*\.?[0-9]*)\s*([kmgt]?)(i?)({unit})?", text.strip(), re.IGNORECASE)
    if not found or (found[3] and not found[2]):
        raise ValueError(f"{flag}: got {text!r}, want {wanted}")
    number = float(re.sub("[_,]", "", found[1])) * (1024 if found[3] else 1000) ** _POWERS[found[2].lower()]
    if not 1 <= number < 1e18:
        raise ValueError(f"{flag}: got {text!r}, want {wanted}, from 1 to 10^18")
    return round(number)


def _short(n: float, unit: str) -> str:
    for power, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= power:
            return f"{n / power:.3g} {name}{unit}"
    return f"{n:.0f} {unit}".rstrip()
