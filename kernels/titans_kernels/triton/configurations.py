"""Block sizes, warps and stages of each kernel, by shape and by the device's matrix instructions.

Chosen from what the compiler reports (kernels/aot): the largest blocks that do not spill at the default shapes, whose
heads are 64 wide; no device has timed them. Wider heads and longer chunks take smaller blocks and may spill.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from titans_kernels.options import UNIT

from .plan import Shape


class Configuration(NamedTuple):
    block: int
    """Columns of the hidden width worked off at a time; divides it."""
    warps: int
    stages: int

    @property
    def launch(self) -> dict[str, int]:
        return dict(num_warps=self.warps, num_stages=self.stages)


KERNELS = ("write", "read", "read_backward", "read_onto", "write_backward")
TABLE = {  # block, warps, stages of each, for two layers and heads of 64
    "mma": ((32, 4, 2), (16, 4, 2), (16, 4, 1), (16, 8, 1), (16, 8, 1)),
    "wgmma": ((64, 8, 1), (64, 8, 1), (16, 8, 1), (64, 8, 1), (16, 8, 1)),
    "tcgen05": ((64, 8, 1), (64, 8, 1), (16, 4, 1), (64, 8, 1), (64, 8, 1)),
    "mfma": ((64, 4, 1), (64, 4, 1), (32, 4, 1), (64, 4, 1), (64, 4, 1)),
}

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
    """Which matrix instructions the device has: "mma", "wgmma", "tcgen05", or "mfma"."""
    if device.type != "cuda":
        return "wgmma"  # the interpreter: any will do
    if torch.version.hip:
        return "mfma"
    return {9: "wgmma", 10: "tcgen05"}.get(torch.cuda.get_device_capability(device)[0], "mma")


def chosen(kernel: str, shape: Shape, family: str) -> Configuration:
    if kernel == "shares":
        return Configuration(0, 1, 1)
    widest = max(shape.key, shape.value, shape.tile)
    if not shape.hidden:
        return Configuration(0, 4 if family == "mfma" and widest <= 64 else 8, 1)
    block, warps, stages = TABLE[family][KERNELS.index(kernel)]
    if widest == UNIT:
        warps, stages = 2, 1
    if max(shape.key, shape.value) <= 2 * UNIT:
        block = min(block, 32)
    if widest > 64:
        block, stages = UNIT, 1
    while shape.hidden % block:
        block //= 2
    return Configuration(block, warps, stages)


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
