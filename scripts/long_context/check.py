"""A fast wrong answer is not measured: what the lengths rest on, held to one call over a length where both fit."""

from __future__ import annotations

import torch
from torch import nn

from long_context.measure import draw, losses
from long_context.models import STREAMED, load
from titans_dna.train.piecewise import piecewise_loss

TOKENS, PIECE = 2048, 700


def check(names: list[str], preset: str) -> str:
    """What is wrong, in a line; empty where all holds.

    Streamed logits are those of one call (float32, 1e-4 of the largest), and the gradient of `piecewise_loss` is the plain
    one (float64, 1e-9 of the largest of each weight), over 2,048 tokens in pieces of 700.
    """
    ids = draw(TOKENS + 1, "cpu", torch.Generator().manual_seed(2))
    for name in (name for name in names if name in (*STREAMED, "full")):
        torch.manual_seed(0)
        model = load(name, preset)()
        error = streaming_error(model, ids[:, :-1])
        if not error <= 1e-4:
            return f"{name}: streamed logits differ from those of one call by {error:.1e} of the largest, want 1e-4"
        error = gradient_error(model.double(), name, ids)
        if not error <= 1e-9:
            return f"{name}: the gradient in pieces differs from the plain one by {error:.1e} of the largest, want 1e-9"
    return ""


@torch.inference_mode()
def streaming_error(model: nn.Module, ids: torch.Tensor) -> float:
    """Largest difference of the logits, as a part of the largest logit."""
    whole, state, parts = model(ids).logits, None, []
    for piece in ids.split(PIECE, dim=1):
        out = model(piece, state)
        state = out.state
        parts.append(out.logits)
    return ((torch.cat(parts, dim=1) - whole).abs().max() / whole.abs().max()).item()


def gradient_error(model: nn.Module, name: str, ids: torch.Tensor) -> float:
    """Largest difference of any weight's gradient, as a part of the largest of that weight."""
    parameters, loss = list(model.parameters()), losses(name, ids[:, 1:])
    plain = torch.autograd.grad(loss(model(ids[:, :-1]).logits, slice(0, TOKENS)).weighted, parameters)
    sums, _ = piecewise_loss(model, ids[:, :-1], loss, PIECE)
    pieces = torch.autograd.grad(sums.weighted, parameters)
    errors = [(a - b).abs().max() / b.abs().max().clamp_min(1e-30) for a, b in zip(pieces, plain, strict=True)]
    return torch.stack(errors).max().item()
