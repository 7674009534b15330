"""What our models for transformers share: the same weights as ours, under the same names with "model." before.

Sequences stream as they do in `TitansDNA`: with `use_cache=True` the output holds `state`, and passed back, the
sequence goes on exactly. Padding at either end of a row changes nothing for its tokens.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from titans_dna.huggingface.configuration import TitansDNAConfig
from titans_dna.huggingface.padding import first_token, rotate, tokens_mask
from titans_dna.nn.model import TitansDNA


class State(tuple[Any, ...]):
    """`titans_dna.nn.model.Output.state`, and that it cannot be cut back or compiled, which `generate` asks of a cache."""

    is_croppable = is_compileable = False


@dataclass
class TitansDNAOutput(ModelOutput):
    """last_hidden_state [b, t, width], after the last norm; with `output_hidden_states` also the embedding's output and
    each block's; with `use_cache` the state that continues the sequence."""

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    state: tuple[Any, ...] | None = None


class TitansDNAPreTrainedModel(PreTrainedModel):
    """What the three models share: the titans_dna model in `.model`, reading, loading."""

    config_class = TitansDNAConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    config: TitansDNAConfig
    head_in_use = False
    """Whether the head of the language model takes part."""
    _is_stateful = True
    _tied_weights_keys = {"model.head.weight": "model.embedding.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: TitansDNAConfig) -> None:
        super().__init__(config)
        # transformers builds on "meta" before it loads, and bends constructors on the way: ours computes with values.
        loading = torch.get_default_device().type == "meta"
        with torch.device("cpu") if loading else nullcontext():
            self.model = TitansDNA(config.titans)
        self._freeze_unused_head()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers; but the weights must be all there. Raises ValueError naming those that are not."""
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        missing = sorted(name for name in info["missing_keys"] if name.startswith("model."))
        if missing or info["unexpected_keys"]:
            names = ", ".join(missing + sorted(info["unexpected_keys"]))
            raise ValueError(f"{args[0]}: got weights that are not this configuration's: {names:.200}")
        model._freeze_unused_head()  # loading has made new parameters
        return (model, info) if output_loading_info else model

    def read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        state: tuple[Any, ...] | None,
        use_cache: bool | None,
        output_hidden_states: bool | None,
    ) -> TitansDNAOutput:
        """The output of the base model. Without a mask every id is a token, as everywhere in transformers.

        Raises ValueError for a mask that `tokens_mask` refuses, and for padding where a state goes in or out: rows
        that end at different places have no common one.
        """
        if input_ids is None or input_ids.ndim != 2 or input_ids.shape[1] < 1:
            got = "None" if input_ids is None else f"shape {list(input_ids.shape)}"
            raise ValueError(
                f"input_ids: got {got}, want whole numbers [b, t], t at least 1; inputs_embeds are not taken"
            )
        first = None
        if attention_mask is not None:
            mask = tokens_mask(input_ids, attention_mask)
            if (use_cache or state is not None) and not bool(mask.all()):
                raise ValueError(
                    "attention_mask: got padded rows beside a state, want rows of one length, or use_cache=False"
                )
            first = first_token(mask)
        if first is None or not bool(first.any()):
            hidden, layers, after = self._features(input_ids, state, bool(output_hidden_states))
        else:
            hidden, layers, after = self._features(rotate(input_ids, first), state, bool(output_hidden_states))
            hidden, layers = rotate(hidden, -first), [rotate(layer, -first) for layer in layers]
        kept = tuple(layers) if output_hidden_states else None
        return TitansDNAOutput(hidden, kept, State(after) if use_cache else None)

    def _features(
        self, ids: Tensor, state: tuple[Any, ...] | None, every_layer: bool
    ) -> tuple[Tensor, list[Tensor], tuple[Any, ...]]:
        layers: list[Tensor] = []
        with ExitStack() as hooks:
            if every_layer:
                watched = [
                    (self.model.embedding, lambda y: y),
                    *((block, lambda y: y[0]) for block in self.model.blocks),
                ]
                for module, part in watched:
                    hooks.enter_context(
                        module.register_forward_hook(lambda _, __, y, part=part: layers.append(part(y)))
                    )
            hidden, after = self.model.features(ids, state)
        return hidden, layers, after

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Raises ValueError for another number than there is: the vocabulary is the tokeniser's, and does not grow."""
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError(f"new_num_tokens: got {new_num_tokens}, want the tokenizer's {self.config.vocab_size}")
        return self.model.embedding

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Keep only each block's input in training and compute the rest again in the backward."""
        self.model.activation_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """The default."""
        self.model.activation_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.model.activation_checkpointing

    def _init_weights(self, module: nn.Module) -> None:
        """What the constructors drew stays, and a checkpoint holds all of it."""

    def _freeze_unused_head(self) -> None:
        """Distributed training stops at a parameter that gets no gradient."""
        if not (self.head_in_use or self.model.config.tie_embeddings):
            self.model.head.requires_grad_(False)
