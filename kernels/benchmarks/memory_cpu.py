"""Our memory beside titans-pytorch's, on the CPU: tokens per second and growth of memory, forward and backward.

    pip install titans-pytorch==0.5.5
    python kernels/benchmarks/memory_cpu.py [--tokens 4096 16384] [--threads 2] [--repeats 3]

One layer each, projections included: width 256, 4 heads of 64, L = 2, hidden width 256 (E = 4D), chunk 64, float32, batch 1.
The peer runs with batch_size = chunk_size = 64, the setting in which it computes the paper's rule. Measurements alternate,
each in a process of its own; before any of them, our layer is checked against the token-by-token reference.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

WIDTH, HEADS, CHUNK, EXPANSION = 256, 4, 64, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WHO", "TOKENS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    check()
    report(options)


def report(options: argparse.Namespace) -> None:
    """The table: medians over the repeats, and the ratio within each repeat."""
    try:
        peer = f"titans-pytorch {version('titans-pytorch')}"
    except PackageNotFoundError:
        sys.exit("titans-pytorch: not installed, want it beside this package: pip install titans-pytorch==0.5.5")
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), forward and backward, median of {options.repeats}\n"
    )
    print(f"| tokens | ours, tokens/s | {peer}, tokens/s | ratio (least to most) | ours, peak MB | peer, peak MB |")
    print("|---|---|---|---|---|---|")
    peaks: dict[str, list[float]] = {"ours": [], "peer": []}
    for tokens in options.tokens:
        runs = [{who: child(who, tokens, options.threads) for who in ("ours", "peer")} for _ in range(options.repeats)]
        rate = {who: statistics.median(run[who]["rate"] for run in runs) for who in peaks}
        ratios = sorted(run["ours"]["rate"] / run["peer"]["rate"] for run in runs)
        for who, found in peaks.items():
            found.append(statistics.median(run[who]["peak"] for run in runs))
        print(
            f"| {tokens:,} | {rate['ours']:,.0f} | {rate['peer']:,.0f} | {statistics.median(ratios):.1f} "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f}) | {peaks['ours'][-1]:,.0f} | {peaks['peer'][-1]:,.0f} |",
            flush=True,
        )
    if len(options.tokens) > 1:
        thousands = (options.tokens[-1] - options.tokens[0]) / 1024
        growth = {who: (found[-1] - found[0]) / thousands for who, found in peaks.items()}
        scan = [child("scan", tokens, options.threads)["peak"] for tokens in (options.tokens[0], options.tokens[-1])]
        print(f"\nGrowth per 1,024 tokens: ours {growth['ours']:.1f} MB, {peer} {growth['peer']:.1f} MB;")
        print(f"memory_scan alone, inputs and their gradients included: {(scan[1] - scan[0]) / thousands:.1f} MB")


def child(who: str, tokens: int, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", who, str(tokens)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def measure(who: str, tokens: int) -> dict[str, float]:
    torch.manual_seed(0)
    run = scan(tokens) if who == "scan" else layer(ours() if who == "ours" else theirs(), tokens)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run().sum().backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
    return {"rate": tokens / min(seconds[1:]), "peak": peak}


def layer(module: torch.nn.Module, tokens: int) -> Callable[[], torch.Tensor]:
    x = torch.randn(1, tokens, WIDTH, requires_grad=True)
    return lambda: module(x)[0]


def scan(tokens: int) -> Callable[[], torch.Tensor]:
    from titans_kernels import memory_scan

    d = WIDTH // HEADS
    q, k, v = (torch.randn(1, tokens, HEADS, d).div_(d**0.5).requires_grad_() for _ in range(3))
    alpha, eta, theta = (torch.rand(1, tokens, HEADS).div_(CHUNK).requires_grad_() for _ in range(3))
    shapes = ((HEADS, d, EXPANSION * d), (HEADS, EXPANSION * d, d))
    memory = [torch.randn(shape).div_(d**0.5).requires_grad_() for shape in shapes]
    return lambda: memory_scan(q, k, v, alpha=alpha, eta=eta, theta=theta, memory=memory, chunk=CHUNK, max_norm=32.0)[0]


def ours() -> torch.nn.Module:
    from titans_dna.config import TitansConfig
    from titans_dna.nn.memory import NeuralMemory

    return NeuralMemory(TitansConfig(width=WIDTH, heads=HEADS, chunk=CHUNK, memory_expansion=EXPANSION, convolution=0))


def theirs() -> torch.nn.Module:
    from titans_pytorch import NeuralMemory
    from titans_pytorch.memory_models import MemoryMLP

    mlp = MemoryMLP(WIDTH // HEADS, depth=2, expansion_factor=EXPANSION)
    return NeuralMemory(
        dim=WIDTH, heads=HEADS, dim_head=WIDTH // HEADS, chunk_size=CHUNK, batch_size=CHUNK, model=mlp,
        mem_model_norm_add_residual=False,
    )  # fmt: skip


def check() -> None:
    """A fast wrong answer is not measured."""
    from titans_kernels import memory_scan

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 100, 2, 8, generator=generator, dtype=torch.float64) / 3 for _ in range(3))
    alpha, eta, theta = (torch.rand(1, 100, 2, generator=generator, dtype=torch.float64) / 10 for _ in range(3))
    memory = [torch.randn(2, 8, 8, generator=generator, dtype=torch.float64) / 3 for _ in range(2)]
    fast, exact = (
        memory_scan(q, k, v, alpha=alpha, eta=eta, theta=theta, memory=memory, chunk=16, backend=backend)[0]
        for backend in ("chunked", "reference")
    )
    torch.testing.assert_close(fast, exact)


if __name__ == "__main__":
    main()
