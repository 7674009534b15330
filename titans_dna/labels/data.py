"""Labelled sequences in three splits, as everything that trains, scores or reports takes them; and labels from their texts."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from titans_dna.config import TASKS, Task
from titans_dna.labels.files import RawRow


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


MANY = 20
"""More classes than this, with fewer than two rows each on average, are taken for numbers meant for regression."""


class LabelCoder:
    """Task and classes, learned from the training rows alone.

    task: None to find out: several label columns are multilabel; numbers of which some are not whole, regression; two
        classes binary; more multiclass. Numbers of which some are not whole, and something else among them, are refused.
    columns: names of the label columns.
    separator: stands between the labels in a cell of a multilabel task with one label column.

    Raises ValueError naming file and row for a label that is missing, and the file for a single class.
    """

    def __init__(self, train: Sequence[RawRow], task: Task | None, columns: tuple[str, ...], separator: str) -> None:
        if task is not None and task not in TASKS:
            raise ValueError(f"task: got {task!r}, want one of {', '.join(TASKS)}")
        if len(columns) > 1 and task not in (None, "multilabel"):
            raise ValueError(f"task: got {task!r} with {len(columns)} label columns, want multilabel")
        self._columns, self._separator = columns, separator
        self._whole = False
        self._classes: tuple[str, ...] = ()
        many = len(columns) > 1
        self.task: Task = "multilabel" if many else task or self._guess(train)
        if self.task == "multilabel":
            self._set_multilabel(train, many)
        elif self.task == "regression":
            if len({self._number(row) for row in train}) == 1:
                raise ValueError(f"{train[0].where}: all labels of train are equal, want at least two values")
        else:
            self._set_classes(train, task)

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted names; none for regression."""
        return self._classes

    def encode(self, rows: Sequence[RawRow]) -> np.ndarray:
        """Labels as in `Rows.labels`. ValueError naming file and row for one that is missing or unknown to train."""
        if self.task == "regression":
            return np.array([self._number(row) for row in rows], dtype=np.float64)
        place = {name: number for number, name in enumerate(self._classes)}
        if self.task == "multilabel":
            coded = np.zeros((len(rows), len(place)), dtype=np.uint8)
            for i, row in enumerate(rows):
                coded[i, [self._known(place, name, row) for name in self._several(row)]] = 1
            return coded
        return np.array([self._known(place, self._one(row), row) for row in rows], dtype=np.int64)

    def _guess(self, train: Sequence[RawRow]) -> Task:
        texts = {_text(row): row for row in train}
        numbers = {text: _parsed(text) for text in texts}
        fractions = [text for text, number in numbers.items() if math.isfinite(number) and not number.is_integer()]
        others = [text for text, number in numbers.items() if not math.isfinite(number)]
        if fractions and not others:
            return "regression"
        if (odd := fractions[:1] and others[:1]) or (odd := [text for text in texts if _COMMA.fullmatch(text)][:1]):
            raise ValueError(
                f"{texts[odd[0]].where}: got label {odd[0]!r:.60}, want a number with a decimal point, as in other rows; or "
                "say the task"
            )
        return "binary" if len({_text(row) for row in train}) <= 2 else "multiclass"

    def _set_classes(self, train: Sequence[RawRow], task: Task | None) -> None:
        texts = {_text(row) for row in train}
        self._whole = all(_parsed(text).is_integer() and _is_whole(_short(text)) for text in texts)
        names = {self._one(row) for row in train}
        first = train[0].where
        if len(names) < 2:
            raise ValueError(f"{first}: train has one class only, {names.pop()!r:.60}, want at least two")
        if task is None:
            self.task = "binary" if len(names) == 2 else "multiclass"
        if self.task == "binary" and len(names) > 2:
            raise ValueError(f"task: got binary, but train has {len(names)} classes: {some(sorted(names))}")
        if len(names) > MANY and 2 * len(names) > len(train):
            raise ValueError(f"{first}: {len(names)} classes in {len(train)} rows; is the task regression?")
        self._classes = tuple(sorted(names, key=int) if self._whole else sorted(names))

    def _set_multilabel(self, train: Sequence[RawRow], many: bool) -> None:
        names = set(self._columns) if many else {name for row in train for name in self._several(row)}
        if not names:
            raise ValueError(f"{train[0].where}: no row of train has a label, want at least one")
        self._classes = tuple(sorted(names))

    def _one(self, row: RawRow) -> str:
        text = _text(row)
        # 1 and 1.0 are one class: a column of whole numbers turns to floats when a table passes through pandas. 01 is not.
        return _short(text) if self._whole else _TRUTH.get(text.lower(), text)

    def _several(self, row: RawRow) -> list[str]:
        if isinstance(row.label, str):
            return [name.strip() for name in row.label.split(self._separator) if name.strip()]
        found = []
        for name, cell in zip(self._columns, row.label, strict=True):
            if cell.lower() not in _YES | _NO:
                raise ValueError(f"{row.where}: got {cell!r:.60} in column {name!r}, want 0 or 1")
            if cell.lower() in _YES:
                found.append(name)
        return found

    def _number(self, row: RawRow) -> float:
        number = _parsed(_text(row))
        if not math.isfinite(number):
            raise ValueError(f"{row.where}: got label {row.label!r:.60}, want a finite number (task regression)")
        return number

    def _known(self, place: dict[str, int], name: str, row: RawRow) -> int:
        if name not in place:
            raise ValueError(f"{row.where}: label {name!r:.60} does not occur in train, want {some(self._classes)}")
        return place[name]


class KnownLabels(LabelCoder):
    """A label map that is given, not learned: that of a model, whatever classes the rows have.

    Raises ValueError for several columns that are not the classes of a multilabel task.
    """

    def __init__(self, task: Task, classes: tuple[str, ...], columns: tuple[str, ...], separator: str) -> None:
        if len(columns) > 1 and (task != "multilabel" or set(columns) != set(classes)):
            wanted = f"the model's classes {some(classes)}" if task == "multilabel" else "one"
            raise ValueError(f"label_column: got {some(columns)}, want {wanted} (task {task})")
        self.task = task
        self._classes, self._columns, self._separator = classes, columns, separator
        self._whole = bool(classes) and all(_is_whole(name) for name in classes)

    def _known(self, place: dict[str, int], name: str, row: RawRow) -> int:
        # Version 0.1.0 called the classes of a column of truth values in a parquet file 0 and 1.
        name = name if name in place else {"True": "1", "False": "0"}.get(name, name)
        if name not in place:
            raise ValueError(f"{row.where}: the model does not know label {name!r:.60}, want {some(self.classes)}")
        return place[name]


_YES, _NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}


def some(names: Sequence[str]) -> str:
    """Up to five names, for messages."""
    return ", ".join(f"{name!r:.40}" for name in names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")


def _text(row: RawRow) -> str:
    assert isinstance(row.label, str), "several label columns are multilabel"
    if row.label.strip().lower() in _MISSING or row.label.strip() in ("None", "NONE"):
        said = f": {row.label!r} says that there is none" if row.label.strip() else ""
        raise ValueError(f"{row.where}: no label, want one for each row{said}")
    return row.label


_MISSING = ("", "nan", "na", "n/a", "#n/a", "<na>", "null", "nil", ".", "?")
_TRUTH = {"true": "True", "false": "False"}
_COMMA = re.compile(r"[+-]?\d+,\d+")


def _short(text: str) -> str:
    """A whole number without the zeros after its point."""
    return re.sub(r"\.0*$", "", text)


def _parsed(text: str) -> float:
    """A number, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and str(int(name)) == name
