"""Block sizes, warps and stages of each kernel, by shape. Chosen from what the compiler reports (kernels/AOT.md)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .plan import Shape


class Configuration(NamedTuple):
    block: int
    """Columns of the hidden width worked off at a time; divides it."""
    warps: int
    stages: int

    @property
    def launch(self) -> dict[str, int]:
        return dict(num_warps=self.warps, num_stages=self.stages)


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
    blocks = {"write": 64, "read": 32, "read_backward": 16, "read_onto": 64, "write_backward": 16}
    block = blocks[kernel]
    while shape.hidden % block:
        block //= 2
    return Configuration(block, 4 if kernel == "read_backward" else 8, 1)
