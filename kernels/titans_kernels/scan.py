"""`memory_scan`: check the arguments, choose a path, run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .chunked import chunked_scan
from .options import BACKENDS, CHUNK, DEEPEST
from .reference import reference_scan
from .state import GROUPS, MemoryState, concatenate, integers
from .support import check_options, check_transforms, exact, fail, obstacle, say_once

Path = Callable[..., tuple[Tensor, MemoryState]]
_PATHS: dict[str, Path] = {"reference": reference_scan, "chunked": chunked_scan}


def memory_scan(
    q: Tensor, k: Tensor, v: Tensor, *, alpha: Tensor, eta: Tensor, theta: Tensor, memory: Sequence[Tensor],
    state: MemoryState | None = None, chunk: int = CHUNK, read: str = "after", cu_seqlens: Tensor | None = None,
    backend: str = "auto", max_norm: float | None = None,
) -> tuple[Tensor, MemoryState]:  # fmt: skip
    """Write every token into the neural memory and read each token's own memory (arXiv 2501.00663, eqs. 12-16).

    q, k: [b, t, h, d]; v: [b, t, h, e].
    alpha, eta, theta: forget gate in [0, 1], momentum decay in [0, 1], inner learning rate >= 0; [b, t, h] per token,
        or [b, n, h] with one value for each of the n chunks that the tokens lie in (cheaper).
    memory: M_0, one tensor [h, d_in, d_out] per layer of the memory MLP, 1 to 4 layers, d → … → e.
    state: what an earlier call returned; the sequence goes on exactly, wherever it was cut. None starts from M_0.
    chunk: tokens that share one anchor; 1 is fully online.
    read: the memory that y_t sees: "after" M_t, "before" M_{t-1}, "anchor" the chunk's first.
    cu_seqlens: int [n + 1] with b = 1: n sequences packed end to end, 0 = cu_seqlens[0] <= … <= cu_seqlens[n] = t.
        Each gives exactly what it gives alone, and has its own row in the state. Gates per chunk are then laid end to
        end as well, each sequence with its own chunks.
    backend: "reference" (token by token), "chunked" (PyTorch), "triton" (kernels, on a GPU or under Triton's
        interpreter), or "auto": the kernels on a GPU, for what they support, else "chunked", saying why.
    max_norm: when given, M and S are scaled back, layer by layer, to this Frobenius norm at chunk ends when over it.

    Returns y [b, t, h, e] in v's dtype, and the state after the last token (float32, or float64 for float64 input).
    Raises ValueError naming the argument. Gradients flow to every tensor, the states included; of second derivatives,
    forward-mode ones, batched ones and the transforms of torch.func, NotImplementedError for all but the reference.
    Tensors without data (meta, fake) give such tensors; a sequence then begins at a chunk's first token.
    """
    _check_tensors(q, k, v, memory)
    backend = _choose(backend, q, k, v, memory, chunk)
    check_transforms(backend)
    check_options(chunk, read, max_norm)
    b, t = q.shape[:2]
    rows = b if cu_seqlens is None else _packed_rows(b, cu_seqlens)
    fresh = state is None
    if state is None:
        state = MemoryState.initial([w.to(_state_dtype(q)) for w in memory], rows)
    gates = (alpha, eta, theta)
    with exact(q.device):
        if backend == "triton":
            if torch.compiler.is_compiling():  # the checks read the numbers in tensors
                per_chunk = alpha.shape[1] != t
            else:
                per_chunk = _place(q, gates, memory, state, chunk, cu_seqlens).per_chunk
            if t == 0:
                return v.new_zeros(v.shape), state
            from .triton.scan import triton_scan

            return triton_scan(q, k, v, *gates, state, chunk, read, max_norm, cu_seqlens, per_chunk, fresh)
        path, place = _PATHS[backend], _place(q, gates, memory, state, chunk, cu_seqlens)
        if t == 0:
            return v.new_zeros(v.shape), state
        if cu_seqlens is None and len(set(place.positions)) == 1:
            return path(q, k, v, *gates, state, chunk, read, max_norm)
        cut_gates = [_split(x, place.sequences, place.chunks if place.per_chunk else None) for x in gates]
        tokens = [_split(x, place.sequences, None) for x in (q, k, v)]
        y, state = _run_alike(path, [*tokens, *cut_gates], place.positions, state, chunk, read, max_norm)
    return (torch.stack(y) if cu_seqlens is None else torch.cat(y)[None]), state


def _state_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


class _Place(NamedTuple):
    """Where the sequences of a call lie, and where each begins in its chunk; chunks: how many its tokens lie in."""

    sequences: list[_Sequence]
    positions: list[int]
    chunks: list[int]
    per_chunk: bool


def _place(
    q: Tensor, gates: tuple[Tensor, ...], memory: Sequence[Tensor], state: MemoryState, chunk: int,
    cu_seqlens: Tensor | None,
) -> _Place:  # fmt: skip
    sequences = _cut(q.shape[0], q.shape[1], cu_seqlens)
    _check_state(state, memory, len(sequences), chunk, _state_dtype(q))
    positions = integers(state.position)
    chunks = [-(-(p + s.length) // chunk) if s.length else 0 for p, s in zip(positions, sequences, strict=True)]
    return _Place(sequences, positions, chunks, _check_gates(q, gates, chunks, packed=cu_seqlens is not None))


class _Sequence(NamedTuple):
    """Tokens start … start + length of row `row` of the input."""

    row: int
    start: int
    length: int


def _packed_rows(b: int, cu_seqlens: Tensor) -> int:
    if cu_seqlens.ndim != 1 or cu_seqlens.is_floating_point() or len(cu_seqlens) < 2:
        fail("cu_seqlens", f"{cu_seqlens.dtype} {list(cu_seqlens.shape)}", "integers [n + 1], n at least 1")
    if b != 1:
        fail("cu_seqlens", f"a batch of {b}", "a batch of 1 with the sequences end to end")
    return len(cu_seqlens) - 1


def _cut(b: int, t: int, cu_seqlens: Tensor | None) -> list[_Sequence]:
    if cu_seqlens is None:
        return [_Sequence(row, 0, t) for row in range(b)]
    ends = integers(cu_seqlens)
    if ends[0] != 0 or ends[-1] != t or any(i > j for i, j in pairwise(ends)):
        fail("cu_seqlens", ends, f"0 first, never falling, {t} (the number of tokens) last")
    return [_Sequence(0, i, j - i) for i, j in pairwise(ends)]


def _split(x: Tensor, sequences: list[_Sequence], chunks: list[int] | None) -> list[Tensor]:
    """One tensor [length, …] per sequence; with `chunks`, x has a value per chunk instead of per token."""
    if chunks is None:
        return [x[s.row, s.start : s.start + s.length] for s in sequences]
    if len({s.row for s in sequences}) == len(sequences):
        return [x[s.row, :n] for s, n in zip(sequences, chunks, strict=True)]
    return list(torch.split(x[0], chunks))


def _run_alike(
    path: Path, inputs: list[list[Tensor]], positions: list[int], state: MemoryState, chunk: int, read: str,
    max_norm: float | None,
) -> tuple[list[Tensor], MemoryState]:  # fmt: skip
    """Sequences of equal length that stand at the same place of their chunk run as rows of one batch."""
    alike: dict[tuple[int, int], list[int]] = {}
    for i, (position, q) in enumerate(zip(positions, inputs[0], strict=True)):
        alike.setdefault((position, len(q)), []).append(i)
    reads: list[Tensor] = [inputs[2][0]] * len(positions)
    states: list[MemoryState] = []
    for (_, length), members in alike.items():
        rows = state.rows(torch.tensor(members))
        stacked = [torch.stack([x[i] for i in members]) for x in inputs]
        y, after = path(*stacked, rows, chunk, read, max_norm) if length else (stacked[2], rows)
        states.append(after)
        for i, read_out in zip(members, y, strict=True):
            reads[i] = read_out
    order = [i for members in alike.values() for i in members]
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__))
    return reads, concatenate(states).rows(back)


def _choose(backend: str, q: Tensor, k: Tensor, v: Tensor, memory: Sequence[Tensor], chunk: int) -> str:
    """Which of the paths runs; "auto" takes the kernels wherever they can run on a GPU."""
    if backend in _PATHS:
        return backend
    if backend not in BACKENDS:
        fail("backend", repr(backend), f"one of {', '.join(BACKENDS)}")
    if backend == "auto" and not q.is_cuda:
        return "chunked"
    found = obstacle(q, k, v, [q.shape[-1], *(w.shape[-1] for w in memory)], chunk)
    if found is None:
        return "triton"
    if backend == "triton":
        fail("backend", f"'triton' with {found}", "what the kernels support, or backend='chunked'")
    say_once(f"memory_scan: the chunked PyTorch path runs instead of the kernels, because of {found}")
    return "chunked"


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, memory: Sequence[Tensor]) -> None:
    if q.ndim != 4:
        fail("q", f"shape {list(q.shape)}", "[b, t, h, d]")
    b, t, h, d = q.shape
    if k.shape != q.shape:
        fail("k", f"shape {list(k.shape)}", f"q's, {list(q.shape)}")
    if v.ndim != 4 or v.shape[:3] != q.shape[:3]:
        fail("v", f"shape {list(v.shape)}", f"[{b}, {t}, {h}, e]")
    if not 1 <= len(memory) <= DEEPEST:
        fail("memory", f"{len(memory)} layers", f"1 to {DEEPEST}")
    widths = [d, *(w.shape[-1] for w in memory)]
    for l, (w, d_in) in enumerate(zip(memory, widths, strict=False)):
        if w.ndim != 3 or w.shape[:2] != (h, d_in):
            fail(f"memory[{l}]", f"shape {list(w.shape)}", f"[{h}, {d_in}, d_out]")
    if widths[-1] != v.shape[-1]:
        fail("memory", f"a last layer of width {widths[-1]}", f"the width of v, {v.shape[-1]}")


def _check_state(state: MemoryState, memory: Sequence[Tensor], rows: int, chunk: int, dtype: torch.dtype) -> None:
    want = [(rows, *w.shape) for w in memory]
    for name, group in zip(GROUPS, state.groups, strict=True):
        got = [tuple(w.shape) for w in group]
        if got != want:
            fail(f"state.{name}", f"shapes {got}", f"{want}")
        kinds = {w.dtype for w in group}
        if kinds != {dtype}:
            fail(f"state.{name}", ", ".join(sorted(map(str, kinds))), f"{dtype}")
    if state.position.shape != (rows,) or not all(0 <= one < chunk for one in integers(state.position)):
        fail("state.position", integers(state.position), f"{rows} numbers from 0 to {chunk - 1} (is chunk the same?)")


def _check_gates(q: Tensor, gates: tuple[Tensor, ...], chunks: list[int], packed: bool) -> bool:
    """True when the gates hold one value per chunk."""
    b, t, h = q.shape[:3]
    n = sum(chunks) if packed else max(chunks, default=0)
    for name, gate in zip(("alpha", "eta", "theta"), gates, strict=True):
        if tuple(gate.shape) not in ((b, t, h), (b, n, h)):
            fail(name, f"shape {list(gate.shape)}", f"[{b}, {t}, {h}], or one a chunk [{b}, {n}, {h}]")
        if gate.shape != gates[0].shape:
            fail(name, f"shape {list(gate.shape)}", f"alpha's, {list(gates[0].shape)}")
    return gates[0].shape[1] != t
