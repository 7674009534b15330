"""Which device a verb computes on, with how many threads, and how much memory it took."""

from __future__ import annotations

import sys

import torch


def choose_device(accelerator: str, threads: int = 0) -> str:
    """cpu or cuda, from auto, cpu or cuda; threads: of the CPU, 0 leaves the choice to PyTorch.

    ValueError where a GPU is wanted and there is none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("--accelerator: got cuda, but PyTorch finds no CUDA device here; want cpu or auto")
    if threads:
        torch.set_num_threads(threads)
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def process_peak() -> int:
    """The highest resident memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
