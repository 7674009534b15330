"""The kernels' launches, recorded from real calls on the CPU: what is compiled is what runs, not a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titans_kernels import READS
from titans_kernels.triton import launch, plan
from titans_kernels.triton.configurations import chosen, step_configuration

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


class Case(NamedTuple):
    """One call whose launches are compiled."""

    name: str
    key: int
    """Width of keys and values."""
    hidden: int
    """0 for a memory of one layer."""
    chunk: int
    """0 for the decode kernel, one token at a time."""
    dtype: torch.dtype = BF16
    precision: str = "highest"
    """Of float32 products, as torch.set_float32_matmul_precision names it."""
    per_chunk: bool = False
    read: str = "after"
    untied: bool = False
    default: bool = False
    """Whether it is one of the configurations that must not spill."""
    more: bool = False
    """Whether it is compiled only when asked for."""


CASES = (
    Case("L2-d64-e128-c64", 64, 128, 64, default=True),
    Case("L1-d64-c64", 64, 0, 64, default=True),
    Case("L2-d32-e64-c64", 32, 64, 64, default=True, more=True),
    Case("L1-d32-c64", 32, 0, 64, default=True, more=True),
    Case("L2-d16-e32-c16", 16, 32, 16, default=True),
    Case("L1-d16-c16", 16, 0, 16, default=True, more=True),
    Case("L2-d64-e128-c64-fp16", 64, 128, 64, F16, default=True, more=True),
    Case("L2-d64-e128-c64-gate-a-chunk", 64, 128, 64, per_chunk=True, default=True, more=True),
    Case("L2-d64-e128-c64-untied", 64, 128, 64, untied=True, more=True),
    Case("L2-d64-e128-c64-before", 64, 128, 64, read="before", more=True),
    Case("L2-d64-e128-c64-anchor", 64, 128, 64, read="anchor", more=True),
    Case("L2-d64-e128-c64-fp32", 64, 128, 64, F32, more=True),
    Case("L2-d64-e128-c64-tf32", 64, 128, 64, F32, precision="high", more=True),
    Case("L2-d64-e256-c64", 64, 256, 64, more=True),
    Case("L2-d64-e128-c128", 64, 128, 128, more=True),
    Case("L2-d128-e256-c64", 128, 256, 64, more=True),
    Case("step-L2-d64-e128", 64, 128, 0, default=True),
    Case("step-L1-d64", 64, 0, 0, default=True, more=True),
)
ROWS, HEADS = 2, 3
MAX_NORM = 32.0


class Launch(NamedTuple):
    kernel: Any
    arguments: dict[str, Any]
    """By name, constants among them."""
    options: dict[str, Any]
    """num_warps, num_stages, and arch where it is another than the device's."""

    @property
    def constants(self) -> dict[str, Any]:
        return {p.name: self.arguments[p.name] for p in self.kernel.params if p.is_constexpr}

    @property
    def name(self) -> str:
        """The kernel's; of those that the backward runs once more, otherwise, "… again"."""
        again = " again" if self.constants.get("SAVE") is False or self.constants.get("KEEP_H") else ""
        return self.kernel.__name__.removesuffix("_kernel") + again

    @property
    def block(self) -> int:
        """Columns of the hidden width worked off at a time; of the decode kernel, columns of a tile; 0: all."""
        return self.constants.get("BE", self.constants.get("BLOCK", 0))


def record(case: Case, family: str, warp: int) -> list[Launch]:
    """The launches of one forward and one backward of this case, or of one step; each that differs in kernel or
    constants once. family: as in `configurations`; warp: threads of one."""
    launches: list[Launch] = []
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(case.precision)
    try:
        if case.chunk:
            with _instead(launch, launches, configuration=lambda kernel, shape, device: chosen(kernel, shape, family)):
                _scan(case)
        else:
            with _instead(launch, launches, step_configuration=lambda shapes, _: step_configuration(shapes, warp)):
                _step(case)
    finally:
        torch.set_float32_matmul_precision(before)
    different = {(one.kernel.__name__, *one.constants.items()): one for one in launches}
    return [one for one in different.values() if one.constants.get("UNTIED", case.untied) == case.untied]


def _scan(case: Case) -> None:
    shape = plan.Shape(HEADS, case.key, case.hidden, case.key, case.chunk, case.dtype)
    t = 2 * case.chunk
    tokens = tuple(torch.zeros(ROWS, t, HEADS, case.key, dtype=case.dtype) for _ in range(3))
    gates = tuple(torch.zeros(ROWS, 2 if case.per_chunk else t, HEADS) for _ in range(3))
    anchor = torch.zeros(ROWS, HEADS, shape.weights) if case.untied else None
    sequences = plan.sequences(tokens[0], None, None, gates[0].shape[1], case.chunk, 1, case.untied, True)
    call = launch.Call(shape, sequences, tokens, gates, anchor, 1, READS.index(case.read), MAX_NORM, case.per_chunk)
    state, kept = torch.zeros(ROWS, HEADS, 2 * shape.weights), torch.zeros(3 * ROWS, HEADS, 2 * shape.weights)
    border = torch.zeros(ROWS, HEADS, shape.weights)
    launch.forward(call, kept, tokens[0], state, border, True)
    found = [torch.zeros_like(x) for x in (*tokens, *gates)]
    launch.backward(call, kept, tokens[0], state, None, found[:3], found[3:], border)


def _step(case: Case) -> None:
    widths = [case.key, case.hidden, case.key] if case.hidden else [case.key, case.key]

    def weights() -> list[Tensor]:
        return [torch.zeros(ROWS, HEADS, i, o) for i, o in pairwise(widths)]

    tokens = tuple(torch.zeros(ROWS, HEADS, case.key, dtype=case.dtype) for _ in range(3))
    gates = tuple(torch.zeros(ROWS, HEADS) for _ in range(3))
    state = (weights(), weights(), weights())
    position = torch.zeros(ROWS, dtype=torch.int64)
    launch.step(tokens, gates, state, state, tokens[0], position, "rows", case.read, MAX_NORM)


@contextmanager
def _instead(module: Any, launches: list[Launch], **replaced: Callable) -> Iterator[None]:
    """Names of a module stand for something else meanwhile: its kernels for recorders."""
    kernels = {name: x for name, x in vars(module).items() if name.endswith("_kernel")}
    originals = kernels | {name: getattr(module, name) for name in replaced}
    for name, kernel in kernels.items():
        setattr(module, name, _Recorder(kernel, launches))
    for name, stand_in in replaced.items():
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


class _Recorder:
    """Stands in for a kernel and remembers how it is launched."""

    def __init__(self, kernel: Any, into: list[Launch]) -> None:
        self.kernel, self.into = kernel, into

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*args: Any, **named: Any) -> None:
            options = {name: named.pop(name) for name in ("num_warps", "num_stages", "arch") if name in named}
            arguments = dict(zip(self.kernel.arg_names, args, strict=False)) | named
            self.into.append(Launch(self.kernel, arguments, options))

        return run
