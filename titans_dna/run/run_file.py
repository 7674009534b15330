"""The options of a run, as its directory holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_options(path: Path, what: str) -> dict[str, Any]:
    """The mapping of a YAML file that a run (or a benchmark: `what`) wrote to be resumed.

    Raises FileNotFoundError, or ValueError for a damaged file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--resume: {path.parent} holds no {what} to resume ({path.name} is missing)")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got no mapping of options, want what a {what} wrote")
    return values
