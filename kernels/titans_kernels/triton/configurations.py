"""Block sizes, warps and stages of each kernel, by shape. Chosen from what the compiler reports (kernels/AOT.md)."""

from __future__ import annotations

from typing import NamedTuple

from .plan import Shape


class Configuration(NamedTuple):
    block: int
    """Columns of the hidden width worked off at a time; divides it."""
    warps: int
    stages: int

    @property
    def launch(self) -> dict[str, int]:
        return dict(num_warps=self.warps, num_stages=self.stages)


def configuration(kernel: str, shape: Shape) -> Configuration:
    """kernel: shares, write, read, read_backward or write_backward."""
    if kernel == "shares":
        return Configuration(0, 1, 1)
    block = 64 if max(shape.key, shape.value) <= 64 else 32
    while shape.hidden % block:
        block //= 2
    return Configuration(block, 4 if max(shape.tile, shape.key) <= 64 else 8, 1)
