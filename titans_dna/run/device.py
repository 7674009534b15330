"""Which device a verb computes on, with how many threads, and how much memory it took."""

from __future__ import annotations

import os
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


TRAINED = 16
"""Bytes of a parameter while it is trained: itself, its gradient, and the two moments of AdamW."""


def check_memory(parameters: int, kind: str, flag: str = "--preset, --model.*") -> None:
    """ValueError for a model that cannot be trained on cpu or cuda, because the numbers alone take more memory than there is:
    before it is built."""
    if kind == "cuda":
        there = torch.cuda.mem_get_info()[1]
    else:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if parameters * TRAINED > there:
        raise ValueError(
            f"{flag}: got a model of {min(parameters, 10**18):,} parameters, which take {TRAINED} bytes each in training, want "
            f"one that fits into the {there / 1e9:,.0f} GB of this machine"
        )


def process_peak() -> int:
    """The highest resident memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
