"""Recurrent state as plain values, so that a checkpoint or a file can hold it and no pickle is needed to read it."""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Any

import torch

_PACKAGES = ("titans_dna.", "titans_kernels.")


def pack_state(state: Any) -> Any:
    """A nested structure of dataclasses, NamedTuples, tuples, lists, tensors, numbers and None, as dicts and leaves.

    Tensors come to the CPU; those that were on an accelerator are marked.
    """
    if isinstance(state, torch.Tensor):
        return state if state.device.type == "cpu" else {"kind": "accelerator", "value": state.cpu()}
    if state is None or isinstance(state, (bool, int, float)):
        return state
    if dataclasses.is_dataclass(state):
        fields = {field.name: pack_state(getattr(state, field.name)) for field in dataclasses.fields(state)}
        return {"kind": _name(state), "fields": fields}
    if names := getattr(state, "_fields", None):
        return {"kind": _name(state), "fields": {name: pack_state(getattr(state, name)) for name in names}}
    if isinstance(state, (tuple, list)):
        return {"kind": type(state).__name__, "items": [pack_state(value) for value in state]}
    raise TypeError(f"state: got {type(state).__name__}, want dataclasses, tuples, lists, tensors, numbers or None")


def unpack_state(packed: Any, device: torch.device) -> Any:
    """The inverse of `pack_state`; marked tensors go to `device`. Only state classes of this project are ever made.

    Raises ValueError where `packed` is nothing that `pack_state` gave.
    """
    if not isinstance(packed, dict):
        return packed
    kind = packed.get("kind")
    if kind == "accelerator":
        return packed["value"].to(device)
    if kind in ("tuple", "list"):
        values = [unpack_state(value, device) for value in packed["items"]]
        return tuple(values) if kind == "tuple" else values
    return _field_class(kind)(**{name: unpack_state(value, device) for name, value in packed["fields"].items()})


def _name(state: Any) -> str:
    # As version 0.1.0 named them: a file does not say in which room of this package a class lives.
    module = type(state).__module__.replace("titans_dna.nn.", "titans_dna.")
    return f"{module}:{type(state).__qualname__}"


def _field_class(kind: Any) -> Any:
    if isinstance(kind, str) and kind.startswith(_PACKAGES):
        module, _, name = kind.partition(":")
        module = re.sub(r"^titans_dna\.(?!nn\.)", "titans_dna.nn.", module)
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type) and (dataclasses.is_dataclass(found) or hasattr(found, "_fields")):
            return found
    raise ValueError(f"state: got kind {kind!r:.80}, want a state class of titans_dna or titans_kernels")
