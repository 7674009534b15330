"""Which device a verb computes on."""

from __future__ import annotations

import torch


def choose_device(accelerator: str) -> str:
    """cpu or cuda, from auto, cpu or cuda. ValueError where a GPU is wanted and there is none."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("--accelerator: got cuda, but PyTorch finds no CUDA device here; want cpu or auto")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
