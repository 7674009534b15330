"""Digest of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import nn


def weights_fingerprint(model: nn.Module, skip: Sequence[str] = ()) -> str:
    """32 hexadecimal digits that change with any weight, its name or its shape, but for those to skip."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        if name in skip:
            continue
        digest.update(f"{name}\t{list(weight.shape)}\t{weight.dtype}\n".encode())
        digest.update(weight.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
