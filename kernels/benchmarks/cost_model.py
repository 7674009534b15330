"""What the kernels must compute and move, and how long that takes at least: floors on a GPU, without one.

    python kernels/benchmarks/cost_model.py             print the tables
    python kernels/benchmarks/cost_model.py --write     write them to results/cost_model.md

Operations are the kernels' own matrix products, 2·M·N·K each, whole tiles, masked halves included; tests count them again by running the
kernels. Bytes are the kernels' own loads and stores. Times are floors, not predictions, except where a table says estimate.
All for gates per token, read="after", no bound, no incoming state.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from titans_kernels.triton import launch, ops, plan
from titans_kernels.triton.configurations import chosen
from titans_kernels.triton.plan import Shape


@dataclass(frozen=True)
class Card:
    """A GPU. Rates per second; the last three are assumptions that no session has measured yet."""

    name: str = "H200"
    matrix: float = 790e12
    """Operations of bf16 products, accumulated in float32; measured."""
    memory: float = 4.3e12
    """Bytes copied, read and written both counted; measured."""
    multiprocessors: int = 132
    cache: float = 30e6
    """Bytes of the L2 that scratch may count on: half of its 60 MB."""
    cache_rate: float = 5.5e12
    """Bytes between the L2 and all multiprocessors."""
    one_cache_rate: float = 0.11e12
    """Bytes between the L2 and one multiprocessor: 64 a cycle."""
    round: float = 0.5e-6
    """Seconds of one load → product → store that waits for the one before, in a recurrence."""


H200 = Card()


class Cost(NamedTuple):
    """One kernel, per token and head."""

    kernel: str
    products: float
    """Operations."""
    passed: float
    """Bytes of the call's inputs, outputs and gradients: always device memory."""
    scratch: float
    """Bytes between kernels, each counted once a kernel: device memory, unless all of a group's fit the L2."""
    cache: float
    """Bytes touched again within a kernel, or a lane's float32 state: taken to be in the L2."""
    rounds: int
    """Dependent rounds a chunk, of the kernels that run chunk after chunk; 0 where all chunks run at once."""


def useful(shape: Shape) -> float:
    """Operations per token and head of one forward that no implementation of the chunk form avoids, by products.

    Two layers: 6DE + 8EV to write, 4DE + 4EV to read, and 4cE + 2c(D + V) between tokens of a chunk: 22DE + 4c(D + E) at V = D.
    One: 10DV + 2c(D + V). The coefficients are counted as nothing: rows of 4c operations here (a product of c × c triangles,
    2c² a token, elsewhere). A backward counts twice a forward, two products for each; what is computed again counts nothing.
    """
    c, d, e, v = shape.chunk, shape.key, shape.hidden, shape.value
    between = 2 * c * (d + v)
    return 10 * d * e + 12 * e * v + 4 * c * e + between if e else 10 * d * v + between


def forward_costs(shape: Shape) -> list[Cost]:
    return [_shares(shape, backward=False), _write(shape), _read(shape)]


def backward_costs(shape: Shape) -> list[Cost]:
    again = [_shares(shape, backward=True), _write(shape)]
    reverse = [_read_backward, _read_onto, _write_backward] if shape.hidden else [_read_backward, _write_backward]
    return [*again, *(cost(shape) for cost in reverse), _share_backward(shape)]


def _shares(shape: Shape, backward: bool) -> Cost:
    c = shape.tile
    return Cost("shares" + " again" * backward, 0, 12, 4 * (c * (1 + backward) + 5), 0, 0)


