"""What memory_gpu.py times, section by section."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import costs
import gpu_peers as peers
import gpu_report as report
import gpu_timing as timing
import torch
from gpu_peers import Size
from gpu_report import CARD, DECODE, LENGTH, LONG_PARTS, MATRIX_SHARE, ONE, PARTS, TWO, Table
from gpu_timing import Deadline, Pass
from torch.nn.attention import SDPBackend

from titans_kernels import MemoryState, memory_step
from titans_kernels.triton.plan import Shape

GIB = 2**30


class Bench:
    """A run: where results go, on which device, until when. tiny: sizes that Triton's interpreter can do."""

    def __init__(
        self, found: report.Report, device: torch.device, deadline: Deadline, *, tiny: bool, quick: bool
    ) -> None:
        self.report, self.device, self.deadline, self.tiny, self.quick = found, device, deadline, tiny, quick

    def seconds(self, most: float) -> float:
        """For one measurement."""
        return 0.0 if self.tiny else max(0.0, min(most / 2 if self.quick else most, self.deadline.left))

    def size(self, rows: int, tokens: int) -> Size:
        if self.tiny:
            return Size(self.device, min(rows, 2), 32 if tokens < 2**20 else 48, heads=1, key=16, chunk=16)
        return Size(self.device, rows, tokens)

    def clean(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def attempt(self, what: str, do: Callable[[], None]) -> None:
        """One thing to measure: where it cannot be, a line says why."""
        if self.deadline.left <= 0:
            self.report.note(f"{what}: not reached in time.")
            return
        try:
            do()
        except ImportError as error:
            self.report.note(f"{what}: skipped, {error}.")
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0][:300]
            self.report.note(f"{what}: not measured, {type(error).__name__}: {line}")
        self.clean()


def card(bench: Bench) -> None:
    """The card's matrix rate and copy bandwidth."""
    rate, _ = timing.matrix_rate(bench.device, 64 if bench.tiny else 8192, bench.seconds(5))
    bench.report.set(CARD, CARD.rows[0], "measured", rate / 1e12, "{:,.4g}")
    rate, _ = timing.copy_rate(bench.device, 2**10 if bench.tiny else 4 * GIB, bench.seconds(3))
    bench.report.set(CARD, CARD.rows[1], "measured", rate / 1e12, "{:,.3g}")


def two_layers(bench: Bench) -> None:
    """L = 2 at 128 lanes."""
    measure(bench, TWO, report.OURS, lambda size: peers.scan(size, 2, "triton"), layers=2)
    measure(bench, TWO, report.LAYER, lambda size: peers.layer(size, 2, "triton"))
    measure(bench, TWO, report.PEER, lambda size: peers.titans_pytorch(size, fast_scan=not bench.tiny))
    measure(bench, TWO, report.PLAIN, lambda size: peers.scan(size, 2, "chunked"), layers=2)


def one_layer(bench: Bench) -> None:
    """L = 1 at 128 lanes."""
    measure(bench, ONE, report.OURS, lambda size: peers.scan(size, 1, "triton"), layers=1)
    measure(bench, ONE, report.DELTA, peers.gated_delta_rule)
    measure(bench, ONE, report.TTT, lambda size: peers.ttt_linear(size, size.chunk))
    measure(bench, ONE, report.PLAIN, lambda size: peers.scan(size, 1, "chunked"), layers=1)


def measure(bench: Bench, table: Table, row: str, make: Callable[[Size], Pass], layers: int = 0) -> None:
    """A row of a table; with `layers`, also the share of the matrix rate."""
    bench.attempt(f"{table.title}, {row}", lambda: measure_row(bench, table, row, make, layers))


def measure_row(bench: Bench, table: Table, row: str, make: Callable[[Size], Pass], layers: int) -> None:
    size, sets = fitting(bench, row, make)
    forward, whole = timing.both_times(sets, bench.device, bench.seconds(20))
    rate = size.rows * size.tokens / whole.median * 1e3
    bench.report.set(table, row, "rows", size.rows, "{}")
    bench.report.time(table, row, "forward, ms", forward)
    bench.report.time(table, row, "forward + backward, ms", whole)
    bench.report.set(table, row, "tokens/s", rate, "{:,.0f}")
    bench.report.set(table, row, "peak, GiB", timing.peak(sets[0], bench.device)[0] / GIB)
    matrix = bench.report.number(CARD, CARD.rows[0], "measured")
    if layers and matrix:
        share = 3 * costs.useful(shape(size, layers)) * rate * size.heads / (matrix * 1e12)
        bench.report.set(table, row, MATRIX_SHARE, share, "{:.1%}")
    elif not layers:
        bench.report.set(table, row, MATRIX_SHARE, "not counted")


