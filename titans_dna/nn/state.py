"""Recurrent state as plain values, and as a file: what a model remembers, to go on from, or to ask questions of, at any later
time. No pickle is needed to read it.

A state file is one safetensors file. Its metadata hold the structure, the fingerprint of the model that read the sequence, and
what was read. Identical states are identical files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from titans_dna.nn.attention import SegmentState, SlidingState
from titans_dna.nn.blocks import ConvState, MACState, MAGState
from titans_dna.nn.entry import EntryState
from titans_dna.nn.memory import NeuralMemoryState
from titans_dna.nn.model import TitansDNA, map_state, tensors_of, weights_fingerprint
from titans_dna.run.files import replacing
from titans_dna.tokens.vocabulary import UNK
from titans_kernels import MemoryState

_FORMAT = {"format": "titans-dna state", "version": "1"}
# By the names that version 0.1.0 gave them on the disk, wherever a class lives today. No other class is ever made.
_CLASSES: dict[str, Any] = {
    "titans_kernels.state:MemoryState": MemoryState,
    "titans_dna.memory:NeuralMemoryState": NeuralMemoryState,
    "titans_dna.attention:SegmentState": SegmentState,
    "titans_dna.attention:SlidingState": SlidingState,
    "titans_dna.blocks:ConvState": ConvState,
    "titans_dna.entry:EntryState": EntryState,
    "titans_dna.blocks:MACState": MACState,
    "titans_dna.blocks:MAGState": MAGState,
}
_KINDS = {one: kind for kind, one in _CLASSES.items()}
# What a state does not depend on: the heads, which read it, and how the blocks are regularised in training.
_APART = ("head.", "kmer_head.")
_APART_SETTINGS = ("dropout", "tie_embeddings")


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

    Raises ValueError for a state of another number of parts, OSError where nothing can be written.
    """
    if len(state) != len(model.parts()):
        raise ValueError(f"state: got {len(state)} parts, want the model's {len(model.parts())}")
    found: dict[int, tuple[int, Tensor]] = {}

    def number(x: Tensor) -> dict[str, int]:
        """What stands for a tensor; one that stands twice has one number."""
        return {"tensor": found.setdefault(id(x), (len(found), x))[0]}

    here = map_state(lambda x: x.detach().cpu(), state)
    structure = pack_state(here, number)
    named = {f"state.{i}": x.contiguous().clone() for i, x in found.values()}
    named |= {f"beside.{name}": x.detach().cpu().contiguous().clone() for name, x in (tensors or {}).items()}
    metadata = {
        **_FORMAT,
        "model": model_fingerprint(model),
        "structure": json.dumps(structure),
        "about": json.dumps(dict(about or {})),
    }
    with replacing(path) as aside:
        _write(aside, to_bytes(named, metadata))


