"""The checkpoint of a run: all that `--resume` needs, in one file that is whole at any moment."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from titans_dna.nn.state import pack_state, unpack_state
from titans_dna.train.module import PretrainModule

FILE = "checkpoint.pt"
_FORMAT = "titans-dna run 1"
_COUNTERS = ("step", "batches", "skipped", "skipped_in_a_row")


def save_checkpoint(path: Path, module: PretrainModule, about: dict[str, Any]) -> None:
    """Write the run's position, weights, optimiser and lane state, with `about` (plain values) beside them."""
    values = {
        "format": _FORMAT,
        "about": about,
        "counters": {name: getattr(module, name) for name in _COUNTERS},
        "model": module.model.state_dict(),
        "optimiser": module.adamw().optimizer.state_dict(),
        "state": pack_state(module.state),
        "device": module.device.type,
    }
    write_values(path, values)


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Plain values and tensors as a file that is whole at any moment: until the new one is on the disk, the old stays."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as out:
        torch.save(values, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote; raises what `read_values` raises."""
    return read_values(path, _FORMAT, "titans-dna pretrain")


def read_values(path: Path, kind: str, writer: str) -> dict[str, Any]:
    """What `write_values` wrote with `kind` as "format", on the CPU; only plain values and tensors are ever unpickled.

    Raises FileNotFoundError, and ValueError for a file that is truncated, damaged or something else.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        raise ValueError(f"{path}: truncated or damaged checkpoint") from None
    if not isinstance(values, dict) or values.get("format") != kind:
        raise ValueError(f"{path}: got some other file, want a checkpoint of {writer}")
    return values


def restore(module: PretrainModule, values: dict[str, Any]) -> None:
    """Put weights and position back. Optimiser and lanes follow in `restore_running`, once the run has a device."""
    module.model.load_state_dict(values["model"])
    for name in _COUNTERS:
        setattr(module, name, values["counters"][name])


def restore_running(module: PretrainModule, values: dict[str, Any]) -> None:
    """Put optimiser and lane state back.

    Raises ValueError where lanes would have to move between a CPU and an accelerator.
    """
    if values["state"] is not None and values["device"] != module.device.type:
        raise ValueError(f"--accelerator: got {module.device.type}, but the lanes to resume are on {values['device']}")
    module.adamw().optimizer.load_state_dict(values["optimiser"])
    state = unpack_state(values["state"], module.device)
    module.state = None if state is None else module.copy_state(state)
