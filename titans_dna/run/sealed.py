"""Files that carry the digest of their own bytes, so that what was altered or is damaged is not taken for what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from titans_dna.run.files import replacing, take_room, write_text, writing

_SEAL = b"titans-dna seal "


def digest_of(path: str | Path) -> str:
    """Of the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def seal(path: Path) -> None:
    """Append the digest of a file to it: readers of NumPy's files do not look behind the array."""
    digest = digest_of(path)
    with writing(path), open(path, "ab") as out:
        out.write(_SEAL + digest.encode())


def check_seal(path: Path) -> None:
    """ValueError where the bytes of a file are not those that were sealed; one without a seal is of version 0.1.0."""
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=16)
    left = size - len(_SEAL) - 32
    with open(path, "rb") as file:
        if left >= 0:
            file.seek(left)
        last = file.read()
        if not last.startswith(_SEAL):
            return
        file.seek(0)
        while left:
            some = file.read(min(left, 1 << 20))
            digest.update(some)
            left -= len(some)
    if last.removeprefix(_SEAL) != digest.hexdigest().encode():
        raise ValueError(f"{path}: damaged: its bytes are not those that were written")


def write_array(path: Path, values: np.ndarray) -> None:
    """An array as a sealed NumPy file."""
    with replacing(path) as aside:
        with open(aside, "wb") as out:
            np.save(out, values)
        seal(aside)


def read_array(path: Path, mapped: bool = False) -> np.ndarray:
    """What `write_array` wrote; mapped: left on the disk. ValueError where it is damaged."""
    check_seal(path)
    try:
        return np.load(path, mmap_mode="r" if mapped else None)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: truncated or damaged: {error}") from None


def new_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """Zeros in a file, to be filled there. Room is taken for all of it now: where a disk gets full under a mapped file, the
    process dies without a word."""
    with writing(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with writing(path), open(path, "r+b") as file:
        take_room(file, os.fstat(file.fileno()).st_size - array.nbytes, array.nbytes)
    return array


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Plain values with the digest of them."""
    write_text(path, json.dumps({**values, "digest": json_digest(values)}, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote, or version 0.1.0 without a digest. ValueError where it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.pop("digest", None) not in (None, json_digest(values)):
        raise ValueError(f"{path}: damaged: its bytes are not those that were written")
    return values


def with_digests(values: dict[str, Any], directory: Path, names: Iterable[str]) -> dict[str, Any]:
    """Plain values with the digest of them, and those of files that are there already."""
    return {**values, "digests": {"": json_digest(values), **{name: digest_of(directory / name) for name in names}}}


def check_digests(values: dict[str, Any], path: Path) -> None:
    """ValueError where what `path` holds is not what `with_digests` gave, or a file beside it is another one; without digests
    it is of version 0.1.0, or of another program."""
    values = dict(values)
    digests = values.pop("digests", {})
    for name, digest in digests.items() if isinstance(digests, dict) else [("", None)]:
        file = path.parent / name if name else path
        if not file.is_file() or digest != (digest_of(file) if name else json_digest(values)):
            raise ValueError(
                f"{file}: damaged, or of another model: it is not what {path.name} was written with; to use it all the same, "
                'take "digests" out of there'
            )


def json_digest(values: Any) -> str:
    """Of plain values."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