def _write(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    slots, trace = 2 * shape.weights * size / c, (2 * e + v) * size
    if not e:
        return Cost("write", 6 * d * v, size * (d + v), slots + trace + 8, 0, 2)
    state = 4 * 5 * shape.weights / c  # the anchor, W and S in, W and S out
    rounds = 3 * e // chosen("write", shape, "wgmma").block + 1
    return Cost("write", 6 * d * e + 8 * e * v, size * (d + v), slots + trace + 8, state + 3 * e * size, rounds)


def _read(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    scratch = (2 * shape.weights / c + 2 * e + v) * size + _triangle(c) + 8
    products = (4 * d * e + 4 * e * v + 4 * c * e if e else 4 * d * v) + 2 * c * (d + v)
    return Cost("read", products, size * (2 * d + v), scratch, 0, 0)


def _read_backward(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    error = shape.errors.itemsize
    passed = size * (3 * d + v)
    taken = (2 * shape.weights / c + 2 * e + v) * size + _triangle(c) + 8
    if not e:
        given = error * (2 * shape.weights / c + v + d) + 4 * c + 8
        return Cost("read_backward", 8 * d * v + c * (6 * d + 4 * v), passed, taken + given, 0, 0)
    given = error * (2 * e + v + d) + 4 * c + 8
    products = 8 * d * e + 4 * e * v + 8 * c * e + c * (8 * d + 6 * v)
    again = (2 * d + v + 2 * e + v) * size + 2 * e * error + _triangle(c)
    return Cost("read_backward", products, passed, taken + given, again, 0)


def _read_onto(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    products = 4 * d * e + 4 * e * v + 4 * c * e + 2 * c * (d + v)
    scratch = shape.errors.itemsize * (4 * e + 2 * shape.weights / c) + size * v + _triangle(c) + 8
    return Cost("read_onto", products, size * (2 * d + v), scratch, 0, 0)


def _write_backward(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    error = shape.errors.itemsize
    passed = size * (2 * d + v)
    taken = size * (2 * shape.weights / c + 2 * e + v) + error * (2 * shape.weights / c + 2 * e + v + d) + 16
    if not e:
        return Cost("write_backward", 12 * d * v, passed, taken, 0, 3)
    state = 4 * 6 * shape.weights / c  # the state's gradient: twice in, once out
    again = size * (d + e * v / c + 3 * e + 2 * e + v) + error * (2 * e + 2 * e + 2 * e) + 16
    rounds = 4 * e // chosen("write_backward", shape, "wgmma").block + 3
    return Cost("write_backward", 12 * d * e + 16 * e * v, passed, taken, state + again, rounds)


def _share_backward(shape: Shape) -> Cost:
    c = shape.tile
    return Cost("share_backward", 0, 24, 3 * _triangle(c) + 4 * 7, 0, 0)


def _triangle(c: int) -> float:
    """Bytes a row of a lower triangle, float32."""
    return 2 * (c + 1)


class Call(NamedTuple):
    """A size that is run."""

    shape: Shape
    rows: int
    tokens: int

    @property
    def lanes(self) -> int:
        return self.rows * self.shape.heads

    @property
    def chunks(self) -> int:
        return -(-self.tokens // self.shape.chunk)

    @property
    def group(self) -> int:
        return self.shape.group(self.chunks, self.lanes, backward=True)

    @property
    def spilt(self) -> bool:
        """Whether a group's scratch is more than the L2 can be counted on to hold."""
        return self.group * self.lanes * self.shape.scratch(per_chunk=False, backward=True) > H200.cache


class Floor(NamedTuple):
    """Seconds over all tokens of a call."""

    matrix: float
    memory: float
    cache: float
    latency: float
    """An estimate: what the rounds of a recurrence wait for."""

    @property
    def seconds(self) -> float:
        return max(self.matrix, self.memory, self.cache)

    @property
    def estimate(self) -> float:
        return self.seconds + self.latency

    @property
    def bound(self) -> str:
        return max(("matrix", "memory", "cache", "latency"), key=lambda name: getattr(self, name))


def floor(cost: Cost, call: Call, card: Card = H200) -> Floor:
    """A recurrence occupies a multiprocessor a lane; the other kernels all of them."""
    units = call.tokens * call.lanes
    waves = -(-call.lanes // card.multiprocessors)
    busy = min(call.lanes, card.multiprocessors) / waves if cost.rounds else card.multiprocessors
    if cost.rounds and waves > 1:
        busy = call.lanes / waves
    share = busy / card.multiprocessors
    device = cost.passed + cost.scratch * call.spilt
    touched = cost.passed + cost.scratch + cost.cache
    return Floor(
        units * cost.products / (card.matrix * share),
        units * device / card.memory,
        units * touched / min(card.cache_rate, busy * card.one_cache_rate),
        cost.rounds * card.round * call.chunks * waves,
    )


class Memory(NamedTuple):
    """Bytes of a forward and backward."""

    kept: int
    scratch: int
    small: int
    """States in and out, and their gradients."""
    passed: int
    """Inputs, outputs and the gradients of both."""

    @property
    def share(self) -> float:
        return (self.kept + self.scratch + self.small) / self.passed


def memory(shape: Shape, rows: int, tokens: int) -> Memory:
    """Sizes of the tensors themselves, allocated on the meta device by the code that allocates them on a GPU."""
    device = torch.device("meta")
    q = torch.empty(rows, tokens, shape.heads, shape.key, dtype=shape.dtype, device=device)
    v = torch.empty(rows, tokens, shape.heads, shape.value, dtype=shape.dtype, device=device)
    gates = (torch.empty(rows, tokens, shape.heads, device=device),) * 3
    state = torch.empty(rows, shape.heads, 2 * shape.weights, device=device)
    call = ops._call(q, q, v, *gates, state, None, None, None, shape.hidden, shape.chunk, 0, 0.0, False, True)
    kept = state.new_empty(ops._kept(q, q, v, state, None, None, shape.hidden, shape.chunk, True))
    buffers = [*launch.allocate(call, backward=True), *launch.allocate_gradient(call)]
    forward = launch.allocate(call, backward=False)
    scratch = max(_bytes(buffers), _bytes(forward))
    passed = 2 * _bytes([q, q, v, v, *gates])
    return Memory(_bytes([kept]), scratch, 5 * _bytes([state]), passed)


def _bytes(tensors: list[torch.Tensor] | launch.Scratch) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


LARGE, LONG = (16, 16_384), (1, 1_048_576)
"""Rows and tokens, with 8 heads: 128 lanes of 16,384 tokens, and batch 1 with a million."""


def default(layers: int, chunk: int = 64, key: int = 64, dtype: torch.dtype = torch.bfloat16) -> Shape:
    return Shape(8, key, 2 * key if layers == 2 else 0, key, chunk, dtype)


def tables() -> str:
    """All tables, in Markdown."""
    parts = [HEAD]
    for layers in (2, 1):
        for chunk in (64, 128):
            parts.append(kernel_table(layers, chunk))
    parts += [whole_table(), memory_table(), rule_table(), lever_table(default(2)), lever_table(default(1))]
    return "\n\n".join(parts) + "\n"


HEAD = f"""# Cost model

Written by `python kernels/benchmarks/cost_model.py --write`; nothing on this page is a measurement of the kernels. bf16,
D = V = 64, E = 2D, 8 heads. {H200.name}: {H200.matrix / 1e12:.0f} TFLOP/s in bf16 and {H200.memory / 1e12} TB/s are measured rates;
{H200.cache_rate / 1e12} TB/s from the L2 ({H200.one_cache_rate * 1e3 / 1e12:.2g}e-3 TB/s for one multiprocessor), {H200.cache / 1e6:.0f} MB
of it for scratch, and {H200.round * 1e6} µs for each dependent round of a recurrence are assumptions. *Floor*: the longest of
products, device memory and L2 at those rates. *Estimate*: floor plus rounds. MPs: multiprocessors in use, of {H200.multiprocessors}.
L2 column: bytes touched again within a kernel, and the float32 state of two layers; it is assumed to hold them."""


def kernel_table(layers: int, chunk: int) -> str:
    shape = default(layers, chunk)
    calls = [Call(shape, *LARGE), Call(shape, *LONG)]
    lines = [
        f"## L = {layers}, chunk {chunk}: each kernel\n",
        "Floors and estimates in ms over all tokens; first 128 lanes × 16,384 tokens, then 8 × 1,048,576.\n",
        "| kernel | operations | bytes in, out | scratch bytes | L2 bytes | MPs | floor | bound | estimate | MPs | floor | bound "
        "| estimate |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in [*forward_costs(shape), *backward_costs(shape)]:
        cells = [cost.kernel, *(f"{x:,.0f}" for x in cost[1:5])]
        for call in calls:
            found = floor(cost, call)
            busy = min(call.lanes, H200.multiprocessors) if cost.rounds else H200.multiprocessors
            cells += [str(busy), _ms(found.seconds), found.bound, _ms(found.estimate)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def whole_table() -> str:
    lines = [
        "## A whole call\n",
        "Useful operations: products that no implementation of the chunk form avoids, 22DE + 4c(D + E) for L = 2 and "
        "10D² + 4cD for L = 1 a token and head, forward; three times that with the backward. What is computed again counts "
        "nothing, nor do the coefficients. 25 % of the matrix rate means these operations over the time taken.\n",
        "| L | chunk | lanes × tokens | group g | useful op., forward + backward | done / useful | floor, ms | estimate, ms "
        "| tokens/s at estimate | share of the matrix rate at estimate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for layers in (2, 1):
        for chunk in (64, 128):
            for size in (LARGE, LONG):
                call = Call(default(layers, chunk), *size)
                costs = [*forward_costs(call.shape), *backward_costs(call.shape)]
                wanted = 3 * useful(call.shape)
                seconds = sum(floor(cost, call).estimate for cost in costs)
                rate = wanted * call.tokens * call.lanes / seconds / H200.matrix
                lines.append(
                    f"| {layers} | {chunk} | {call.lanes} × {call.tokens:,} | {call.group} | {wanted:,.0f} "
                    f"| {sum(c.products for c in costs) / wanted:.2f} | {_ms(sum(floor(c, call).seconds for c in costs))} "
                    f"| {_ms(seconds)} | {call.rows * call.tokens / seconds:,.0f} | {rate:.1%} |"
                )
    return "\n".join(lines)


def memory_table() -> str:
    lines = [
        "## Memory of a forward and backward, beyond inputs, outputs and their gradients\n",
        "| L | chunk | rows × tokens | kept states | scratch | states in and out | inputs, outputs, gradients | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for layers in (2, 1):
        for chunk in (64, 128):
            for size in (LARGE, LONG):
                found = memory(default(layers, chunk), *size)
                sizes = " | ".join(f"{x / 2**20:,.1f} MiB" for x in found)
                lines.append(f"| {layers} | {chunk} | {size[0]} × {size[1]:,} | {sizes} | {found.share:.1%} |")
    return "\n".join(lines)


def shapes(heads: int) -> list[Shape]:
    """Every width, hidden width, chunk and precision that the issue asks for, with values as wide as keys."""
    return [
        Shape(heads, key, hidden * key, key, chunk, dtype)
        for key in plan.WIDTHS
        for hidden in (0, 1, 2, 4)
        for chunk in (16, 32, 64, 128)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    ]


def rule_table() -> str:
    """Shapes that pass 10 % at a million tokens."""
    lines = ["## Shapes that take more than 10 % at a million tokens, batch 1\n"]
    for heads in (1, 2, 4, 8, 16):
        found = [(memory(shape, *LONG).share, shape) for shape in shapes(heads)]
        over = sorted(((share, shape) for share, shape in found if share > 0.1), key=lambda x: -x[0])
        lines.append(f"**{heads} heads**: {len(over)} of {len(found)}, the most {max(x[0] for x in found):.1%}.")
        lines += [
            f"- {share:.1%}: D {s.key}, E {s.hidden or 'none'}, chunk {s.chunk}, {str(s.dtype).removeprefix('torch.')}"
            for share, s in over
        ]
    return "\n".join(lines)


class Lever(NamedTuple):
    name: str
    forward: float
    whole: float
    remark: str


def levers(shape: Shape) -> list[Lever]:
    """Estimates, in seconds, for a million tokens with batch 1."""
    rows, tokens = LONG
    base = Call(shape, rows, tokens)
    halves = replace(H200, round=H200.round / 2.5, cache_rate=1e18, one_cache_rate=1e18)
    found = [
        Lever("as it is", *_times(base), f"{base.lanes} lanes"),
        Lever("16 sequences of 65,536 packed", *_times(Call(shape, 16, tokens // 16)), "128 lanes; needs such data"),
        Lever("16 shards that restart (TNT)", *_times(Call(shape, 16, tokens // 16)),
              "as above; another model: shards start from M_0, a coarse memory would carry across; not counted"),
    ]  # fmt: skip
    for chunk in (128, 256):
        remark = "another rule: anchors are older" + (", and longer than the kernels' 128" if chunk > 128 else "")
        found.append(Lever(f"chunk {chunk}", *_times(Call(shape._replace(chunk=chunk), rows, tokens)), remark))
    if shape.hidden:
        split = 8
        narrow = shape._replace(hidden=shape.hidden // split)
        found.append(Lever(f"hidden width over {split} programs", *_split_times(shape, narrow, split),
                           "1 exchange a chunk forward, 3 backward, at 2 µs each (assumed)"))  # fmt: skip
        found.append(Lever("state in shared memory", *_times(base, halves),
                           "128 KiB a lane; no L2 traffic, rounds of 0.2 µs (assumed)"))  # fmt: skip
    found += [
        Lever("12 layers in a pipeline", *_pipelined(base, 12), "a layer's share of 12 that run on successive segments"),
        Lever("reads beside the recurrence", *_overlapped(base), "second stream, one group behind"),
    ]
    return found


def _seconds(costs: list[Cost], call: Call, card: Card = H200) -> tuple[float, float]:
    """Of the recurrences, and of the kernels that run all chunks at once."""
    sequential = sum(floor(cost, call, card).estimate for cost in costs if cost.rounds)
    return sequential, sum(floor(cost, call, card).estimate for cost in costs if not cost.rounds)


def _times(call: Call, card: Card = H200) -> tuple[float, float]:
    forward = sum(_seconds(forward_costs(call.shape), call, card))
    return forward, forward + sum(_seconds(backward_costs(call.shape), call, card))


def _split_times(shape: Shape, narrow: Shape, split: int) -> tuple[float, float]:
    """Recurrences of narrow memories, so many more lanes, with exchanges; the rest as before."""
    call, lanes = Call(shape, *LONG), Call(narrow._replace(heads=shape.heads * split), *LONG)
    times = []
    for wide, slim, exchanges in (
        (forward_costs(shape), forward_costs(narrow), 1),
        (backward_costs(shape), backward_costs(narrow), 4),
    ):
        recurrence = max(_seconds(slim, lanes)[0], max(floor(c, call).memory for c in wide if c.rounds))
        times.append(_seconds(wide, call)[1] + recurrence + exchanges * 2e-6 * call.chunks)
    return times[0], sum(times)


def _pipelined(call: Call, layers: int) -> tuple[float, float]:
    times = []
    for costs in (forward_costs(call.shape), backward_costs(call.shape)):
        sequential, parallel = _seconds(costs, call)
        at_once = min(layers, H200.multiprocessors // call.lanes)
        least = sum(floor(cost, call).memory for cost in costs if cost.rounds)
        times.append(max(sequential / at_once, least) + parallel)
    return times[0], sum(times)


def _overlapped(call: Call) -> tuple[float, float]:
    """The forward's reads beside its recurrence; of the backward's recurrences, the first beside the reads of a group."""
    times = []
    for costs in (forward_costs(call.shape), backward_costs(call.shape)):
        sequential, parallel = _seconds(costs, call)
        times.append(max(sequential, parallel * H200.multiprocessors / (H200.multiprocessors - call.lanes)))
    return times[0], sum(times)


def lever_table(shape: Shape) -> str:
    found = levers(shape)
    lines = [
        f"## Levers at batch 1, a million tokens, L = {2 if shape.hidden else 1}: estimates, none of them measured\n",
        "| lever | forward, ms | forward + backward, ms | gain | remark |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {x.name} | {_ms(x.forward)} | {_ms(x.whole)} | {found[0].whole / x.whole:.1f}× | {x.remark} |" for x in found
    ]
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}"


def main() -> None:
    text = tables()
    if sys.argv[1:] == ["--write"]:
        path = Path(__file__).with_name("results") / "cost_model.md"
        path.write_text(text)
        print(path)
    elif sys.argv[1:]:
        sys.exit(f"arguments: got {sys.argv[1:]}, want none, or --write")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
