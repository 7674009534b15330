"""The models side by side, all of one width, depth and number of heads."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor, nn

from titans_dna.config import TitansConfig
from titans_dna.nn.memory import NeuralMemory
from titans_dna.nn.model import Output, TitansDNA
from transformer import Transformer

PEER = "titans-pytorch"
PEER_VERSION = "0.5.5"
LABELS = {
    "lmm": "ours, LMM",
    "mac": "ours, MAC",
    "mag": "ours, MAG",
    "mal": "ours, MAL",
    "peer-mac": f"{PEER}, MAC",
    "full": "Transformer++, full attention",
    "window": "Transformer++, sliding window",
    "memory": "ours, bare memory layer",
    "peer-memory": f"{PEER}, bare memory layer",
}
VARIANTS = ("lmm", "mac", "mag", "mal")
STREAMED = (*VARIANTS, "window", "memory")
"""Read in pieces with the state carried; the others in one call."""
PEERS = ("peer-mac", "peer-memory")


class Bare(nn.Module):
    """One memory layer between an embedding and nothing: `model(ids, state)`, its output in place of logits."""

    def __init__(self, config: TitansConfig, memory: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.memory = memory

    def forward(self, ids: Tensor, state: Any = None) -> Output:
        x = self.embedding(ids)
        y, state = self.memory(x) if state is None else self.memory(x, state)
        return Output(y, y, state)


class PeerModel(nn.Module):
    """The peer's language model behind the call that ours have; it takes a sequence whole."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Output:
        logits = self.model(ids)
        return Output(logits, logits, ())


def load(name: str, preset: str) -> Callable[[], nn.Module]:
    """What makes a model; everything is imported once this returns."""
    config = TitansConfig.preset(preset)
    if name in VARIANTS:
        return lambda: TitansDNA(config.replace(variant=name))
    if name in ("full", "window"):
        return lambda: Transformer(config, config.window if name == "window" else 0)
    if name == "memory":  # without the convolution, which the peer's has not
        return lambda: Bare(config, NeuralMemory(config.replace(convolution=0)))
    return _peer(name, config)


def peer_version() -> str:
    """Version of the peer beside this package; empty where there is none."""
    try:
        return version(PEER)
    except PackageNotFoundError:
        return ""


def _peer(name: str, config: TitansConfig) -> Callable[[], nn.Module]:
    """The peer at the same sizes, with memory chunks and batches of `chunk`, the setting in which it computes the paper's rule.

    As close to ours as it can be set: one MLP of the same shape a head with neither norm nor residual, as many persistent
    tokens, the same hidden width in the feed-forward, one residual stream instead of four (which makes it quicker). Its
    largest inner rate is 0.01 instead of 1, at which its output is NaN after 128 tokens; the work is the same.
    """
    from titans_pytorch import MemoryAsContextTransformer
    from titans_pytorch import NeuralMemory as PeerMemory
    from titans_pytorch.memory_models import MemoryMLP

    mlp = lambda: MemoryMLP(  # noqa: E731
        config.head_width, depth=config.memory_depth, expansion_factor=float(config.memory_expansion)
    )
    inner = {
        "heads": config.heads,
        "dim_head": config.head_width,
        "mem_model_norm_add_residual": False,
        "default_step_transform_max_lr": 0.01,
    }
    if name == "peer-memory":
        return lambda: Bare(
            config,
            PeerMemory(dim=config.width, chunk_size=config.chunk, batch_size=config.chunk, model=mlp(), **inner),
        )
    return lambda: PeerModel(
        MemoryAsContextTransformer(
            num_tokens=config.vocab_size,
            dim=config.width,
            depth=config.layers,
            heads=config.heads,
            dim_head=config.head_width,
            ff_mult=1.5 * config.ffn_hidden / config.width,
            segment_len=config.segment,
            num_persist_mem_tokens=config.persistent,
            num_residual_streams=1,
            neural_memory_layers=tuple(range(1, config.layers + 1)),
            neural_memory_segment_len=config.chunk,
            neural_memory_batch_size=config.chunk,
            neural_memory_model=mlp(),
            neural_memory_kwargs=inner,
        )
    )
