"""A model as a directory: weights as safetensors, configuration and tokeniser as JSON; no pickle anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from titans_dna.config import TitansConfig
from titans_dna.hub import download, is_hub_id, upload
from titans_dna.nn.model import TitansDNA
from titans_dna.run.files import replacing
from titans_dna.tokens.tokenizer import Tokenizer, load_tokenizer

WEIGHTS, CONFIG, TOKENIZER, CARD = "model.safetensors", "config.json", "tokenizer.json", "README.md"
FORMAT: dict[str, Any] = {"format": "titans-dna model", "version": 1}
MODEL_TYPE = "titans-dna"
"""By this name transformers finds `titans_dna.huggingface`."""
_TRANSFORMERS = {"model_type": MODEL_TYPE, "architectures": ["TitansDNAForCausalLM"]}


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
        aside.write_text(json.dumps({**FORMAT, **_TRANSFORMERS, "config": model.config.to_dict()}, indent=2) + "\n")
    with replacing(directory / TOKENIZER) as aside:
        tokenizer.save(aside)


def load(directory: str | Path) -> TitansDNA:
    """The model that `save` (or `titans-dna pretrain`) wrote, on the CPU, in eval mode, its tokeniser as `.tokenizer`.

    What the `save_pretrained` of `titans_dna.huggingface`'s model and tokeniser wrote is as good; of a classifier, this
    is the model that it stands on.

    directory: the directory or one of its model files; where there is no such path, a Hugging Face hub id (user/name).

    Raises FileNotFoundError for a missing file, OSError where the hub has no such model or cannot be reached, and
    ValueError naming the file for a truncated or damaged one, an unknown configuration key, or weights that are not the
    configuration's.
    """
    directory = _find(directory)
    if (directory / "finetuned.json").is_file() and not (directory / CONFIG).exists():
        raise ValueError(
            f"{directory}: holds a fine-tuned model, want a pretrained one (titans_dna.load_finetuned takes the former)"
        )
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


def push(
    source: TitansDNA | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a model to the Hugging Face hub, and return the address of its page there.

    source: a model with its tokeniser, as `load` gives it, or a directory that `save` wrote. Weights, configuration,
        tokeniser and the card README.md go up, and nothing else; a short card is written where there is none.
    repo_id: user/name, made where it is missing, `private` then. token: of the hub; None is the one that is logged in.

    Raises ValueError for a model without a tokeniser or another kind of name, what `load` raises for a directory, and
    OSError where the hub cannot be reached or refuses.
    """
    if not is_hub_id(repo_id):
        raise ValueError(f"repo_id: got {repo_id!r}, want user/name")
    with TemporaryDirectory() as aside:
        folder = Path(aside)
        if isinstance(source, TitansDNA):
            tokenizer = getattr(source, "tokenizer", None)
            if tokenizer is None:
                raise ValueError(
                    "source: got a model without a tokenizer, want one that load gave or model.tokenizer set"
                )
            save(source, folder, cast(Tokenizer, tokenizer))
        else:
            load(Path(source))  # a damaged one stays here
            for name in (WEIGHTS, CONFIG, TOKENIZER, CARD):
                if (Path(source) / name).is_file():
                    shutil.copyfile(Path(source) / name, folder / name)
        if not (folder / CARD).exists():
            (folder / CARD).write_text(_card(repo_id))
        return upload(folder, repo_id, private=private, token=token, commit_message=commit_message)


def _card(repo_id: str) -> str:
    return f"""---
library_name: titans-dna
tags: [dna, genomics, titans]
---
# {repo_id.partition("/")[2]}

A DNA language model with a neural memory that learns at test time (Titans, arXiv 2501.00663).

    import titans_dna

    model = titans_dna.load("{repo_id}")
    vectors = model.embed(["ACGTACGTACGT"])
"""


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
    if not isinstance(values, dict) or {key: values.get(key) for key in FORMAT} != FORMAT:
        raise ValueError(f"{path}: got some other JSON, want format {FORMAT['format']!r} version {FORMAT['version']}")
    try:
        return TitansConfig.from_dict(values.get("config", {}))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_weights(model: TitansDNA, path: Path) -> None:
    try:
        found = _plain(load_file(path))
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


def _plain(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's own names, where `titans_dna.huggingface` wrote them with "model." before, maybe beside a classifier."""
    if not any(name.startswith("model.") for name in found):
        return found
    return {name.removeprefix("model."): value for name, value in found.items() if not name.startswith("classifier.")}