def fitting(bench: Bench, row: str, make: Callable[[Size], Pass]) -> tuple[Size, list[Pass]]:
    """Two sets of inputs with as many rows as fit, 16 at most."""
    size = bench.size(16, 16_384)
    while True:
        try:
            sets = [make(size)]
            sets[0].both()
            return size, [*sets, make(size)]
        except torch.cuda.OutOfMemoryError:
            if size.rows == 1:
                raise
        sets = []
        bench.clean()
        bench.report.note(f"{row}: {size.rows} rows do not fit, {size.rows // 2} tried")
        size = size.with_rows(size.rows // 2)


def shape(size: Size, layers: int) -> Shape:
    return Shape(size.heads, size.key, 0 if layers == 1 else 2 * size.key, size.key, size.chunk, torch.bfloat16)


def million(bench: Bench) -> None:
    """Batch 1 at 65,536 and 1,048,576 tokens."""
    for tokens in (2**16, 2**20):
        ours(bench, tokens)


def ours(bench: Bench, tokens: int) -> None:
    bench.attempt(f"L = 2, batch 1, {tokens:,} tokens", lambda: ours_at(bench, f"{tokens:,}", bench.size(1, tokens)))


def ours_at(bench: Bench, row: str, size: Size) -> None:
    one = peers.scan(size, 2, "triton")
    found = timing.timed(lambda _: one.both(), bench.device, bench.seconds(10))
    bench.report.time(LENGTH, row, "ours, ms", found)
    bench.report.set(LENGTH, row, "ours, tokens/s", size.tokens / found.median * 1e3, "{:,.0f}")
    top, beyond = timing.peak(one, bench.device)
    bench.report.set(LENGTH, row, "ours, peak GiB", top / GIB)
    if bench.device.type == "cuda":
        given = sum(x.nbytes for x in one.leaves)
        passed = costs.memory(shape(size, 2), size.rows, size.tokens).passed
        bench.report.set(LENGTH, row, "ours, extra memory", (beyond + given) / passed - 1, "{:.1%}")


def attention(bench: Bench) -> None:
    """Where ours overtakes attention: doubling lengths."""
    kinds = [("flash attention, ms", SDPBackend.FLASH_ATTENTION), ("cuDNN attention, ms", SDPBackend.CUDNN_ATTENTION)]
    lengths = report.LENGTHS[:1] if bench.tiny else report.LENGTHS[2:6] if bench.quick else report.LENGTHS[:7]
    for tokens in lengths:
        if bench.report.number(LENGTH, f"{tokens:,}", "ours, ms") is None:
            ours(bench, tokens)
        for column, kind in kinds:
            attention_at(bench, tokens, column, kind)


def attention_at(bench: Bench, tokens: int, column: str, kind: SDPBackend) -> None:
    def do() -> None:
        one = peers.attention(bench.size(1, tokens), kind)
        found = timing.timed(lambda _: one.both(), bench.device, bench.seconds(4))
        bench.report.time(LENGTH, f"{tokens:,}", column, found)

    bench.attempt(f"{column.removesuffix(', ms')}, {tokens:,} tokens", do)


def longest_attention(bench: Bench) -> None:
    """Flash attention at half a million and a million tokens, once each."""
    for tokens in report.LENGTHS[7:]:
        if not bench.quick and bench.deadline.left > (60 if tokens == 2**20 else 20):
            attention_at(bench, tokens, "flash attention, ms", SDPBackend.FLASH_ATTENTION)


def decode(bench: Bench) -> None:
    """One token for 64 sequences."""
    bench.attempt("decode, L = 2", lambda: decode_layers(bench, 2))
    bench.attempt("decode, L = 1", lambda: decode_layers(bench, 1))


def decode_layers(bench: Bench, layers: int) -> None:
    row, size = f"L = {layers}", bench.size(64, 1)
    states = [decode_state(size, layers) for _ in range(2 if bench.tiny else 4)]
    q, k, v = (x[:, 0] for x in size.tokens_of(3))
    alpha, eta, theta = (x[:, 0] / 10 for x in size.gates(3))
    both = [[*s.memory, *s.momentum] for s in states]
    every = [[*s.memory, *s.momentum, *s.anchor] for s in states]

    def step(state: MemoryState) -> Callable[[], object]:
        return lambda: memory_step(
            q, k, v, alpha=alpha, eta=eta, theta=theta, state=state, chunk=size.chunk, inplace=True, backend="triton"
        )

    def copy(source: list[torch.Tensor], target: list[torch.Tensor]) -> Callable[[], object]:
        return lambda: [b.copy_(a) for a, b in zip(source, target, strict=True)]

    with torch.no_grad():
        seconds = bench.seconds(4)
        one = timing.graph_time([step(state) for state in states], bench.device, seconds)
        least = timing.graph_time([copy(a, b) for a, b in pairwise([*both, both[0]])], bench.device, seconds)
        whole = timing.graph_time([copy(a, b) for a, b in pairwise([*every, every[0]])], bench.device, seconds)
    for column, found in zip(DECODE.columns, (one, least, whole), strict=False):
        bench.report.time(DECODE, row, column, found, scale=1e3)
    bench.report.set(DECODE, row, "ratio", one.median / least.median, "{:.2f}")


def decode_state(size: Size, layers: int) -> MemoryState:
    """In the middle of a chunk, its position on the device."""
    memory, momentum, anchor = (
        tuple(
            torch.randn(size.rows, size.heads, i, o, device=size.device) / i for i, o in pairwise(size.widths(layers))
        )
        for _ in range(3)
    )
    return MemoryState(memory, momentum, anchor, torch.full((size.rows,), 3, device=size.device))


def kernels(bench: Bench) -> None:
    """Time of each kernel."""
    bench.attempt(PARTS.title, lambda: kernels_at(bench, PARTS, bench.size(16, 16_384)))
    bench.attempt(LONG_PARTS.title, lambda: kernels_at(bench, LONG_PARTS, bench.size(1, 2**20)))


def kernels_at(bench: Bench, table: Table, size: Size) -> None:
    found = timing.kernel_times(peers.scan(size, 2, "triton"), bench.device)
    if not found:
        bench.report.note(f"{table.title}: the profiler saw no kernel")
        return
    floors = kernel_floors(bench, size)
    rest = {name: time for name, time in found.items() if name not in table.rows}
    for name in [name for name in table.rows if name in found]:
        milliseconds, launches = found[name]
        bench.report.set(table, name, "launches", launches, "{:,}")
        bench.report.set(table, name, "measured, ms", milliseconds, "{:,.4g}")
        for column, value in zip(("floor, ms", "estimate, ms"), floors[name], strict=True):
            bench.report.set(table, name, column, value, "{:,.4g}")
    bench.report.set(table, "everything else", "launches", sum(x[1] for x in rest.values()), "{:,}")
    bench.report.set(table, "everything else", "measured, ms", sum(x[0] for x in rest.values()), "{:,.4g}")


def kernel_floors(bench: Bench, size: Size) -> dict[str, tuple[float, float]]:
    """Milliseconds by the cost model, with this card's measured rates; a kernel that runs twice counts twice."""
    matrix, copy = (bench.report.number(CARD, row, "measured") for row in CARD.rows)
    model = costs.H200
    if matrix and copy:
        model = replace(model, matrix=matrix * 1e12, memory=copy * 1e12)
    one = shape(size, 2)
    call = costs.Call(one, size.rows, size.tokens)
    names = {"shares": "share_kernel", "shares again": "share_kernel", "share_backward": "share_backward_kernel"}
    found: dict[str, tuple[float, float]] = {}
    for cost in [*costs.forward_costs(one), *costs.backward_costs(one)]:
        kind, _, direction = cost.kernel.partition("_")
        name = names.get(cost.kernel, f"{kind}_mlp_{direction}_kernel" if direction else f"{kind}_mlp_kernel")
        time, before = costs.floor(cost, call, model), found.get(name, (0.0, 0.0))
        found[name] = (before[0] + 1e3 * time.seconds, before[1] + 1e3 * time.estimate)
    return found


SECTIONS = (card, two_layers, one_layer, million, decode, kernels, attention, longest_attention)
