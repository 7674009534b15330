"""What of a model is trained: all of it, the head alone, or low-rank adapters (arXiv 2106.09685) and the head."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from titans_dna.nn.finetuned import FineTuned


def choose_trained(model: FineTuned, tune: str, rank: int) -> None:
    """Leave gradients to what `tune` (full, scratch, frozen, lora) trains. The language-model head never is."""
    tied = model.backbone.config.tie_embeddings
    if tune in ("frozen", "lora"):
        model.backbone.requires_grad_(False)
    elif not tied:
        model.backbone.head.requires_grad_(False)
    if tune == "lora":
        _add_adapters(model.backbone, rank)


def merge_adapters(model: FineTuned) -> None:
    """Add what the adapters have learned to the weights beside them, and take them out."""
    for name, module in list(model.backbone.named_modules()):
        if hasattr(module, "lora_A"):
            adapted: Any = module
            adapted.merge(safe_merge=True)
            parent, _, last = name.rpartition(".")
            setattr(model.backbone.get_submodule(parent), last, adapted.get_base_layer())


def check_tune(tune: str) -> None:
    """ValueError where the library that it needs is missing."""
    if tune == "lora" and importlib.util.find_spec("peft") is None:
        raise ValueError("--tune: lora needs peft, which is not installed: pip install 'titans-dna[lora]'")


def _add_adapters(backbone: nn.Module, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, one in backbone.named_modules() if isinstance(one, nn.Linear) and name != "head"]
    # The output layers of memories and attention, their projections, gates, and the feed-forward: all that is linear.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), backbone)
