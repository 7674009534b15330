"""Are the kernels right on this device? Against the chunked PyTorch path in float64, there as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from titans_kernels import MemoryState, memory_scan, memory_step

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Of ‖got − want‖ / ‖want‖, for every output, state and gradient. Set before any GPU was seen, from what rounding cost at most
in 500 tokens under the interpreter, operands rounded by hand: 8e-7, 1e-3, 4.5e-2. In 1,000 tokens a memory has faded so far
that float16 loses the smallest products: 6.3e-3, under the interpreter and on an H100 alike."""


@dataclass(frozen=True)
class Case:
    """One call, forward and backward; its inputs come from its own seed."""

    name: str
    rows: int = 2
    tokens: int = 1_000
    heads: int = 4
    key: int = 64
    hidden: int = 128
    """0 for a memory of one layer."""
    chunk: int = 64
    dtype: torch.dtype = torch.bfloat16
    read: str = "after"
    edges: bool = False
    """Gates of exactly 0 and 1 among the others."""
    max_norm: float | None = None
    per_chunk: bool = False
    lengths: tuple[int, ...] = ()
    """Of sequences packed end to end, in one row."""
    position: int | None = None
    """Where in its chunk an incoming state stands; None for no incoming state."""

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.key, self.hidden, self.key) if self.hidden else (self.key, self.key)


GOALS = [
    Case("two layers at the goal's size", rows=16, tokens=16_384, heads=8),
    Case("one layer at the goal's size", rows=16, tokens=16_384, heads=8, hidden=0),
]
"""What is timed; nothing is where one of these is wrong."""

_TWO, _ONE = Case("two layers"), Case("one layer", hidden=0)
_FLOAT32 = dict(dtype=torch.float32, tokens=333)
OTHERS = [
    replace(_TWO, name="two layers, bound, odd length", max_norm=4.0, tokens=1_001),
    replace(_TWO, name="two layers, incoming state, gates of 0 and 1", position=17, edges=True, tokens=777),
    replace(_TWO, name="two layers, packed", rows=1, tokens=2_000, lengths=(1, 63, 64, 65, 0, 1_000, 807)),
    replace(_TWO, name="two layers, float32", **_FLOAT32),
    replace(_TWO, name="two layers, float16", dtype=torch.float16),
    replace(_TWO, name="two layers, read before", read="before", edges=True),
    replace(_TWO, name="two layers, read anchor", read="anchor"),
    replace(_ONE, name="one layer, bound, odd length", max_norm=4.0, tokens=1_001),
    replace(_ONE, name="one layer, incoming state, gates of 0 and 1", position=17, edges=True, tokens=777),
    replace(_ONE, name="one layer, packed", rows=1, tokens=2_000, lengths=(1, 63, 64, 65, 0, 1_000, 807)),
    replace(_ONE, name="one layer, float32", **_FLOAT32),
    replace(_ONE, name="one layer, float16", dtype=torch.float16),
    replace(_ONE, name="one layer, read before", read="before", edges=True),
    replace(_ONE, name="one layer, read anchor", read="anchor"),
    replace(_TWO, name="two layers, one gate a chunk", per_chunk=True),
    replace(_ONE, name="one layer, one gate a chunk", per_chunk=True),
    replace(_TWO, name="two layers, float32, incoming state, bound", position=63, max_norm=4.0, **_FLOAT32),
    replace(_TWO, name="two layers, chunk 16", chunk=16),
    replace(_TWO, name="two layers, chunk 128", chunk=128),
    replace(_TWO, name="two layers, chunk 20", chunk=20),
    replace(_TWO, name="two layers, width 128, hidden 256", key=128, hidden=256),
    replace(_TWO, name="two layers, hidden 256", hidden=256),
    replace(_TWO, name="two layers, width 16, hidden 16, chunk 32", key=16, hidden=16, chunk=32),
    replace(_ONE, name="one layer, width 128, chunk 128", key=128, chunk=128),
    replace(_ONE, name="one layer, width 32, chunk 16", key=32, chunk=16),
]


