"""What our models for transformers share: configuration and weights, those of ours, under the same names with "model." before.

Sequences stream as they do in `TitansDNA`: with `use_cache=True` the output holds `state`, and passed back, the
sequence goes on exactly. Padding at either end of a row changes nothing for its tokens.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from titans_dna.checkpoint import LANGUAGE, MODEL_TYPE, TUNED_TYPE, find_counts
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.nn.pools import POOLINGS
from titans_dna.tokens.vocabulary import PAD


class TitansDNAConfig(PretrainedConfig):
    """The configuration that transformers sees: ours, as it stands in config.json, and what a head on top needs.

    `TitansDNAConfig(config={"width": 64, ...})`; the model's own fields, those of `TitansConfig`, are in `config`.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["state", "hidden_states"]

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        pool: str = "mean",
        classifier_dropout: float = 0.0,
        pad_token_id: int = PAD,
        format: str = LANGUAGE.format["format"],
        version: int = LANGUAGE.format["version"],
        digests: Any = None,  # of the files that were read, and not of those to be written
        **kwargs: Any,  # what transformers itself keeps: labels, problem_type, dtype, ...
    ) -> None:
        """config: fields of `TitansConfig`, those left out at their defaults.
        pool: of the classifier, one of mean, max, last, mean-max, attention; classifier_dropout: before its linear layer.

        Raises ValueError for an unknown field or pool, and for a file of another format.
        """
        del digests
        if {"format": format, "version": version} != LANGUAGE.format:
            raise ValueError(f"config.json: got {format!r} version {version}, want {LANGUAGE.format}")
        if pool not in POOLINGS:
            raise ValueError(f"pool: got {pool!r}, want one of {', '.join(POOLINGS)}")
        titans = TitansConfig.from_dict(config or {})
        self.config = titans.to_dict()
        self.format, self.version = format, version
        self.pool, self.classifier_dropout = pool, classifier_dropout
        # Copies, under the names that transformers and what is built on it ask for.
        copies = {
            "vocab_size": titans.vocab_size,
            "hidden_size": titans.width,
            "num_hidden_layers": titans.layers,
            "num_attention_heads": titans.heads,
            "tie_word_embeddings": titans.tie_embeddings,
        }
        super().__init__(**{**kwargs, **copies, "pad_token_id": pad_token_id})

    @property
    def titans(self) -> TitansConfig:
        """The model's own configuration."""
        return TitansConfig.from_dict(self.config)


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


class TitansDNAFineTunedConfig(PretrainedConfig):
    """What titans-dna finetune wrote is no model of transformers, and says so."""

    model_type = TUNED_TYPE

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError."""
        want = "titans_dna.load(DIRECTORY), and titans_dna.predict"
        raise ValueError(f"a fine-tuned model of titans-dna is none of transformers: want {want}")


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
            if not self.head_in_use:
                self.model.set_submodule("head", _Unused(self.model.head.weight))
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
        if model.config.titans.counts:
            model.model.counts = find_counts(Path(str(args[0])))
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
                parts = self.model.parts()
                first = [] if self.model.entry is not None else [(self.model.embedding, lambda y: y)]
                watched = [*first, *((part, lambda y: y[0]) for part in parts)]
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
        if self.model.kmer_head is not None and not self.head_in_use:
            self.model.kmer_head.requires_grad_(False)


class _Unused(nn.Module):
    """Weights that stay in the file. No linear layer: tools that change each of those, as adapters do, leave them alone."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach())

    def forward(self, hidden: Tensor) -> Tensor:
        """What `TitansDNA.logits` takes for its logits: nothing."""
        return hidden[..., :0]


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
