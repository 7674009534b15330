"""The Hugging Face hub: what comes from there and goes there, and how a model is named there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def is_hub_id(name: str) -> bool:
    """Whether this is of the form user/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


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
        why = f"no such directory, and not to be had from the Hugging Face hub: {_reason(error)}"
        raise OSError(f"{name}: {why}") from None


def upload(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Put all files of a folder into a hub model as one commit, and return the address of its page.

    The model is made where it is missing, `private` then. Raises OSError with one line where the hub cannot be reached
    or refuses.
    """
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    hub = huggingface_hub.HfApi(token=token)
    try:
        page = hub.create_repo(repo_id, private=private, exist_ok=True)
        message = commit_message or "Upload a titans-dna model"
        hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except Exception as error:  # of the library, of its HTTP client, or of the file system
        raise OSError(f"{repo_id}: not uploaded to the Hugging Face hub: {_reason(error)}") from None
    return str(page)


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
