"""Floors and estimates of the kernels' time on a GPU, without one; what extra memory they take; what would make them faster.

    python kernels/benchmarks/cost_model.py             print the tables
    python kernels/benchmarks/cost_model.py --write     write them to results/cost_model.md

What is counted, and how, is in costs.py.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from costs import H200, Call, Card, Cost, backward_costs, floor, forward_costs, memory, useful

sys.path.insert(0, str(Path(__file__).parents[1]))
from titans_kernels import options
from titans_kernels.triton import plan
from titans_kernels.triton.configurations import chosen
from titans_kernels.triton.plan import Shape

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
D = V = 64, E = 2D, 8 heads, forward and backward. Operations and bytes are per token and head.

- *Floor*: the longer of products and device memory, at rates measured on an {H200.name}: {H200.matrix / 1e12:.0f} TFLOP/s
  in bf16 and {H200.memory / 1e12} TB/s copied. A recurrence runs on one multiprocessor a lane, the others on all; MPs: how
  many are in use, of {H200.multiprocessors}.
- *Estimate*: the same with {H200.cache_rate / 1e12} TB/s from the L2 ({H200.one_cache_rate / 1e12} TB/s to one of them),
  plus {H200.round * 1e6} µs for each dependent round of a recurrence. These three are assumptions, to be replaced by
  measurements.
- *L2 bytes*: touched again within a kernel, and the float32 state of two layers; taken to stay in the L2. *Scratch bytes*
  pass between kernels, and go to device memory where a group's scratch is over {H200.cache / 1e6:.0f} MB, as in all rows."""


def kernel_table(layers: int, chunk: int) -> str:
    shape = default(layers, chunk)
    calls = [Call(shape, *LARGE), Call(shape, *LONG)]
    lines = [
        f"## L = {layers}, chunk {chunk}: each kernel\n",
        "Floors and estimates in ms over all tokens; first 128 lanes × 16,384 tokens, then 8 × 1,048,576.\n",
        "| kernel | operations | bytes in, out | scratch bytes | L2 bytes | MPs | floor | estimate | bound by | MPs | floor "
        "| estimate | bound by |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in [*forward_costs(shape), *backward_costs(shape)]:
        cells = [cost.kernel, *(f"{x:,.0f}" for x in cost[1:5])]
        for call in calls:
            found = floor(cost, call)
            busy = min(call.lanes, H200.multiprocessors) if cost.rounds else H200.multiprocessors
            cells += [str(busy), _ms(found.seconds), _ms(found.estimate), found.bound]
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
        for key in options.WIDTHS
        for hidden in (0, 1, 2, 4)
        for chunk in (16, 32, 64, 128)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    ]


def rule_table() -> str:
    """Shapes that pass 10 % at a million tokens."""
    lines = ["## Shapes that take more than 10 % at a million tokens, batch 1\n"]
    for heads in (1, 2, 4, 8, 16):
        found = [(memory(shape, *LONG).share, shape) for shape in shapes(heads)]
        over = sorted((x for x in found if x[0] > 0.1), key=lambda x: -x[0])
        lines.append(f"- {heads} heads: {len(over)} of {len(found)}, the most {over[0][0]:.1%}.")
    lines.append(
        f"\nWith 16 heads they are ({plan.SMALL_SCRATCH >> 20} MiB, always granted, add narrow ones with 1 and 2):\n"
    )
    lines += ["| D | E | chunk | precision | share |", "|---|---|---|---|---|"]
    for share, shape in over:
        precision = str(shape.dtype).removeprefix("torch.")
        lines.append(f"| {shape.key} | {shape.hidden} | {shape.chunk} | {precision} | {share:.1%} |")
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
    inside = replace(H200, round=H200.round / 2.5, cache_rate=1e18, one_cache_rate=1e18)
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
        found.append(Lever("state in shared memory", *_times(base, inside),
                           "128 KiB a lane; nothing waits for the L2, rounds of 0.2 µs (assumed)"))  # fmt: skip
        found.append(Lever("recurrence back in blocks of 64", *_wide_blocks(base), "fewer rounds; needs registers"))
    found += [
        Lever(
            "12 layers in a pipeline", *_pipelined(base, 12), "a layer's share of 12 that run on successive segments"
        ),
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


def _wide_blocks(call: Call) -> tuple[float, float]:
    narrow = chosen("write_backward", call.shape, "hopper").block
    fewer = 4 * call.shape.hidden // narrow - 4 * call.shape.hidden // 64
    costs = [
        cost._replace(rounds=cost.rounds - fewer) if cost.kernel == "write_backward" else cost
        for cost in backward_costs(call.shape)
    ]
    forward = _times(call)[0]
    return forward, forward + sum(_seconds(costs, call))


def _pipelined(call: Call, layers: int) -> tuple[float, float]:
    """Recurrences of all layers side by side, a lane each; the share of one layer."""
    beside = Call(call.shape._replace(heads=call.shape.heads * layers), call.rows, call.tokens)
    times = [
        _seconds(costs, beside)[0] / layers + _seconds(costs, call)[1]
        for costs in (forward_costs(call.shape), backward_costs(call.shape))
    ]
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
        f"| {x.name} | {_ms(x.forward)} | {_ms(x.whole)} | {found[0].whole / x.whole:.1f}× | {x.remark} |"
        for x in found
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
