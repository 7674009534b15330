"""Labelled rows whose classes are known beforehand: those of a model, whatever classes the rows have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from titans_dna.labels.coder import LabelCoder, some
from titans_dna.labels.data import LabelledData, Task
from titans_dna.labels.files import Columns, RawRow
from titans_dna.labels.layout import Paths, default_root, is_genomic_benchmark, read_split
from titans_dna.labels.read import SHORTEST, checked_rows


def read_known(
    what: Paths,
    task: Task,
    classes: Sequence[str],
    *,
    part: str | None = None,
    sequence: str = "sequence",
    label: str | Sequence[str] = "label",
    split: str | None = None,
    name: str | None = None,
    separator: str = ";",
    min_length: int | None = None,
    root: str | Path | None = None,
) -> tuple[str, LabelledData]:
    """Rows to score with a model that knows these classes, as the `test` of labelled data that have nothing else.

    what, sequence, label, split, name, separator, min_length, root: as for `read_labelled`; a directory need not hold a
        train split, and one class alone will do.
    task, classes: the model's; labels become numbers of this map, in its order.
    part: train, valid or test; by default test where there are splits and it is one of them, else all rows.

    Returns which part it is (`all` for all rows), and the data. Raises what `read_labelled` raises, and ValueError
    naming file and row for a label that is none of the classes.
    """
    columns = Columns(sequence, (label,) if isinstance(label, str) else tuple(label), split, name)
    coder = _KnownLabels(task, tuple(classes), columns.label, separator)
    root = default_root() if root is None else Path(root).expanduser()
    chosen, raw = read_split(what, part, columns, root)
    if min_length is None:
        min_length = 1 if is_genomic_benchmark(what, root) else SHORTEST
    rows = checked_rows(raw, coder, min_length)
    source = str(what) if isinstance(what, str | Path) else ", ".join(map(str, what))
    nothing = rows.take([])
    return chosen, LabelledData(source, task, coder.classes, nothing, nothing, rows)


class _KnownLabels(LabelCoder):
    """A label map that is given, not learned."""

    def __init__(self, task: Task, classes: tuple[str, ...], columns: tuple[str, ...], separator: str) -> None:
        if len(columns) > 1 and (task != "multilabel" or set(columns) != set(classes)):
            wanted = f"the model's classes {some(classes)}" if task == "multilabel" else "one"
            raise ValueError(f"label_column: got {some(columns)}, want {wanted} (task {task})")
        self.task = task
        self._classes, self._columns, self._separator = classes, columns, separator
        self._whole = bool(classes) and all(_is_whole(name) for name in classes)

    def _known(self, place: dict[str, int], name: str, row: RawRow) -> int:
        if name not in place:
            raise ValueError(f"{row.where}: the model does not know label {name!r:.60}, want {some(self.classes)}")
        return place[name]


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and str(int(name)) == name
