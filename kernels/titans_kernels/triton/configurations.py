"""Block sizes, warps and stages of each kernel, by shape and by the device's matrix instructions.

On an H100 the fastest of those that were timed (kernels/benchmarks/results/configurations_h100.md), for heads of 64; elsewhere
chosen from what the compiler reports (kernels/aot): the largest blocks that do not spill. Wider heads and longer
chunks take smaller blocks and may spill.
"""

# Triton comes without types:
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from triton import knobs

from titans_kernels.options import UNIT

from .plan import Shape


class Configuration(NamedTuple):
    block: int
    """Columns of the hidden width worked off at a time; divides it."""
    warps: int
    stages: int
    arch: str = ""
    """Whose matrix instructions are used, where they are not the device's own."""

    @property
    def launch(self) -> dict[str, int | str]:
        options: dict[str, int | str] = dict(num_warps=self.warps, num_stages=self.stages)
        return options | ({"arch": self.arch} if self.arch else {})


KERNELS = ("write", "read", "read_backward", "read_onto", "write_backward")
TABLE = {  # block, warps, stages of each, for two layers and heads of 64
    "mma": ((32, 4, 2), (16, 4, 2), (16, 4, 1), (16, 8, 1), (16, 8, 1)),
    "hopper": ((32, 4, 2), (16, 4, 2), (16, 4, 2), (16, 4, 2), (32, 4, 2)),
    "wgmma": ((64, 8, 1), (32, 4, 1), (32, 4, 1), (32, 4, 1), (64, 8, 1)),
    "tcgen05": ((64, 8, 1), (64, 8, 1), (16, 4, 1), (64, 8, 1), (64, 8, 1)),
    "mfma": ((64, 4, 1), (64, 4, 1), (32, 4, 1), (64, 4, 1), (64, 4, 1)),
}
ARCH = {"hopper": "sm80"}
"""Of the families that do without the device's own instructions."""
SOUND_PTXAS = (13, 3)
"""The first assembler of NVIDIA's that compiles Hopper's wgmma rightly where an operand stands in registers. Those before it
may reuse such registers while they are still read, or mistake an address (seen with 12.8 on an H100: wrong gradients, illegal
accesses; see triton-lang/triton#11366 and #11781, flash-linear-attention#988)."""

STEP_TILE = 2048
"""Numbers of a tile of the step, where the widths let it be so small."""
PER_THREAD = 8
"""Numbers of a tile that a thread holds: six tiles are alive at once, and two programs should fit a multiprocessor."""
UNSHARED = 4
"""At least so many, or a number would be held by several threads; a step in place needs the thread that read a number
to be the one that writes over it."""


def configuration(kernel: str, shape: Shape, device: torch.device) -> Configuration:
    """kernel: shares, write, read, read_backward, read_onto or write_backward."""
    return chosen(kernel, shape, family(device))


def family(device: torch.device) -> str:
    """Which matrix instructions are used on the device: "mma", "hopper", "wgmma", "tcgen05", or "mfma"."""
    if device.type != "cuda":
        return "wgmma"  # the interpreter: any will do
    if torch.version.hip:
        return "mfma"
    return {9: hopper, 10: lambda: "tcgen05"}.get(torch.cuda.get_device_capability(device)[0], lambda: "mma")()


@functools.cache
def hopper() -> str:
    """wgmma where the assembler that Triton uses is sound, else "hopper": the instructions of the GPUs before it, which are 1.3
    times slower here."""
    version = str(knobs.nvidia.ptxas.version).split(".")
    return "wgmma" if tuple(map(int, version[:2])) >= SOUND_PTXAS else "hopper"


def chosen(kernel: str, shape: Shape, family: str) -> Configuration:
    if kernel == "shares":
        return Configuration(0, 1, 1)
    widest = max(shape.key, shape.value, shape.tile)
    if not shape.hidden:
        few = family in ("hopper", "wgmma", "mfma") and widest <= 64
        return Configuration(0, 4 if few else 8, 1, ARCH.get(family, ""))
    block, warps, stages = TABLE[family][KERNELS.index(kernel)]
    if widest == UNIT:
        warps, stages = 2, 1
    if max(shape.key, shape.value) <= 2 * UNIT:
        block = min(block, 32)
    if widest > 64:
        block, stages = UNIT, 1
    while shape.hidden % block:
        block //= 2
    return Configuration(block, warps, stages, ARCH.get(family, ""))


def step_configuration(shapes: list[torch.Size], warp: int) -> tuple[dict[str, int], dict[str, int]]:
    """Tile sizes and launch options of a step, for a memory of layers [d_in, d_out] with d, e powers of two from 16 to 128
    and a hidden width that is a multiple of 16, on a GPU with `warp` threads a warp."""
    width, looped, value = shapes[0][0], shapes[0][1], shapes[-1][1]  # one layer is looped over its independent columns
    sides = (width, value) if len(shapes) == 2 else (width,)
    columns = min(looped & -looped, max(UNIT, STEP_TILE // max(sides)))  # so that no tile reaches past the end
    fastest = max(sides) * columns // (warp * PER_THREAD)
    allowed = min(sides) * columns // (warp * UNSHARED)
    sizes = {"D": width, "V": value, "BLOCK": columns} | ({"E": looped} if len(shapes) == 2 else {})
    return sizes, {"num_warps": max(1, min(fastest, allowed, 8)), "num_stages": 1}
