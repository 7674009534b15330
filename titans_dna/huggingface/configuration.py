"""The configuration that transformers sees: ours, as it stands in config.json, and what a head on top needs."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PretrainedConfig

from titans_dna.checkpoint import FORMAT, MODEL_TYPE
from titans_dna.config import TitansConfig
from titans_dna.nn.heads import POOLINGS
from titans_dna.tokens.vocabulary import PAD


class TitansDNAConfig(PretrainedConfig):
    """`TitansDNAConfig(config={"width": 64, ...})`; the model's own fields, those of `TitansConfig`, are in `config`."""

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["state", "hidden_states"]

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        pool: str = "mean",
        classifier_dropout: float = 0.0,
        pad_token_id: int = PAD,
        format: str = FORMAT["format"],
        version: int = FORMAT["version"],
        **kwargs: Any,  # what transformers itself keeps: labels, problem_type, dtype, ...
    ) -> None:
        """config: fields of `TitansConfig`, those left out at their defaults.
        pool: of the classifier, one of mean, max, last, attention; classifier_dropout: before its linear layer.

        Raises ValueError for an unknown field or pool, and for a file of another format.
        """
        if {"format": format, "version": version} != FORMAT:
            raise ValueError(f"config.json: got {format!r} version {version}, want {FORMAT}")
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
