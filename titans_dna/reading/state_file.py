"""What a model remembers, as a file: the state after a sequence, to go on from, or to ask questions of, at any later time.

One safetensors file. Its metadata hold the structure, the fingerprint of the model that read the sequence, and what was read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from titans_dna.fingerprint import weights_fingerprint
from titans_dna.nn.model import TitansDNA, map_state
from titans_dna.nn.state import pack_state, unpack_state
from titans_dna.run.files import replacing

_FORMAT = {"format": "titans-dna state", "version": "1"}
# What a state does not depend on: the head, which reads it, and how the blocks are regularised in training.
_APART = ("head.weight",)


class Remembered(NamedTuple):
    """A state from a file."""

    state: tuple[Any, ...]
    """As `model(ids, state)` takes it, on the model's device."""
    about: dict[str, Any]
    """What `save_state` was told of it."""
    tensors: dict[str, Tensor]
    """Further tensors that were saved beside it."""


def save_state(
    path: str | Path,
    state: tuple[Any, ...],
    model: TitansDNA,
    about: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state that `model` returned, of any number of rows. The file appears whole or not at all.

    about: plain values to keep with it, such as what was read. tensors: further tensors, by name.

    Raises ValueError for a state of another number of blocks, OSError where nothing can be written.
    """
    if len(state) != len(model.blocks):
        raise ValueError(f"state: got {len(state)} blocks, want the model's {len(model.blocks)}")
    found: list[Tensor] = []
    here = map_state(lambda x: x.detach().cpu(), state)
    structure = _take_out(pack_state(here), found, {})
    named = {f"state.{i}": x.contiguous().clone() for i, x in enumerate(found)}
    named |= {f"beside.{name}": x.detach().cpu().contiguous().clone() for name, x in (tensors or {}).items()}
    metadata = {
        **_FORMAT,
        "model": model_fingerprint(model),
        "structure": json.dumps(structure),
        "about": json.dumps(dict(about or {})),
    }
    with replacing(path) as aside:
        aside.write_bytes(to_bytes(named, metadata))


def load_state(path: str | Path, model: TitansDNA) -> Remembered:
    """The state in a file, for the model that wrote it, on the device of its weights.

    Raises FileNotFoundError where there is none, and ValueError naming the file for one that is truncated or damaged, is
    something else, or is of another model: a state means nothing to other weights.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory, want a state file, as titans-dna remember writes it")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file, want a state file, as titans-dna remember writes it")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if {key: metadata.get(key) for key in _FORMAT} != _FORMAT:
                raise ValueError(f"{path}: holds something else, want a state file, as titans-dna remember writes it")
            if metadata["model"] != model_fingerprint(model):
                raise ValueError(f"{path}: is of another model: other weights or settings than those of this one")
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            structure, about = json.loads(metadata["structure"]), json.loads(metadata["about"])
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or damaged: {' '.join(str(error).split())}") from None
    device = model.norm.weight.device
    packed = _put_back(structure, {name: x for name, x in named.items() if name.startswith("state.")}, device)
    beside = {name.removeprefix("beside."): x for name, x in named.items() if name.startswith("beside.")}
    return Remembered(unpack_state(packed, device), about, beside)


def model_fingerprint(model: TitansDNA) -> str:
    """Digest of the weights and settings that a state depends on."""
    config = {
        name: value for name, value in model.config.to_dict().items() if name not in ("dropout", "tie_embeddings")
    }
    return f"{weights_fingerprint(model, skip=_APART)} {json.dumps(config, sort_keys=True)}"


def _take_out(packed: Any, found: list[Tensor], numbers: dict[int, int]) -> Any:
    """The structure with a number in place of each tensor; one that stands twice has one number."""
    if isinstance(packed, Tensor):
        if id(packed) not in numbers:
            numbers[id(packed)] = len(found)
            found.append(packed)
        return {"tensor": numbers[id(packed)]}
    if isinstance(packed, dict):
        return {name: _take_out(value, found, numbers) for name, value in packed.items()}
    if isinstance(packed, list):
        return [_take_out(value, found, numbers) for value in packed]
    return packed


def _put_back(structure: Any, named: dict[str, Tensor], device: torch.device) -> Any:
    """The inverse of `_take_out`; tensors of floating point go to the device, once each."""
    for name, x in named.items():
        named[name] = x.to(device) if x.is_floating_point() else x

    def put(part: Any) -> Any:
        if isinstance(part, dict):
            if part.keys() == {"tensor"}:
                return named[f"state.{part['tensor']}"]
            return {name: put(value) for name, value in part.items()}
        return [put(value) for value in part] if isinstance(part, list) else part

    return put(structure)
