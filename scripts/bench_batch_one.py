"""One sequence has few lanes: what brings speed at batch 1 on this machine. For docs/long_context.md.

    python scripts/bench_batch_one.py [--variant lmm] [--preset small-0.1.0] [--tokens 16384] [--repeats 3]

Rates are tokens per second, medians, of one piece with carried state: forward, and forward and backward, all in one run.
The rows: as it is, with 1 and 2 threads; two layers side by side, layer 1 on one piece beside layer 2 on the piece before (a
thread each); more lanes (the same tokens as rows of a batch, which is what packing brings); larger chunks; local memories.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="lmm")
    parser.add_argument("--preset", default="small-0.1.0")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.preset} {options.variant}, {options.tokens:,} tokens\n")
    print("| | threads | forward | forward and backward |\n|---|---|---|---|")
    for name, threads, change, rows in (
        ("as it is", 1, {}, 1),
        ("as it is", 2, {}, 1),
        ("2 lanes", 1, {}, 2),
        ("8 lanes", 1, {}, 8),
        ("chunk 128", 1, {"chunk": 128}, 1),
        ("chunk 256", 1, {"chunk": 256}, 1),
        ("restart 1024", 1, {"restart": 1024}, 1),
    ):
        forward, both = measure(options, threads, change, rows)
        print(f"| {name} | {threads} | {forward:,.0f} | {both:,.0f} |", flush=True)
    print(f"| layers side by side | 2 | {side_by_side(options):,.0f} | |", flush=True)


def build(options: argparse.Namespace, change: dict[str, int]) -> TitansDNA:
    torch.manual_seed(0)
    return TitansDNA(TitansConfig.preset(options.preset, variant=options.variant, **change)).eval()


def measure(options: argparse.Namespace, threads: int, change: dict[str, int], rows: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    model, ids = build(options, change), torch.randint(7, 11, (rows, options.tokens // rows))
    with torch.no_grad():
        state = model(ids).state

    def forward() -> None:
        with torch.inference_mode():
            model(ids, state)

    def both() -> None:
        model(ids, state).logits.sum().backward()

    return rate(forward, options), rate(both, options)


def rate(work: Callable[[], None], options: argparse.Namespace) -> float:
    seconds = []
    work()
    for _ in range(options.repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return options.tokens / statistics.median(seconds)


def side_by_side(options: argparse.Namespace) -> float:
    """Forward, the lower half of the blocks on one piece while the upper half is on the piece before."""
    torch.set_num_threads(1)
    model, pieces = build(options, {}), torch.randint(7, 11, (1, options.tokens)).split(2048, dim=1)
    half = len(model.blocks) // 2

    @torch.inference_mode()
    def lower(ids: torch.Tensor, state: list) -> torch.Tensor:
        x = model.embedding(ids)
        for i, block in enumerate(model.blocks[:half]):
            x, state[i] = block(x, state[i])
        return x

    @torch.inference_mode()
    def upper(x: torch.Tensor, state: list) -> torch.Tensor:
        for i, block in enumerate(model.blocks[half:], start=half):
            x, state[i] = block(x, state[i])
        return model.head(model.norm(x))

    with ThreadPoolExecutor(2) as pool:

        def stream() -> None:
            state: list = [None] * len(model.blocks)
            x = lower(pieces[0], state)
            for ids in pieces[1:]:
                above = pool.submit(upper, x, state)
                x = pool.submit(lower, ids, state).result()
                above.result()
            upper(x, state)

        return rate(stream, options)


if __name__ == "__main__":
    main()
