"""Models on the Hugging Face hub: the files of one, kept in the hub's own cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether this is of the form user/name."""
    return _ID.fullmatch(name) is not None


def download(name: str, files: Sequence[str]) -> Path:
    """The directory with these files of a hub model, from the cache where they are there already.

    Nothing but the named files is ever fetched. Raises OSError with one line where the hub cannot be reached or has no
    such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # of the library, of its HTTP client, or of the file system
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise OSError(f"{name}: no such directory, and not to be had from the Hugging Face hub: {reason}") from None
