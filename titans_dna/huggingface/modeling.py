"""The models that transformers' `AutoModel`, `AutoModelForCausalLM` and `AutoModelForSequenceClassification` give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.generation.utils import ALL_CACHE_NAMES
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from titans_dna.huggingface.base import State, TitansDNAConfig, TitansDNAOutput, TitansDNAPreTrainedModel, tokens_mask
from titans_dna.nn.model import take_rows
from titans_dna.nn.pools import PooledHead
from titans_dna.tokens.vocabulary import PAD, UNK

CACHE = ALL_CACHE_NAMES[0]
"""What `generate` calls a cache, of which it reorders the rows for its beams: that changes with its version."""


@dataclass
class TitansDNACausalLMOutput(ModelOutput):
    """logits [b, t, vocab_size]; position t predicts token t + 1."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    state: tuple[Any, ...] | None = None


class TitansDNAModel(TitansDNAPreTrainedModel):
    """Hidden states; `AutoModel`. The head of the language model stays in the weights, without use."""

    def __init__(self, config: TitansDNAConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        state: tuple[Any, ...] | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: None = None,
        output_attentions: None = None,
    ) -> TitansDNAOutput | tuple[Any, ...]:
        """input_ids, attention_mask: [b, t]; state: what the call before returned, with `use_cache=True`.

        The last two arguments are for libraries that always pass them. Raises what `read` raises.
        """
        output = self.read(input_ids, attention_mask, state, use_cache, output_hidden_states)
        return output.to_tuple() if return_dict is False else output


class TitansDNAForCausalLM(TitansDNAPreTrainedModel, GenerationMixin):
    """The next token; `AutoModelForCausalLM`. `generate` reads a token a step, with the state carried."""

    head_in_use = True

    def __init__(self, config: TitansDNAConfig) -> None:
        super().__init__(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.model.head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        state: tuple[Any, ...] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: None = None,
        output_attentions: None = None,
    ) -> TitansDNACausalLMOutput | tuple[Any, ...]:
        """As `TitansDNAModel.forward`; and

        labels: ids [b, t], moved by one place inside; -100 and the padding id do not count. The loss is the mean in nats.
        logits_to_keep: logits of so many last positions alone; 0 is all.
        """
        output = self.read(input_ids, attention_mask, state, use_cache, output_hidden_states)
        assert output.last_hidden_state is not None
        kept = 0 if labels is not None else logits_to_keep
        assert input_ids is not None
        ids = input_ids
        if attention_mask is not None:
            ids = ids.masked_fill(~tokens_mask(ids, attention_mask), PAD)
        logits = self.model.logits(output.last_hidden_state[:, -kept:], ids, state)
        loss = None if labels is None else _next_token_loss(logits, labels, self.config.pad_token_id)
        done = TitansDNACausalLMOutput(loss, logits, output.hidden_states, output.state)
        return done.to_tuple() if return_dict is False else done

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. Prompts of several lengths have no state in common: unless `use_cache` says otherwise, they are
        read again for each token."""
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and not bool(mask.all()):
            kwargs.setdefault("use_cache", False)
        return super().generate(inputs, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: tuple[Any, ...] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        **others: Any,  # positions, of which this model has none; and what it knows a state by
    ) -> dict[str, Any]:
        """The arguments of `forward` for one step of `generate`, which knows a state as its cache once it has one: then the
        newest token alone."""
        reached = others.get(CACHE)
        new = input_ids if reached is None else input_ids[:, -1:]
        return {
            "input_ids": new.contiguous(),
            "attention_mask": attention_mask,
            "state": state if reached is None else reached,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
            "output_hidden_states": output_hidden_states,
        }

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: Any, *args: Any, **kwargs: Any) -> Any:
        updated = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        return updated if outputs.state is None else {**updated, CACHE: outputs.state}

    def _reorder_cache(self, state: tuple[Any, ...], beam_idx: Tensor) -> State:
        # Parts of the state are on the CPU, where a GPU's index is no index.
        return State(take_rows(state, beam_idx.cpu()))


class TitansDNAForSequenceClassification(TitansDNAPreTrainedModel):
    """Labels or numbers for a sequence; `AutoModelForSequenceClassification`. The pool counts every token once, special
    ones and padding not at all."""

    def __init__(self, config: TitansDNAConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.classifier = _classifier(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The head can be absent from a checkpoint, which is then a language model's."""
        _restart(self.classifier, module, self.config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: None = None,
        output_attentions: None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `TitansDNAModel.forward`, but without a mask the padding id is padding; logits [b, num_labels].

        labels: numbers [b] or [b, num_labels] for regression, classes [b], or 0 and 1 [b, num_labels] for several at a
        time; which of these is `config.problem_type`, or else one output is regression, whole numbers [b] are classes.
        """
        if attention_mask is None and input_ids is not None:
            attention_mask = input_ids != self.config.pad_token_id
        output = self.read(input_ids, attention_mask, None, None, output_hidden_states)
        assert input_ids is not None
        assert attention_mask is not None
        assert output.last_hidden_state is not None
        widths = (attention_mask.bool() & (input_ids >= UNK)).long()
        logits, _ = self.classifier(output.last_hidden_state, widths)
        loss = None if labels is None else _label_loss(logits, labels, self.config)
        done = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return done.to_tuple() if return_dict is False else done


@torch.no_grad()
def _restart(head: PooledHead, part: nn.Module, config: TitansDNAConfig) -> None:
    """Draw anew what a checkpoint lacked of a part of the head; transformers marks what was there."""
    fresh = _classifier(config)
    for name, module in head.named_modules():
        if module is part:
            for mine, new in zip(module.parameters(False), fresh.get_submodule(name).parameters(False), strict=True):
                if not getattr(mine, "_is_hf_initialized", False):
                    mine.copy_(new)


def _classifier(config: TitansDNAConfig) -> PooledHead:
    return PooledHead(config.titans.width, config.num_labels or 2, config.pool, config.classifier_dropout)


def _next_token_loss(logits: Tensor, labels: Tensor, pad_id: int) -> Tensor:
    """The mean in nats of logits [b, t, ids] against labels [b, t] one place on; -100 and the padding id do not count.

    Zero, and not NaN, where no label counts.
    """
    targets = labels[:, 1:].masked_fill(labels[:, 1:] == pad_id, -100).to(logits.device)
    total = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


def _label_loss(logits: Tensor, labels: Tensor, config: TitansDNAConfig) -> Tensor:
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