class Found(NamedTuple):
    name: str
    error: float
    """The largest over all tensors."""
    tensor: str
    tolerance: float
    remark: str = ""

    @property
    def right(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


Inputs = dict[str, Tensor]


def inputs(case: Case, device: torch.device) -> tuple[Inputs, list[Tensor], MemoryState | None]:
    """Keys, queries and values of length 1, and gates that keep the memory stable, as the model's layer makes them."""
    g = torch.Generator(device).manual_seed(len(case.name) + case.tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, device=device)

    b, t, h, n = case.rows, case.tokens, case.heads, case.tokens
    if case.per_chunk:
        n = -(-((case.position or 0) + t) // case.chunk)
    tokens = (torch.nn.functional.normalize(draw(b, t, h, case.key), dim=-1).to(case.dtype) for _ in range(3))
    alpha, eta = torch.sigmoid(draw(b, n, h)) / case.chunk, torch.sigmoid(draw(b, n, h))
    theta = torch.sigmoid(draw(b, n, h)) * (1 - eta) / 4
    if case.edges:
        for gate, zeros, ones in ((alpha, 7, 97), (eta, 5, 11), (theta, 3, None)):
            gate[:, 1::zeros] = 0.0
            if ones:
                gate[:, 2::ones] = 1.0
    x = dict(zip(("q", "k", "v"), tokens, strict=True)) | dict(alpha=alpha, eta=eta, theta=theta)
    memory = [draw(h, i, o) / i**0.5 for i, o in pairwise(case.widths)]
    return x, memory, None if case.position is None else _state(case, draw)


def _state(case: Case, draw: Callable[..., Tensor]) -> MemoryState:
    rows = len(case.lengths) or case.rows
    memory, momentum, anchor = (
        tuple(draw(rows, case.heads, i, o) / i**0.5 / scale for i, o in pairwise(case.widths)) for scale in (1, 4, 1)
    )
    return MemoryState(memory, momentum, anchor, torch.full((rows,), case.position or 0))


def run(case: Case, backend: str, dtype: torch.dtype | None, device: torch.device) -> dict[str, Tensor]:
    """Every output, state and gradient, of random functions of all outputs. dtype: None for the case's own."""
    x, memory, state = inputs(case, device)
    x = {name: _leaf(value, dtype) for name, value in x.items()}
    memory = [_leaf(w, dtype) for w in memory]
    leaves = x | {f"memory {i}": w for i, w in enumerate(memory)}
    if state is not None:
        state = state.map(lambda w: _leaf(w, dtype))
        leaves |= _named(state, "incoming ")
    ends = [0, *torch.tensor(case.lengths).cumsum(0).tolist()] if case.lengths else None
    packed = None if ends is None else torch.tensor(ends, device=device)
    y, after = memory_scan(
        x["q"], x["k"], x["v"], alpha=x["alpha"], eta=x["eta"], theta=x["theta"], memory=memory, state=state,
        chunk=case.chunk, read=case.read, max_norm=case.max_norm, cu_seqlens=packed, backend=backend,
    )  # fmt: skip
    outputs = {"y": y, **_named(after, "")}
    g = torch.Generator(device).manual_seed(1)
    seeds = [torch.randn(o.shape, generator=g, device=device).to(o.dtype) for o in outputs.values()]
    found = torch.autograd.grad(list(outputs.values()), list(leaves.values()), seeds, allow_unused=True)
    gradients = {
        f"d {name}": torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }
    return {name: value.detach() for name, value in (outputs | gradients).items()}


def _leaf(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x.detach().to(dtype or x.dtype).requires_grad_()


def _named(state: MemoryState, prefix: str) -> dict[str, Tensor]:
    groups = dict(memory=state.memory, momentum=state.momentum, anchor=state.anchor)
    return {f"{prefix}{name} {i}": w for name, group in groups.items() for i, w in enumerate(group)}


def check(case: Case, device: torch.device) -> Found:
    """New memory is NaN until it is written."""
    want = run(case, "chunked", torch.float64, device)
    with poisoned():
        got = run(case, "triton", None, device)
    errors = {name: distance(got[name], want[name]) for name in want}
    return _worst(case.name, errors, TOLERANCE[case.dtype])


def _worst(name: str, errors: dict[str, float], tolerance: float, remark: str = "") -> Found:
    tensor = max(errors, key=lambda x: float("inf") if math.isnan(errors[x]) else errors[x])
    return Found(name, errors[tensor], tensor, tolerance, remark)


def distance(got: Tensor, want: Tensor) -> float:
    got, want = got.double(), want.double()
    return float((got - want).norm() / (want.norm() + 1e-6 * want.numel() ** 0.5)) if want.numel() else 0.0


class poisoned:
    """Inside, new memory is filled with NaN."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(False)


def same_bits(case: Case, device: torch.device) -> Found:
    first, second = (run(case, "triton", None, device) for _ in range(2))
    other = [name for name in first if not torch.equal(first[name], second[name])]
    return Found(f"same bits twice: {case.name}", float(len(other)), ", ".join(other), 0.0, "tensors that differ")


def decode(hidden: int, device: torch.device, rows: int, tokens: int, key: int = 64, chunk: int = 64) -> Found:
    """Token by token, replayed as a CUDA graph where there is one, against a scan of all."""
    name = f"decode, {'two layers' if hidden else 'one layer'}, {rows} sequences"
    case = Case(name, rows=rows, tokens=tokens, key=key, hidden=hidden, chunk=chunk, dtype=torch.float32)
    x, memory, _ = inputs(case, device)
    with torch.no_grad():
        q, k, v, alpha, eta, theta = (value.double() for value in x.values())
        start = [w.double() for w in memory]
        want, after = memory_scan(
            q, k, v, alpha=alpha, eta=eta, theta=theta, memory=start, chunk=chunk, backend="chunked"
        )
        got, state = _decoded(x, memory, chunk)
    errors = {"y": distance(got, want)}
    mine, others = _named(state, ""), _named(after, "")
    errors |= {tensor: distance(mine[tensor], others[tensor]) for tensor in mine}
    return _worst(name, errors, TOLERANCE[torch.float32])


def _decoded(x: Inputs, memory: list[Tensor], chunk: int) -> tuple[Tensor, MemoryState]:
    rows, tokens = x["q"].shape[:2]
    start = MemoryState.initial(memory, rows).map(lambda w: w.contiguous().clone())
    anchor = tuple(w.clone() for w in start.memory)
    state = MemoryState(start.memory, start.momentum, anchor, start.position.to(x["q"].device))
    token = {name: value[:, 0].clone() for name, value in x.items()}

    def step() -> Tensor:
        q, k, v, alpha, eta, theta = token.values()
        y, after = memory_step(
            q, k, v, alpha=alpha, eta=eta, theta=theta, state=state, chunk=chunk, inplace=True, backend="triton"
        )
        state.position.copy_(after.position)
        return y

    if x["q"].is_cuda:
        saved = [w.clone() for w in (*state.memory, *state.momentum, *state.anchor, state.position)]
        step()  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        for mine, was in zip((*state.memory, *state.momentum, *state.anchor, state.position), saved, strict=True):
            mine.copy_(was)

        def step() -> Tensor:
            graph.replay()
            return out

    ys = []
    for i in range(tokens):
        for name, value in token.items():
            value.copy_(x[name][:, i])
        ys.append(step().clone())
    return torch.stack(ys, 1), state


def large(device: torch.device, rows: int, tokens: int, heads: int = 8) -> Found:
    """q, k, v of more than 2³¹ numbers: the last row is what it is alone."""
    name = f"{rows * tokens * heads * 64:,} numbers a tensor"
    case = Case(name, rows=rows, tokens=tokens, heads=heads)
    x, memory, _ = inputs(case, device)
    results = []
    for part in (x, {name: value[-1:].clone() for name, value in x.items()}):
        leaves = {name: value.requires_grad_() for name, value in part.items()}
        q, k, v, alpha, eta, theta = leaves.values()
        y, _ = memory_scan(q, k, v, alpha=alpha, eta=eta, theta=theta, memory=memory, chunk=64, backend="triton")
        grads = torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y[-1:]).expand_as(y))
        results.append({n: v[-1].detach().clone() for n, v in zip(("y", *leaves), (y, *grads), strict=True)})
        del y, grads, leaves
    whole, alone = results
    errors = {name: distance(whole[name], alone[name]) for name in alone}
    return _worst(name, errors, 1e-3, "whole against its last row alone")


REQUIRED = [*(case.name for case in GOALS), "same bits twice", "decode two layers", "decode one layer"]
LARGE = "more than 2^31 numbers"


def names(quick: bool) -> list[str]:
    """All checks, in order of importance."""
    return [*REQUIRED, *([] if quick else [LARGE, *(case.name for case in OTHERS)])]


def perform(name: str, device: torch.device, tiny: bool) -> Found:
    """One check by its name. tiny: at a size that the interpreter can do."""
    if name == LARGE:
        return large(device, rows=2, tokens=20, heads=1) if tiny else large(device, rows=64, tokens=65_601)
    if name.startswith("decode"):
        hidden = 128 if "two" in name else 0
        return decode(hidden // 8, device, 2, 5, 16, 4) if tiny else decode(hidden, device, rows=64, tokens=130)
    if name == "same bits twice":
        return same_bits(shrunk(GOALS[0]) if tiny else replace(GOALS[0], rows=4), device)
    case = next(case for case in [*GOALS, *OTHERS] if case.name == name)
    return check(shrunk(case) if tiny else case, device)


def shrunk(case: Case) -> Case:
    return replace(
        case, rows=1, tokens=20, heads=1, key=16, hidden=min(case.hidden, 32), chunk=16,
        lengths=(3, 0, 17) if case.lengths else (), position=None if case.position is None else 5,
    )  # fmt: skip