def load_state(path: str | Path, model: TitansDNA) -> Remembered:
    """The state in a file, for the model that wrote it, on the device of its weights.

    Raises FileNotFoundError where there is none, and ValueError naming the file for one that is truncated or damaged, is
    something else, is not finite, or is of another model: a state means nothing to other weights.
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
            if metadata.get("model") != model_fingerprint(model):
                raise ValueError(f"{path}: is of another model: other weights or settings than those of this one")
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or damaged: {' '.join(str(error).split())}") from None
    if metadata.get("digest") not in (None, _digest(metadata, _tensor_bytes(path))):
        raise ValueError(f"{path}: damaged: its bytes are not those that were written")
    device = model.norm.weight.device
    beside = {name.removeprefix("beside."): x for name, x in named.items() if name.startswith("beside.")}
    try:
        structure, about = json.loads(metadata["structure"]), json.loads(metadata["about"])
        tensors = [named[f"state.{i}"] for i in range(len(named) - len(beside))]
        here = [x.to(device) if x.is_floating_point() else x for x in tensors]
        state = unpack_state(structure, device, here)
        _check(state, model)
    except (
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        RuntimeError,
    ) as error:  # a RecursionError is a RuntimeError
        raise ValueError(f"{path}: truncated or damaged: {' '.join(str(error).split()):.200}") from None
    return Remembered(state, about, beside)


def model_fingerprint(model: TitansDNA) -> str:
    """Digest of the weights and settings that a state depends on."""
    config = {name: value for name, value in model.config.identity().items() if name not in _APART_SETTINGS}
    counted = "" if model.counts is None else f" {model.counts.digest}"
    return f"{weights_fingerprint(model, skip=_APART)} {json.dumps(config, sort_keys=True)}{counted}"


def pack_state(state: Any, tensor: Callable[[Tensor], Any] | None = None) -> Any:
    """A nested structure of state classes, tuples, lists, tensors, numbers and None, as dicts and leaves.

    tensor: what stands for a tensor; by default itself on the CPU, marked where it was on an accelerator. Raises TypeError for
    anything else in there.
    """
    if isinstance(state, Tensor):
        return (tensor or _on_the_cpu)(state)
    if state is None or isinstance(state, (bool, int, float)):
        return state
    if kind := _KINDS.get(type(state)):
        names = getattr(state, "_fields", None) or state.__dataclass_fields__
        return {"kind": kind, "fields": {name: pack_state(getattr(state, name), tensor) for name in names}}
    if isinstance(state, (tuple, list)) and not hasattr(state, "_fields"):
        kind = "list" if isinstance(state, list) else "tuple"
        return {"kind": kind, "items": [pack_state(value, tensor) for value in state]}
    raise TypeError(f"state: got {type(state).__name__}, want states, tuples, lists, tensors, numbers or None")


def unpack_state(packed: Any, device: torch.device, tensors: Sequence[Tensor] = ()) -> Any:
    """The inverse of `pack_state`; tensors that were on an accelerator go to `device`. Only the state classes of this project
    are ever made.

    tensors: those that stand in the structure by their number. Raises ValueError where `packed` is nothing that `pack_state`
    gave, IndexError for a number without a tensor.
    """
    if not isinstance(packed, dict):
        return packed
    if packed.keys() == {"tensor"}:
        return tensors[packed["tensor"]]
    kind = packed.get("kind")
    if kind == "accelerator":
        return packed["value"].to(device)
    if kind in ("tuple", "list"):
        values = [unpack_state(value, device, tensors) for value in packed["items"]]
        return tuple(values) if kind == "tuple" else values
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise ValueError(f"state: got kind {kind!r:.80}, want a state class of titans_dna or titans_kernels")
    fields = {name: unpack_state(value, device, tensors) for name, value in packed["fields"].items()}
    try:
        return _CLASSES[kind](**fields)
    except TypeError as error:
        raise ValueError(f"state: {error}") from None


def _on_the_cpu(x: Tensor) -> Any:
    return x if x.device.type == "cpu" else {"kind": "accelerator", "value": x.cpu()}


def _check(state: Any, model: TitansDNA) -> None:
    """ValueError, or what torch raises, for what is no state of this model."""
    parts = len(model.parts())
    if not isinstance(state, tuple) or len(state) != parts or any(one is None for one in state):
        raise ValueError(f"got no state of {parts} parts")
    if not all(bool(x.isfinite().all()) for x in tensors_of(state)):
        raise ValueError("holds values that are not finite")
    rows = {len(x) for x in tensors_of(state)}
    if len(rows) != 1:
        raise ValueError(f"got tensors of {sorted(rows)} rows, want one number of them")
    # Whether the model can go on from it is known best by itself.
    token, training = torch.full((*rows, 1), UNK, device=model.norm.weight.device), model.training
    try:
        with torch.inference_mode():
            _, after = model.eval().features(token, state)
    finally:
        model.train(training)
    if [type(one) for one in after] != [type(one) for one in state]:
        raise ValueError("got a state of other parts")


def _digest(metadata: Mapping[str, str], tensors: Iterable[Any]) -> str:
    """Of what a state file says of itself, and of the bytes of its tensors."""
    said = json.dumps({key: value for key, value in sorted(metadata.items()) if key != "digest"})
    digest = hashlib.blake2b(said.encode(), digest_size=16)
    for some in tensors:
        digest.update(some)
    return digest.hexdigest()


def _tensor_bytes(path: Path) -> Iterator[bytes]:
    """They come last in the file."""
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while some := file.read(1 << 20):
            yield some


def _write(path: Path, file: bytes) -> None:
    """A safetensors file with its digest, and its metadata sorted by name: the library writes them in any order."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    tensors = memoryview(file)[start:]
    header["__metadata__"]["digest"] = _digest(header["__metadata__"], [tensors])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.writelines((len(text).to_bytes(8, "little"), text, tensors))
