"""A model as a directory: weights as safetensors, configuration and tokeniser as JSON; no pickle anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from titans_dna.config import TitansConfig
from titans_dna.data.cache import replacing
from titans_dna.data.tokenizer import Tokenizer, load_tokenizer
from titans_dna.hub import download, is_hub_id
from titans_dna.model import TitansDNA

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
_FORMAT = {"format": "titans-dna model", "version": 1}


def save(model: TitansDNA, directory: str | Path, tokenizer: Tokenizer) -> None:
    """Write a model and its tokeniser into a directory, which is made where it is missing.

    Raises ValueError where the tokeniser's vocabulary is not the model's, and OSError where nothing can be written.
    """
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(f"tokenizer: got {tokenizer.vocab_size} ids, want the model's {model.config.vocab_size}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / WEIGHTS) as aside:
        aside.write_bytes(to_bytes(_weights(model), metadata={"format": "pt"}))
    with replacing(directory / CONFIG) as aside:
        aside.write_text(json.dumps({**_FORMAT, "config": model.config.to_dict()}, indent=2) + "\n")
    with replacing(directory / TOKENIZER) as aside:
        tokenizer.save(aside)


def load(directory: str | Path) -> TitansDNA:
    """The model that `save` (or `titans-dna pretrain`) wrote, on the CPU, in eval mode, its tokeniser as `.tokenizer`.

    directory: the directory or one of its model files; where there is no such path, a Hugging Face hub id (user/name).

    Raises FileNotFoundError for a missing file, OSError where the hub has no such model or cannot be reached, and
    ValueError naming the file for a truncated or damaged one, an unknown configuration key, or weights that are not the
    configuration's.
    """
    directory = _find(directory)
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory / name}: no such file, want a directory that titans-dna pretrain wrote"
            )
    model = TitansDNA(_read_config(directory / CONFIG))
    tokenizer = load_tokenizer(directory / TOKENIZER)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"{directory / TOKENIZER}: got {tokenizer.vocab_size} ids, want the model's {model.config.vocab_size}"
        )
    _read_weights(model, directory / WEIGHTS)
    model.tokenizer = tokenizer  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model.eval()


def _find(source: str | Path) -> Path:
    path, files = Path(source), (CONFIG, TOKENIZER, WEIGHTS)
    if path.is_file() and path.name in files:
        return path.parent
    return path if path.exists() or not is_hub_id(str(source)) else download(str(source), files)


def _weights(model: TitansDNA) -> dict[str, torch.Tensor]:
    """The state dictionary without the head where it is the embedding: a file cannot hold one tensor twice."""
    names = {**model.state_dict()}
    if model.config.tie_embeddings:
        del names["head.weight"]
    return {name: value.detach().cpu().contiguous() for name, value in names.items()}


def _read_config(path: Path) -> TitansConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path}: got no valid JSON, want a model's configuration") from None
    if not isinstance(values, dict) or {key: values.get(key) for key in _FORMAT} != _FORMAT:
        raise ValueError(f"{path}: got some other JSON, want format {_FORMAT['format']!r} version {_FORMAT['version']}")
    try:
        return TitansConfig.from_dict(values.get("config", {}))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_weights(model: TitansDNA, path: Path) -> None:
    try:
        found = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged weights: {' '.join(str(error).split())}") from None
    wanted = _weights(model)
    for name in wanted.keys() | found.keys():
        got, want = (list(part[name].shape) if name in part else "nothing" for part in (found, wanted))
        if got != want:
            raise ValueError(f"{path}: {name}: got {got}, want {want} for this configuration")
    if model.config.tie_embeddings:
        found["head.weight"] = found["embedding.weight"]
    model.load_state_dict(found)
