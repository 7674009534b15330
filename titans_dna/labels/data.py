"""Labelled sequences in three splits, as everything that trains, scores or reports takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from titans_dna.config import Task


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled sequences of one split, in order; it never changes."""

    names: tuple[str, ...]
    """What each is called in its file."""
    sequences: tuple[bytes, ...]
    """Bases: upper-case IUPAC letters and `-`, T for U."""
    labels: np.ndarray
    """Number of the class, int64 [n]; multilabel uint8 [n, classes], 1 where it applies; regression float64 [n]."""

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.sequences) == len(self.labels), "as many names as sequences as labels"
        self.labels.setflags(write=False)

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, numbers: ArrayLike) -> Rows:
        """The rows of these numbers, in this order."""
        chosen = np.asarray(numbers, dtype=np.int64)
        picked = chosen.tolist()
        return Rows(tuple(self.names[i] for i in picked), tuple(self.sequences[i] for i in picked), self.labels[chosen])

    def lengths(self) -> np.ndarray:
        """Bases of each sequence, int64 [n]."""
        return np.fromiter(map(len, self.sequences), np.int64, len(self))


@dataclass(frozen=True, eq=False)
class LabelledData:
    """What `read_labelled` gives."""

    source: str
    """What was read, as it was named."""
    task: Task
    classes: tuple[str, ...]
    """Names of the classes, sorted (by number where all are numbers); none for regression. For a binary task the second
    one is the positive one."""
    train: Rows
    valid: Rows
    test: Rows
    """Empty where none was given."""

    @property
    def label_map(self) -> dict[str, int]:
        """Class name to its number."""
        return {name: number for number, name in enumerate(self.classes)}

    def splits(self) -> Iterator[tuple[str, Rows]]:
        """Each split's name and rows: train, valid, test."""
        yield from (("train", self.train), ("valid", self.valid), ("test", self.test))

    def want_test(self) -> None:
        """ValueError where there is no test split."""
        if not len(self.test):
            raise ValueError(f"{self.source}: no test rows, want a test split to score")

    def fingerprint(self) -> str:
        """Digest of task, classes, and the sequences and labels of each split in order: 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.task, self.classes)).encode())
        for name, rows in self.splits():
            digest.update(f"\n{name} {len(rows)}\n".encode())
            for letters in rows.sequences:
                digest.update(letters + b"\n")
            digest.update(np.ascontiguousarray(rows.labels).astype(rows.labels.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


def label_text(data: LabelledData, label: np.ndarray | np.generic, separator: str = ";") -> str:
    """A row of `Rows.labels` in words: the class, the classes that apply, or the number."""
    if data.task == "regression":
        return repr(float(label))  # pyright: ignore[reportArgumentType]
    if data.task == "multilabel":
        return separator.join(name for name, holds in zip(data.classes, np.atleast_1d(label), strict=True) if holds)
    return data.classes[int(label)]  # pyright: ignore[reportArgumentType]
