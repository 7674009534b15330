"""An output on its way: what is done of it is kept beside it until it is whole, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from titans_dna.reading.source import GenomeSource
from titans_dna.run.directory import DATA, LOCK, RUN, RunDirectory, check_output
from titans_dna.run.files import replacing
from titans_dna.run.options import Options
from titans_dna.run.progress import Progress
from titans_dna.run.sealed import new_array, read_array, seal, write_array

PART_BASES = 1 << 19
"""Bases of a part, which is what an interruption costs at most: half a minute on one core for the preset `small`."""
_PLAN = "plan.json"
"""What version 0.1.0 had in place of `DATA`, and of embed alone."""


class Unfinished:
    """The directory beside an output, with parts of it: arrays by number.

    The same command goes on with what is there, if data, model and options are the same, and says so and starts again if
    they are not; with `resume` there must be something to go on with.
    """

    def __init__(
        self, verb: str, files: Sequence[Path], inputs: Iterable[str | None], *, overwrite: bool, resume: bool
    ) -> None:
        """files: of the output; the one that is named comes last.

        Raises OSError or ValueError where they may not be written, or where there is nothing to go on with.
        """
        self.verb, self.directory = verb, RunDirectory.beside(files[-1], verb)
        self.path = self.directory.path
        self._files, self._inputs, self._overwrite, self._resume = files, [*inputs], overwrite, resume
        self.began = any((self.path / name).is_file() for name in (RUN, DATA, _PLAN))
        """Whether an earlier run left something."""
        if not self.began or (self.path / RUN).is_file():
            self.directory.check(resume or self.began)
        self._check()

    def begin(self, options: Options, fingerprint: str, **about: Any) -> dict[str, Any]:
        """Hold the directory, and clear it of what is of something else. fingerprint: of all that the output depends on.

        Returns `about`, plain values: those of the run that is gone on with, where there is one.
        Raises ValueError where another process is at work there, or to resume a run of something else.
        """
        self.directory.hold()
        self._check()
        if (self.path / _PLAN).is_file():
            (self.path / _PLAN).replace(self.path / DATA)
        known = self._known()
        same = known is not None and known.get("fingerprint") == fingerprint
        if not same and self._resume:
            raise ValueError(f"--resume: model, input or options are not those of the run in {self.path}")
        if not same and known is not None:
            print(
                f"{self.verb}: model, input or options have changed since the last run; starting again",
                file=sys.stderr,
            )
            for one in self.path.iterdir():
                if one.name != LOCK:
                    one.unlink()
        about = known if known is not None and same else {"fingerprint": fingerprint, **about}
        self.directory.open(options, about)
        return about

    def done(self, part: int, rows: int | None = None) -> bool:
        """Whether a part is there, whole, with this number of rows."""
        try:
            found = read_array(self._file(part), mapped=True)
        except (OSError, ValueError):
            return False
        return rows is None or len(found) == rows

    def get(self, part: int) -> np.ndarray:
        """A part's rows, mapped from its file."""
        return np.load(self._file(part), mmap_mode="r")

    def put(self, part: int, rows: np.ndarray) -> None:
        """Keep a part."""
        write_array(self._file(part), rows)

    @contextmanager
    def new(self, part: int, shape: tuple[int, ...], dtype: Any) -> Iterator[np.ndarray]:
        """Zeros to fill, in a file; kept as the part if the block succeeds."""
        with replacing(self._file(part)) as aside:
            rows = new_array(aside, shape, dtype)
            yield rows
            rows.flush()
            seal(aside)

    def fill(
        self,
        plan: Sequence[Sequence[int]],
        lengths: np.ndarray,
        batches: Callable[[np.ndarray], list[list[int]]],
        compute: Callable[..., Iterator[tuple[Sequence[int], Any]]],
        *,
        shape: tuple[int, ...],
        dtype: Any,
        rows: np.ndarray | None = None,
    ) -> None:
        """Compute the parts that are not there yet.

        plan: numbers of the sequences of each part. lengths: bases of each sequence. batches: lengths of a part's sequences
        → places in it of those that are read side by side. compute(batches of numbers, array, progress): each batch, and
        what is kept of its sequences; `array` gives that of a number to be filled in place. shape, dtype: of a row. rows: of
        each sequence, by default one.
        """
        rows = np.ones_like(lengths) if rows is None else rows
        missing = [i for i, part in enumerate(plan) if not self.done(i, int(rows[part].sum()))]
        found = {i: [np.array(plan[i])[some].tolist() for some in batches(lengths[plan[i]])] for i in missing}
        left = sum(int(lengths[plan[i]].sum()) for i in missing)
        total, place = int(lengths.sum()), dict[int, np.ndarray]()
        with Progress(self.verb, total, done=total - left) as progress:
            if len(missing) < len(plan):
                progress.say(f"{len(plan) - len(missing)} of {len(plan)} parts were done before")
            results = compute([*chain.from_iterable(found.values())], place.__getitem__, progress.add)
            for i, of_part in found.items():
                with self.new(i, (int(rows[plan[i]].sum()), *shape), dtype) as part:
                    for number, some in _cut(plan[i], rows, part):
                        place[number] = some
                    for _ in of_part:
                        for number, value in zip(*next(results), strict=True):
                            if value is not place[number]:
                                place[number][...] = value
                            del place[number]

    def gather(self, plan: Sequence[Sequence[int]], out: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows of all parts in the order of the sequences, into `out`, which is returned."""
        rows = np.ones(sum(map(len, plan)), dtype=np.int64) if rows is None else rows
        first = np.cumsum(rows) - rows
        for i, numbers in enumerate(plan):
            for number, some in _cut(numbers, rows, self.get(i)):
                out[first[number] : first[number] + rows[number]] = some
        return out

    def finish(self, files: Sequence[Path] = ()) -> None:
        """Move files of these names to where they belong, in this order, and take the directory away."""
        self.directory.finish(files)

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.directory.__exit__(kind, error, trace)

    def _check(self) -> None:
        *beside, out = self._files
        check_output([out], inputs=self._inputs, overwrite=self._overwrite)
        if beside:
            # A sidecar alone beside an unfinished output is of a run that ended between its last two steps.
            check_output(beside, inputs=self._inputs, overwrite=self._overwrite or self.began)

    def _known(self) -> dict[str, Any] | None:
        """What the run that is here began with; empty where that is damaged, None where there is none."""
        if not self.began:
            return None
        try:
            found = json.loads((self.path / DATA).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _file(self, part: int) -> Path:
        return self.path / f"part-{part:06}.npy"


def fingerprint(weights: str, known: Any, source: GenomeSource, state: str | None) -> str:
    """Digest of all that an output depends on: that of the weights, plain values, what is read, and the state file."""
    digest = hashlib.blake2b(weights.encode(), digest_size=16)
    digest.update(json.dumps(known, sort_keys=True).encode())
    if state is not None:
        digest.update(Path(state).read_bytes())
    digest.update("".join(f"{one.name}\t{one.interval}\t{one.strand}\n" for one in source.records).encode())
    return digest.hexdigest()


def _cut(numbers: Sequence[int], rows: np.ndarray, part: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each number with its rows of a part, in which they follow each other."""
    done = 0
    for number in numbers:
        yield number, part[done : done + int(rows[number])]
        done += int(rows[number])
