"""Times the memory's kernels on a GPU in several launch configurations, each first checked against the float64 path.

    python kernels/benchmarks/configurations.py --layers 2 32,4,2 64,8,1       block, warps and stages of all kernels alike
    python kernels/benchmarks/configurations.py --layers 1 0,4,1 0,8,1

By default with the device's own family of instructions; --arch sm80 takes older ones. TRITON_PTXAS_PATH names another
assembler. One line a configuration: right or not, milliseconds of each kernel's launches together in one forward and backward
at the first goal's size, the least of --repeats.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import gpu_checks
import torch

from titans_kernels.triton import configurations, launch

KERNELS = ("shares", "write", "read", "read_backward", "write_backward", "share_backward")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configuration", nargs="+", help="block,warps,stages")
    parser.add_argument("--layers", type=int, choices=(1, 2), default=2)
    parser.add_argument("--arch", default="", help="sm80: the instructions of the A100")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("a GPU: got none that torch sees, want one")
    device, case = torch.device("cuda"), gpu_checks.GOALS[2 - options.layers]
    events: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for name in KERNELS:
        setattr(launch, name, timed(getattr(launch, name), events[name]))
    for text in options.configuration:
        block, warps, stages = map(int, text.split(","))
        chosen = configurations.Configuration(block, warps, stages, options.arch)
        shares = configurations.Configuration(0, 1, 1)
        launch.configuration = lambda kernel, *_, chosen=chosen, shares=shares: shares if kernel == "shares" else chosen
        found = gpu_checks.check(replace(case, name="small", tokens=200), device)
        least = dict.fromkeys(KERNELS, float("inf"))
        for _ in range(options.repeats):
            for one in events.values():
                one.clear()
            gpu_checks.run(case, "triton", None, device)
            torch.cuda.synchronize()
            for name in KERNELS:
                least[name] = min(least[name], sum(start.elapsed_time(stop) for start, stop in events[name]))
        told = ", ".join(f"{name} {value:.1f}" for name, value in least.items())
        print(f"{text}: {'right' if found.right else 'WRONG'}; {told}; all {sum(least.values()):.1f} ms", flush=True)
    return 0


def timed(function: Any, events: list[tuple[Any, Any]]) -> Any:
    def run(*args: Any, **named: Any) -> Any:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        found = function(*args, **named)
        stop.record()
        events.append((start, stop))
        return found

    return run


if __name__ == "__main__":
    sys.exit(main())
