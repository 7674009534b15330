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
THETA_MAX = 4.0
"""Bound of the inner learning rate, above the usual 1: a pair stands in the text once, and at 1 it is written so faintly
that the task is learned several times slower. At the start, at half of this, a chunk's step on one key is just 1."""
FORGET_BIAS = -14.0
"""Bias of the forget gates at the start, half forgotten in 800,000 bases: training at 1,000 teaches a gate little about
what to keep for a million. lmm-quick has the package's own start, half forgotten in 760 with one head."""
NEVER = -1e4
"""A gate's bias that no input outweighs: its sigmoid is nought, and so is its gradient."""
CHANGES: dict[str, dict[str, Any]] = {
    "lmm": {},
    "mac": {},
    "mag": {},
    "mal": {},
    "lmm-no-momentum": {"momentum": False},
    "lmm-no-forgetting": {"forgetting": False},
    "lmm-linear": {"memory_depth": 1},
    "lmm-quick": {},
    "lmm-no-memory": {"forgetting": False},
}
"""Fields of the configuration, beside the variant, by name of a Titans model.

lmm-no-memory is never written: its inner learning rate is held at nought, and M stays the function M_0 that it learned.
What else lmm has stays: convolution, gates, feed-forward.
"""


def build(name: str, options: NeedleOptions) -> NeedleModel:
    """An untrained model, from torch's random state.

    The convolution of the memory reaches over a whole pair, so that a query can be all of a key, however deep the model.
    """
    task, train = options.task, options.train
    config = TitansConfig(
        variant=name.split("-")[0] if name in CHANGES else "lmm",
        width=train.width,
        layers=train.layers,
        heads=train.heads,
        chunk=train.chunk,
        convolution=max(task.key_lengths) + task.value_length,
        theta_max=THETA_MAX,
        window=WINDOW,
        segment=WINDOW,
        **CHANGES.get(name, {}),
    )
    if name.startswith("transformer"):
        return Transformer(config, window=WINDOW if name == "transformer-window" else 0)
    model = TitansDNA(config)
    if config.forgetting and name != "lmm-quick":
        _bias(model, "alpha", FORGET_BIAS)
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
