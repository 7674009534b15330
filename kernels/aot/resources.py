"""What a kernel takes on a GPU, read off what the compilers made; no device is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from typing import Any, NamedTuple

import torch
import triton
from launches import Launch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


class Target(NamedTuple):
    gpu: GPUTarget
    family: str
    """As in `configurations`."""
    shared: int
    """Bytes of shared memory that one program may have, on the poorest GPU of the family."""


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), "mma", 99 * 1024),  # so much have sm_86 and sm_89
    "sm_90": Target(GPUTarget("cuda", 90, 32), "hopper", 227 * 1024),
    "sm_90 wgmma": Target(GPUTarget("cuda", 90, 32), "wgmma", 227 * 1024),
    "sm_100": Target(GPUTarget("cuda", 100, 32), "tcgen05", 227 * 1024),
    "sm_120": Target(GPUTarget("cuda", 120, 32), "mma", 99 * 1024),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), "mfma", 64 * 1024),
}
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}
MATRIX = ("HGMMA", "UTCHMMA", "HMMA")
"""Matrix instructions of 16-bit and tf32 operands: sm_90's own, sm_100's, and what all but sm_100 have."""


class Resources(NamedTuple):
    registers: int
    """Of a thread; on AMD vector registers, accumulators among them."""
    spills: int
    """Bytes of a thread's registers that lie in memory."""
    shared: int
    """Bytes of a program."""
    matrix: str
    """Matrix instructions in the machine code."""


def resources(one: Launch, target: Target) -> Resources:
    compiled = triton.compile(source(one), target=target.gpu, options=one.options)
    read = _of_amd if target.gpu.backend == "hip" else _of_nvidia
    registers, spills, matrix = read(compiled)
    return Resources(registers, spills, compiled.metadata.shared, matrix)


def source(one: Launch) -> ASTSource:
    """The launch as Triton compiles it: tensors begin at 16 bytes, integers may be any."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list] = {}
    for i, parameter in enumerate(one.kernel.params):
        name, value = parameter.name, one.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(i,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    return ASTSource(one.kernel, signature, constants, attributes)


def _of_nvidia(compiled: Any) -> tuple[int, int, str]:
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (_run(tool, what, file.name) for what in ("--dump-resource-usage", "--dump-sass"))
    found = {key: int(number) for key, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in MATRIX}
    return found["REG"], found["STACK"] + found["LOCAL"], _written(counts)


def _of_amd(compiled: Any) -> tuple[int, int, str]:
    code = compiled.asm["amdgcn"]
    registers, spills = (
        int(re.search(rf"\.{key}:\s*(\d+)", code)[1]) for key in ("vgpr_count", "private_segment_fixed_size")
    )
    return registers, spills, _written({"MFMA": len(re.findall(r"\bv_mfma_", code))})


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _written(counts: dict[str, int]) -> str:
    return " ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"
