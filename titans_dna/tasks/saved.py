"""A fine-tuned model as a directory: weights as safetensors, question, configuration and tokeniser as JSON; no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from titans_dna.config import TitansConfig
from titans_dna.hub import download, is_hub_id, upload
from titans_dna.nn.model import TitansDNA
from titans_dna.run.files import replacing
from titans_dna.tasks.model import FineTuned, Question
from titans_dna.tokens.tokenizer import load_tokenizer

WEIGHTS, CONFIG, TOKENIZER = "finetuned.safetensors", "finetuned.json", "tokenizer.json"
FILES = (WEIGHTS, CONFIG, TOKENIZER)
UNSAVED = "backbone.head.weight"
_FORMAT = {"format": "titans-dna fine-tuned model", "version": 1}


def save_finetuned(model: FineTuned, directory: str | Path) -> None:
    """Write model, label map and tokeniser into a directory, which is made where it is missing."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    values = {**_FORMAT, "question": model.question.to_dict(), "config": model.backbone.config.to_dict()}
    with replacing(directory / WEIGHTS) as aside:
        aside.write_bytes(to_bytes(_weights(model), metadata={"format": "pt"}))
    with replacing(directory / CONFIG) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n")
    with replacing(directory / TOKENIZER) as aside:
        model.tokenizer.save(aside)


def load_finetuned(source: str | Path) -> FineTuned:
    """The model that `titans-dna finetune` wrote, on the CPU, in eval mode.

    source: its directory; where there is no such path, a Hugging Face hub id (user/name).

    Raises FileNotFoundError where there is none, and ValueError naming the file for one that is truncated, damaged, or
    another model's.
    """
    directory = Path(source)
    if not directory.exists() and is_hub_id(str(source)):
        directory = download(str(source), FILES)
    for name in FILES:
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory / name}: no such file, want a directory that titans-dna finetune wrote"
            )
    path = directory / CONFIG
    values = _read(path)
    try:
        question, config = Question.from_dict(values.get("question")), TitansConfig.from_dict(values.get("config", {}))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    tokenizer = load_tokenizer(directory / TOKENIZER)
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"{directory / TOKENIZER}: got {tokenizer.vocab_size} ids, want {config.vocab_size}")
    model = FineTuned(TitansDNA(config), question, tokenizer)
    _read_weights(model, directory / WEIGHTS)
    model.backbone.tokenizer = tokenizer  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model.eval()


def push_finetuned(
    source: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload the model that `titans-dna finetune` wrote into a directory to the Hugging Face hub, and return its address.

    Weights, question and tokeniser go up with the table of results, which becomes the card; `load_finetuned(repo_id)` gives
    the model back. repo_id, private, token and what is raised: as for `checkpoint.push`.
    """
    if not is_hub_id(repo_id):
        raise ValueError(f"repo_id: got {repo_id!r}, want user/name")
    model = load_finetuned(source)  # a damaged one stays here
    with TemporaryDirectory() as aside:
        folder = Path(aside)
        save_finetuned(model, folder)
        results = Path(source) / "results.md"
        found = results.read_text(encoding="utf-8") if results.is_file() else ""
        (folder / "README.md").write_text(_card(repo_id, model.question, found), encoding="utf-8")
        return upload(folder, repo_id, private=private, token=token, commit_message=commit_message)


def _card(repo_id: str, question: Question, results: str) -> str:
    classes = f": {', '.join(question.classes)}" if question.classes else ""
    return f"""---
library_name: titans-dna
tags: [dna, genomics, titans]
---
# {repo_id.partition("/")[2]}

A Titans model (arXiv 2501.00663) fine-tuned with titans-dna; one answer for each {question.unit}, {question.task}{classes}.

```python
import titans_dna

model = titans_dna.load_finetuned("{repo_id}")
```

{results}"""


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path}: got no valid JSON, want a fine-tuned model's configuration") from None
    if not isinstance(values, dict) or {key: values.get(key) for key in _FORMAT} != _FORMAT:
        raise ValueError(f"{path}: got some other JSON, want format {_FORMAT['format']!r} version {_FORMAT['version']}")
    return values


def _weights(model: FineTuned) -> dict[str, torch.Tensor]:
    """Without the language-model head, which answers another question (and may be the embedding)."""
    named = model.state_dict().items()
    return {name: value.detach().cpu().contiguous() for name, value in named if name != UNSAVED}


def _read_weights(model: FineTuned, path: Path) -> None:
    try:
        found = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged weights: {' '.join(str(error).split())}") from None
    wanted = _weights(model)
    for name in sorted(wanted.keys() | found.keys()):
        got, want = (list(part[name].shape) if name in part else "nothing" for part in (found, wanted))
        if got != want:
            raise ValueError(f"{path}: {name}: got {got}, want {want} for this configuration")
    model.load_state_dict(found, strict=False)
