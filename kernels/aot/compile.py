"""Compiles every kernel for every target, on a machine without a device, and tabulates what each takes.

    python kernels/aot/compile.py                 compare with the committed table; status 1 where a limit is passed
    python kernels/aot/compile.py --write         write the table anew

What is compiled is what runs: the launches of a forward and a backward are recorded, not written down a second time.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[1]))
from titans_kernels.triton import launch, plan
from titans_kernels.triton.plan import Shape

TABLE = Path(__file__).with_name("resources.csv")
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163),
    "sm_90": (GPUTarget("cuda", 90, 32), 227),
    "sm_100": (GPUTarget("cuda", 100, 32), 227),
    "sm_120": (GPUTarget("cuda", 120, 32), 99),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64),
}
"""With the shared memory that one program may have, KiB."""


@dataclass(frozen=True)
class Case:
    """One call whose launches are compiled."""

    name: str
    key: int
    hidden: int
    chunk: int
    dtype: torch.dtype = torch.bfloat16
    max_norm: float = 0.0
    per_chunk: bool = False
    read: str = "after"
    untied: bool = False


BF16, F32 = torch.bfloat16, torch.float32
CASES = [
    Case("L2-d64-e128-c64", 64, 128, 64, max_norm=32.0),
    Case("L1-d64-c64", 64, 0, 64, max_norm=32.0),
]


@dataclass
class Launch:
    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]


class Recorder:
    """Stands in for a kernel and remembers how it is launched."""

    def __init__(self, kernel: Any, into: list[Launch]) -> None:
        self.kernel, self.into = kernel, into

    def __getitem__(self, grid: tuple[int, ...]):
        def run(*args: Any, num_warps: int, num_stages: int, **named: Any) -> None:
            names = self.kernel.arg_names
            bound = {**dict(zip(names, args, strict=False)), **named}
            self.into.append(Launch(self.kernel, bound, dict(num_warps=num_warps, num_stages=num_stages)))

        return run


def record(case: Case) -> list[Launch]:
    """The launches of one forward and one backward of this case, each kernel once."""
    rows, heads = 1, 2
    t = case.chunk * 2
    shape = Shape(heads, case.key, case.hidden, case.key, case.chunk, case.dtype)
    tokens = tuple(torch.zeros(rows, t, heads, case.key, dtype=case.dtype) for _ in range(3))
    gates = tuple(torch.zeros(rows, 2 if case.per_chunk else t, heads) for _ in range(3))
    anchor = torch.zeros(rows, heads, shape.weights) if case.untied else None
    sequences = plan.sequences(tokens[0], None, None, gates[0].shape[1], case.chunk, 2, case.untied, True)
    call = launch.Call(shape, sequences, tokens, gates, anchor, 2, plan.READS[case.read], case.max_norm, case.per_chunk)
    state = torch.zeros(rows, heads, 2 * shape.weights)
    launches: list[Launch] = []
    kernels = {name: x for name, x in vars(launch).items() if name.endswith("_kernel")}
    for name, kernel in kernels.items():
        setattr(launch, name, Recorder(kernel, launches))
    try:
        border = torch.zeros(rows, heads, shape.weights)
        launch.forward(call, state.repeat(2, 1, 1), tokens[0], state, border, True)
        found = [torch.zeros_like(x) for x in (*tokens, *gates)]
        launch.backward(call, state.repeat(2, 1, 1), tokens[0], state, None, found[:3], found[3:], border)
    finally:
        for name, kernel in kernels.items():
            setattr(launch, name, kernel)
    first: dict[str, Launch] = {}
    for one in launches:
        first.setdefault(one.kernel.__name__ + ("" if one.arguments.get("SAVE", True) else " again"), one)
    return [one for name, one in first.items() if not name.endswith(" again")]


TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}


def source(one: Launch) -> ASTSource:
    signature, constants, attributes = {}, {}, {}
    for i, (name, parameter) in enumerate(zip(one.kernel.arg_names, one.kernel.params, strict=True)):
        value = one.arguments[name]
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(i,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    return ASTSource(one.kernel, signature, constants, attributes)
