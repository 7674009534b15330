"""`memory_step`: one token at a time, as generation and streaming need it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .options import BACKENDS, CHUNK
from .scan import memory_scan
from .state import GROUPS, MemoryState, integers
from .support import check_options, fail, obstacle, say_once


def memory_step(
    q: Tensor, k: Tensor, v: Tensor, *, alpha: Tensor, eta: Tensor, theta: Tensor, state: MemoryState,
    chunk: int = CHUNK, read: str = "after", max_norm: float | None = None, inplace: bool = False, backend: str = "auto",
) -> tuple[Tensor, MemoryState]:  # fmt: skip
    """Write one token of every row and read it: `memory_scan` with t = 1, without its gradient in the fast path.

    q, k: [b, h, d]; v: [b, h, e]; alpha, eta, theta: [b, h].
    state: rows may stand at different places of their chunks. Its position may lie on the GPU instead of the CPU; then
        the host never waits for it nor checks it, as a CUDA graph needs, and the new position lies there as well.
    chunk, read, max_norm: as in `memory_scan`.
    inplace: write the new state into the tensors of `state`, and return them; only the position is a new tensor. What
        cannot be written to is copied first: expanded tensors, and memory and anchor where they share storage, as they
        do at the start, where they may be the model's own M_0, and at a chunk's end.
    backend: "triton" (d and e 16, 32, 64 or 128; one layer, or two with a hidden width that is a multiple of 16 up to
        512; no gradient), "chunked", "reference", or "auto": Triton on a GPU where it can, else "chunked".

    Returns y [b, h, e] in v's dtype, and the state after the token. The given state is left as it is unless `inplace`.
    Raises ValueError naming the argument.
    """
    if backend not in BACKENDS:
        fail("backend", repr(backend), f"one of {', '.join(BACKENDS)}")
    _check(q, k, v, (alpha, eta, theta), state, chunk, read, max_norm)
    tensors = (q, k, v, alpha, eta, theta, *state.memory, *state.momentum, *state.anchor)
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if inplace and graph:
        fail("inplace", "True with inputs that require a gradient", "False, or torch.no_grad()")
    in_the_way = "inputs that require a gradient, not torch.no_grad()" if graph else _obstacle(q, k, v, state)
    if backend == "triton" and in_the_way:
        fail("backend", f"'triton' with {in_the_way}", "what the kernels support, or backend='chunked'")
    if backend == "auto" and q.is_cuda and in_the_way and not graph:
        say_once(f"memory_step: the chunked PyTorch path runs instead of the kernel, because of {in_the_way}")
    if inplace:
        state = _writable(state)
    if backend == "triton" or (backend == "auto" and q.is_cuda and not in_the_way):
        from .triton.scan import triton_step

        return triton_step(q, k, v, (alpha, eta, theta), state, chunk, read, max_norm, inplace)
    return _scan_step(q, k, v, (alpha, eta, theta), state, chunk, read, max_norm, inplace, backend)


def _scan_step(
    q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor, Tensor, Tensor],
    state: MemoryState, chunk: int, read: str, max_norm: float | None, inplace: bool, backend: str,
) -> tuple[Tensor, MemoryState]:  # fmt: skip
    alpha, eta, theta = (gate[:, None] for gate in gates)
    memory = [w.new_empty(w.shape[1:]) for w in state.memory]  # only its shape counts where there is a state
    y, after = memory_scan(
        q[:, None], k[:, None], v[:, None], alpha=alpha, eta=eta, theta=theta,
        memory=memory, state=state, chunk=chunk, read=read, backend=backend, max_norm=max_norm,
    )  # fmt: skip
    if inplace:
        for group, new in zip(state.groups, after.groups, strict=True):
            for mine, other in zip(group, new, strict=True):
                mine.copy_(other)
        after = MemoryState(state.memory, state.momentum, state.anchor, after.position)
    return y[:, 0], after


def _writable(state: MemoryState) -> MemoryState:
    """The same state in contiguous tensors that share nothing with each other, copied only where they must be."""
    memory: list[Tensor] = []
    anchor: list[Tensor] = []
    for m, a in zip(state.memory, state.anchor, strict=True):
        shared = m is a or (not torch.compiler.is_compiling() and m.data_ptr() == a.data_ptr())
        memory.append(_copy(m) if shared else m.contiguous())
        anchor.append(_copy(a) if shared else a.contiguous())
    return MemoryState(tuple(memory), tuple(w.contiguous() for w in state.momentum), tuple(anchor), state.position)


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _obstacle(q: Tensor, k: Tensor, v: Tensor, state: MemoryState) -> str | None:
    dtypes = {w.dtype for group in state.groups for w in group}
    if dtypes != {torch.float32}:
        return f"a state of {', '.join(sorted(map(str, dtypes)))}, not float32"
    return obstacle(q, k, v, [q.shape[-1], *(w.shape[-1] for w in state.memory)], chunk=1)


def _check(
    q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor, Tensor, Tensor],
    state: MemoryState, chunk: int, read: str, max_norm: float | None,
) -> None:  # fmt: skip
    if q.ndim != 3:
        fail("q", f"shape {list(q.shape)}", "[b, h, d]")
    b, h, d = q.shape
    if k.shape != q.shape:
        fail("k", f"shape {list(k.shape)}", f"q's, {list(q.shape)}")
    if v.ndim != 3 or v.shape[:2] != q.shape[:2]:
        fail("v", f"shape {list(v.shape)}", f"[{b}, {h}, e]")
    for name, gate in zip(("alpha", "eta", "theta"), gates, strict=True):
        if gate.shape != q.shape[:2]:
            fail(name, f"shape {list(gate.shape)}", f"[{b}, {h}]")
    widths = [d, *(w.shape[-1] for w in state.memory)]
    shapes = [(b, h, i, o) for i, o in pairwise(widths)]
    for name, group in zip(GROUPS, state.groups, strict=True):
        got = [tuple(w.shape) for w in group]
        if got != shapes or widths[-1] != v.shape[-1] or not got:
            fail(f"state.{name}", f"shapes {got}", f"[{b}, {h}, d_in, d_out] from {d} to {v.shape[-1]}")
    check_options(chunk, read, max_norm)
    if state.position.shape != (b,):
        fail("state.position", f"shape {list(state.position.shape)}", f"[{b}]")
    if not (state.position.is_cuda or torch.compiler.is_compiling()):
        positions = integers(state.position)
        if not all(0 <= position < chunk for position in positions):
            fail("state.position", positions, f"{b} numbers from 0 to {chunk - 1} (is chunk the same?)")
