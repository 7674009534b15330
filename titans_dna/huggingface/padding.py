"""Padded rows for a causal model: the tokens of every row moved to its front, where no padding stands before them."""

from __future__ import annotations

import torch
from torch import Tensor


def tokens_mask(ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Which of ids [b, t] are tokens, bool [b, t].

    attention_mask: 1 or True for tokens, [b, t], or [b, past + t] where earlier calls read the past.
    Raises ValueError for a mask of another shape, a row without a token, and padding between tokens.
    """
    if attention_mask.ndim != 2 or len(attention_mask) != len(ids) or attention_mask.shape[1] < ids.shape[1]:
        raise ValueError(f"attention_mask: got shape {list(attention_mask.shape)}, want {list(ids.shape)} as input_ids")
    mask = attention_mask[:, -ids.shape[1] :].bool()
    place = torch.arange(ids.shape[1], device=ids.device)
    first, count = first_token(mask), mask.sum(1)
    solid = (place >= first[:, None]) & (place < (first + count)[:, None])
    if not bool(((solid == mask).all(1) & (count > 0)).all()):
        raise ValueError("attention_mask: got a row without a token, or padding between tokens, want it at one end")
    return mask


def first_token(mask: Tensor) -> Tensor:
    """Place of each row's first token, [b]."""
    return mask.int().argmax(1)


def rotate(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x [b, t, ...] turned to the left by `places` [b]; what leaves in front comes in at the end."""
    index = (torch.arange(x.shape[1], device=x.device) + places[:, None]) % x.shape[1]
    return x[torch.arange(len(x), device=x.device)[:, None], index]
