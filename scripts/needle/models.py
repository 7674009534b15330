"""The models that are compared, by name: all of one width and depth, and what a needle needs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from needle.options import NeedleOptions
from titans_dna.checkpoint import LANGUAGE, read_weights, save, write_weights
from titans_dna.config import TitansConfig
from titans_dna.nn.memory import NeuralMemory
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import NucleotideTokenizer
from transformer import Transformer

NeedleModel = TitansDNA | Transformer
WINDOW = 128
"""Tokens of the sliding windows, of MAC's segment, and of transformer-window."""
TAPS, WINDOWS = 13, (5, 6, 8, 12)
"""Tokens that the memory's convolution reaches over, a whole pair; and what the groups of its keys begin by seeing."""
NEVER = -1e4
"""A gate's bias that no input outweighs: its sigmoid is nought, and so is its gradient."""
PRICE = 0.01
"""Of writing: `pretrain --write_price`."""
REMEMBERING: dict[str, Any] = {
    "memory_depth": 1,
    "key_width": 256,
    "key_map": "cosine",
    "key_windows": WINDOWS,
    "gate_context": True,
    "gate_speed": 5.0,
    "forget_on_write": True,
    "half_life": 833_600,
    "attention_residual": True,
    "theta_max": 4.0,
}
"""What makes a memory remember. theta_max is above the usual 1: a pair stands in the text once, and at 1 it is written so
faintly that the task is learned several times slower; at the start, at half of 4, a chunk's step on one key is just 1."""
CHANGES: dict[str, dict[str, Any]] = {
    "lmm": {},
    "mac": {},
    "mag": {},
    "mal": {},
    "lmm-token-gates": {"gate_context": False},
    "lmm-silu-keys": {"key_map": "silu", "key_width": 0},
    "lmm-no-price": {},
    "lmm-no-momentum": {"momentum": False},
    "lmm-no-forgetting": {"forgetting": False, "forget_on_write": False},
    "lmm-deep": {"memory_depth": 2},
    "lmm-no-memory": {"forgetting": False, "forget_on_write": False},
}
"""Fields of the configuration, beside the variant and `REMEMBERING`, by name of a Titans model.

lmm-no-memory is never written: its inner learning rate is held at nought, and M stays the function M_0 that it learned.
What else lmm has stays: convolution, gates, feed-forward. lmm-0.1.0 has nothing of `REMEMBERING` but theta_max and half_life:
the memory of that version, deep, with the forget gates that it had here.
"""
PRICED = tuple(name for name in CHANGES if name not in ("lmm-no-price", "lmm-no-memory"))
"""Models that pay for what they write."""


def build(name: str, options: NeedleOptions) -> NeedleModel:
    """An untrained model, from torch's random state.

    The convolution of the memory reaches over a whole pair, so that a query can be all of a key, however deep the model.
    """
    task, train = options.task, options.train
    taps = max(TAPS, max(task.key_lengths) + task.value_length)
    frame: dict[str, Any] = {"width": train.width, "layers": train.layers, "heads": train.heads, "chunk": train.chunk}
    frame |= {"convolution": taps, "window": WINDOW, "segment": WINDOW}
    if name.startswith("transformer"):
        return Transformer(TitansConfig("lmm", **frame), window=WINDOW if name == "transformer-window" else 0)
    if name == "lmm-0.1.0":
        frame["convolution"] = max(task.key_lengths) + task.value_length
        config = TitansConfig("lmm", **frame, **{field: REMEMBERING[field] for field in ("theta_max", "half_life")})
    else:
        config = TitansConfig(name.split("-")[0], **frame, **(REMEMBERING | CHANGES[name]))
    model = TitansDNA(config)
    if name == "lmm-no-memory":
        _bias(model, "theta", NEVER)
    return model


def save_model(model: NeedleModel, directory: Path) -> None:
    """Weights, and for a Titans model all that `titans_dna.load` wants."""
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(model, TitansDNA):
        save(model, directory, NucleotideTokenizer())
    else:
        write_weights(model, directory / LANGUAGE.weights)


def load_model(name: str, options: NeedleOptions, directory: Path) -> NeedleModel:
    """What `save_model` wrote. ValueError naming the file where it is damaged or another model's."""
    model = build(name, options)
    read_weights(model, directory / LANGUAGE.weights)
    return model


@torch.no_grad()
def _bias(model: TitansDNA, gate: str, value: float) -> None:
    for memory in (module for module in model.modules() if isinstance(module, NeuralMemory)):
        memory.gates.bias[memory.gate_rows(gate)] = value
