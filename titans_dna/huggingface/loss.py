"""Losses by the conventions of transformers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from titans_dna.huggingface.configuration import TitansDNAConfig


def next_token_loss(logits: Tensor, labels: Tensor, pad_id: int) -> Tensor:
    """The mean in nats of logits [b, t, ids] against labels [b, t] one place on; -100 and the padding id do not count.

    Zero, and not NaN, where no label counts.
    """
    targets = labels[:, 1:].masked_fill(labels[:, 1:] == pad_id, -100).to(logits.device)
    total = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


def label_loss(logits: Tensor, labels: Tensor, config: TitansDNAConfig) -> Tensor:
    """Of logits [b, num_labels], by `config.problem_type`; where it is None it is set, as the labels tell."""
    kind, labels = config.problem_type, labels.to(logits.device)
    if kind is None:
        classes = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        kind = config.problem_type = "regression" if config.num_labels == 1 else classes
    if kind == "regression":
        return F.mse_loss(logits.float().flatten(), labels.float().flatten())
    if kind == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return F.cross_entropy(logits.float(), labels.long().flatten())
