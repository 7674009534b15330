"""Times, rates and memory on a device: medians by events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Deadline:
    """Seconds left of a time box."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


class Time(NamedTuple):
    """Milliseconds of a call."""

    median: float
    least: float
    most: float
    calls: int


def timed(call: Callable[[int], object], device: torch.device, seconds: float, most: int = 20) -> Time:
    """call(i) for i = 0, 1, …: it rotates its inputs by i. First twice unmeasured; then until `seconds` are over, or `most`
    times, but three times at least, or once where a call takes more than half of `seconds`."""
    start = time.monotonic()
    call(0)
    _wait(device)
    slow = time.monotonic() - start > seconds / 2
    if not slow:
        call(1)
        _wait(device)
    found: list[float] = []
    while len(found) < most and (len(found) < (1 if slow else 3) or time.monotonic() - start < seconds):
        found.append(_once(call, len(found), device))
    return Time(statistics.median(found), min(found), max(found), len(found))


def _once(call: Callable[[int], object], i: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call(i)
        return 1e3 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    call(i)
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Pass(NamedTuple):
    """One measured thing that can be run forward and backward."""

    forward: Callable[[], Tensor]
    leaves: list[Tensor]

    def both(self) -> None:
        y = self.forward()
        torch.autograd.grad(y, self.leaves, torch.ones((), dtype=y.dtype, device=y.device).expand_as(y))


def both_times(sets: list[Pass], device: torch.device, seconds: float) -> tuple[Time, Time]:
    """Forward without a graph, and forward with backward."""

    def forward(i: int) -> None:
        with torch.no_grad():
            sets[i % len(sets)].forward()

    whole = timed(lambda i: sets[i % len(sets)].both(), device, seconds / 2)
    return timed(forward, device, seconds / 2), whole


def peak(one: Pass, device: torch.device) -> tuple[int, int]:
    """Bytes at most in use during a forward and backward, and beyond what was there before."""
    if device.type != "cuda":
        return 0, 0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one.both()
    torch.cuda.synchronize()
    top = torch.cuda.max_memory_allocated()
    return top, top - before


def matrix_rate(device: torch.device, size: int, seconds: float) -> tuple[float, Time]:
    """Operations a second of a bf16 product of random matrices."""
    sets = [[torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2)] for _ in range(3)]
    found = timed(lambda i: torch.mm(*sets[i % 3]), device, seconds)
    return 2 * size**3 / found.median * 1e3, found


def copy_rate(device: torch.device, size: int, seconds: float) -> tuple[float, Time]:
    """Bytes a second, read and written both counted, of a copy of `size` bytes."""
    source = torch.randint(0, 127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    found = timed(lambda _: target.copy_(source), device, seconds)
    return 2 * size / found.median * 1e3, found


def kernel_times(one: Pass, device: torch.device, calls: int = 3) -> dict[str, tuple[float, int]]:
    """Milliseconds and launches of each kernel in one forward and backward, from torch's profiler."""
    if device.type != "cuda":
        return {}
    one.both()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            one.both()
        torch.cuda.synchronize()
    found = {e.key: (e.self_device_time_total / 1e3 / calls, e.count // calls) for e in profile.key_averages()}
    return dict(sorted(((k, v) for k, v in found.items() if v[0] > 0), key=lambda item: -item[1][0]))


def graph_time(steps: list[Callable[[], object]], device: torch.device, seconds: float) -> Time:
    """Of one step, all of them captured in one CUDA graph (where there is one) so that launching costs nothing."""
    if device.type != "cuda":
        return timed(lambda i: steps[i % len(steps)](), device, seconds, most=3)
    for step in steps:
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for step in steps:
            step()
    found = timed(lambda _: graph.replay(), device, seconds, most=100)
    n = len(steps)
    return Time(found.median / n, found.least / n, found.most / n, found.calls)
