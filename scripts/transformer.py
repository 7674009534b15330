"""Transformer++ of a Titans configuration's size: the yardstick that has attention in place of the memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import TitansConfig
from titans_dna.nn.attention import SlidingAttention, SlidingState, apply_rope
from titans_dna.nn.layers import RMSNorm, SwiGLU
from titans_dna.nn.model import Output, initialise

MASK = 1 << 22
"""Largest number of flags in one mask of queries by keys."""


class Transformer(nn.Module):
    """A causal language model of pre-norm blocks: attention with rotary positions, and SwiGLU; no biases.

    Width, layers, heads, feed-forward, vocabulary, dropout, tied embeddings and rotary base are the configuration's; what
    it says of memory, segments and windows has no part here.
    """

    def __init__(self, config: TitansConfig, window: int = 0) -> None:
        """window: 0, every token attends to all before it; else to the last `window` tokens, itself included.

        Raises ValueError for a negative window.
        """
        super().__init__()
        if window < 0:
            raise ValueError(f"window: got {window}, want at least 1, or 0 for full attention")
        self.config, self.window = config, window
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(TransformerBlock(config, window) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.logit_scale = initialise(self, config)

    def forward(self, ids: Tensor, state: tuple[SlidingState | FullState, ...] | None = None) -> Output:
        """ids: whole numbers [b, t], t >= 1, below vocab_size. state: what the call before returned; None is a fresh start.

        The tokens of a sequence may come in one call or in pieces of any length: the outputs are the same. The state of
        full attention grows with every token: keys and values, 2 * width numbers a token and block.
        Raises ValueError on another shape or kind, or a state of another model.
        """
        if ids.ndim != 2 or ids.shape[1] < 1 or ids.is_floating_point():
            raise ValueError(f"ids: got {ids.dtype} {list(ids.shape)}, want whole numbers [b, t] with t at least 1")
        if state is not None and len(state) != len(self.blocks):
            raise ValueError(f"state: got {len(state)} blocks, want {len(self.blocks)}")
        x = self.embedding(ids.long())
        after = []
        for block, before in zip(self.blocks, state or (None,) * len(self.blocks), strict=True):
            x, new = block(x, before)
            after.append(new)
        hidden = self.norm(x)
        return Output(hidden, self.head(hidden) * self.logit_scale, tuple(after))

    def parameter_count(self) -> int:
        """Number of learned values, a tied embedding counted once."""
        return sum(p.numel() for p in self.parameters())


class TransformerBlock(nn.Module):
    """Pre-norm, attention, residual; pre-norm, SwiGLU, residual."""

    def __init__(self, config: TitansConfig, window: int) -> None:
        super().__init__()
        width, heads, base = config.width, config.heads, config.rope_base
        self.norm = RMSNorm(width)
        self.attention = SlidingAttention(width, heads, window, base) if window else FullAttention(width, heads, base)
        self.ffn_norm = RMSNorm(width)
        self.ffn = SwiGLU(width, config.ffn_hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, state: SlidingState | FullState | None = None
    ) -> tuple[Tensor, SlidingState | FullState]:
        """x [b, t, width] and the state to the same."""
        mixed, after = self.attention(self.norm(x), state)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.ffn(self.ffn_norm(x))), after


class FullState(NamedTuple):
    """Keys, rotated by their place in the sequence, and values of all tokens so far, [b, s, h, d]."""

    keys: Tensor
    values: Tensor


class FullAttention(nn.Module):
    """Causal attention over all tokens so far, by PyTorch's fused kernels; `width` / `heads` must be even."""

    def __init__(self, width: int, heads: int, rope_base: float = 10000.0) -> None:
        super().__init__()
        self.heads, self.rope_base = heads, rope_base
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, state: FullState | None = None) -> tuple[Tensor, FullState]:
        """x [b, t, width] to y of the same shape, and the state that continues the sequence.

        Raises ValueError for a state of another number of rows.
        """
        if state is not None and len(state.keys) != len(x):
            raise ValueError(f"state: got {len(state.keys)} batch rows, want {len(x)} as in x")
        seen = 0 if state is None else state.keys.shape[1]
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        position = torch.arange(seen, seen + x.shape[1], device=x.device)
        q, k = (apply_rope(z, position, self.rope_base) for z in (q, k))
        if state is not None:
            k, v = torch.cat([state.keys, k], dim=1), torch.cat([state.values, v], dim=1)
        y = _attend(*(z.transpose(1, 2) for z in (q, k, v)))
        return self.output(y.transpose(1, 2).flatten(2)), FullState(k, v)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [b, h, t, d] over k, v [b, h, seen + t, d]: token i sees the first seen + i + 1 keys.

    After other tokens the fused kernels want a mask; the queries go in blocks, so that none is ever large.
    """
    t, seen = q.shape[2], k.shape[2] - q.shape[2]
    if seen == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if t == 1:
        return F.scaled_dot_product_attention(q, k, v)
    block = max(1, MASK // (seen + t))
    outputs = []
    for start in range(0, t, block):
        stop = min(start + block, t)
        keys = seen + stop
        visible = torch.ones(stop - start, keys, dtype=torch.bool, device=q.device).tril(seen + start)
        part = F.scaled_dot_product_attention(q[:, :, start:stop], k[:, :, :keys], v[:, :, :keys], attn_mask=visible)
        outputs.append(part)
    return torch.cat(outputs, dim=2)
