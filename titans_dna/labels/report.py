"""What to know of labelled data before any figure is believed: duplicates, class balance, lengths, N."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from titans_dna.labels.data import LabelledData, Rows
from titans_dna.run.files import markdown
from titans_dna.tokens.strands import either_strand

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_HEADS = ("least", "5 %", "25 %", "median", "75 %", "95 %", "most")


@dataclass(frozen=True)
class SplitReport:
    """One split."""

    name: str
    rows: int
    bases: int
    lengths: tuple[int, ...]
    """Bases, at QUANTILES."""
    n_share: float
    """Share of bases that are not A, C, G or T."""
    classes: tuple[int, ...]
    """Rows of each class, in the order of the label map; a row of a multilabel task counts at each of its labels."""
    repeated: int
    """Rows equal to an earlier one of the split."""
    repeated_either: int
    """Rows equal to an earlier one or to its reverse complement."""
    contradicting: int
    """Rows equal to another one, on either strand, that has a different label."""


@dataclass(frozen=True)
class Overlap:
    """Rows of one split that stand in another one too."""

    split: str
    other: str
    rows: int
    """Equal sequence."""
    rows_either: int
    """Equal sequence or reverse complement."""
    classes: tuple[int, ...]
    """The latter by class."""
    contradicting: int
    """Of the latter, those that stand there with a different label only."""


@dataclass(frozen=True)
class DataReport:
    """Of all splits that have rows."""

    source: str
    task: str
    class_names: tuple[str, ...]
    fingerprint: str
    splits: tuple[SplitReport, ...]
    overlaps: tuple[Overlap, ...]

    def markdown(self) -> str:
        """Tables for people."""
        text = f"Data: {self.source}; task {self.task}; fingerprint `{self.fingerprint}`\n\n"
        text += _table(
            ("split", "rows", "bases", "not ACGT", *_HEADS, *self.class_names),
            [
                (one.name, one.rows, one.bases, f"{one.n_share:.2%}", *one.lengths, *map(_share(one.rows), one.classes))
                for one in self.splits
            ],
        )
        text += "\nRows that stand twice within a split, equal or as reverse complement:\n\n"
        text += _table(
            ("split", "equal", "on either strand", "of them or their likes, with another label"),
            [(one.name, one.repeated, one.repeated_either, one.contradicting) for one in self.splits],
        )
        if self.overlaps:
            rows = {one.name: one for one in self.splits}
            text += "\nRows of one split that stand in another:\n\n"
            text += _table(
                ("rows of", "in", "equal", "on either strand", *self.class_names, "with another label only"),
                [
                    (
                        one.split,
                        one.other,
                        _share(rows[one.split].rows)(one.rows),
                        _share(rows[one.split].rows)(one.rows_either),
                        *(_share(all_)(some) for some, all_ in zip(one.classes, rows[one.split].classes, strict=True)),
                        one.contradicting,
                    )
                    for one in self.overlaps
                ],
            )
        return text


def report(data: LabelledData) -> DataReport:
    """Duplicates within and between splits, class balance, lengths and N."""
    present = [(name, rows) for name, rows in data.splits() if len(rows)]
    stands = {name: either_strand(rows.sequences) for name, rows in present}
    overlaps = [
        _overlap(name, rows, stands[name], other, others, stands[other], len(data.classes))
        for i, (name, rows) in enumerate(present)
        for other, others in present[:i]
    ]
    return DataReport(
        data.source,
        data.task,
        data.classes,
        data.fingerprint(),
        tuple(_split(name, rows, stands[name], len(data.classes)) for name, rows in present),
        tuple(overlaps),
    )


def deduplicated(data: LabelledData) -> LabelledData:
    """The same data without the test rows that stand in train or validation, equal or as reverse complement."""
    seen = set(either_strand(data.train.sequences)) | set(either_strand(data.valid.sequences))
    kept = [i for i, letters in enumerate(either_strand(data.test.sequences)) if letters not in seen]
    return dataclasses.replace(data, test=data.test.take(kept))


def _split(name: str, rows: Rows, either: Sequence[bytes], classes: int) -> SplitReport:
    lengths = rows.lengths()
    known = sum(len(letters) - len(letters.translate(None, b"ACGT")) for letters in rows.sequences)
    labels_of = _labels_of(rows, either)
    return SplitReport(
        name,
        len(rows),
        int(lengths.sum()),
        tuple(int(length) for length in np.quantile(lengths, QUANTILES, method="inverted_cdf")),
        1 - known / int(lengths.sum()),
        _by_class(rows.labels, classes),
        len(rows) - len(set(rows.sequences)),
        len(rows) - len(labels_of),
        sum(len(labels_of[letters]) > 1 for letters in either),
    )


def _overlap(
    name: str, rows: Rows, either: list[bytes], other: str, others: Rows, other_either: list[bytes], classes: int
) -> Overlap:
    equal = set(others.sequences)
    labels_of = _labels_of(others, other_either)
    found = [i for i, letters in enumerate(either) if letters in labels_of]
    return Overlap(
        name,
        other,
        sum(letters in equal for letters in rows.sequences),
        len(found),
        _by_class(rows.labels[found], classes),
        sum(rows.labels[i].tobytes() not in labels_of[either[i]] for i in found),
    )


def _labels_of(rows: Rows, either: Sequence[bytes]) -> dict[bytes, set[bytes]]:
    """Sequence, on either strand, to the labels that it has."""
    found: dict[bytes, set[bytes]] = {}
    for letters, label in zip(either, rows.labels, strict=True):
        found.setdefault(letters, set()).add(label.tobytes())
    return found


def _by_class(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    if not classes:
        return ()
    counts = labels.sum(axis=0, dtype=np.int64) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return tuple(counts.tolist())


def _share(rows: int):
    return lambda some: f"{some:,} ({some / rows:.1%})" if rows else "0"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return markdown(head, cells, spaced=True, bar=r"\|")
