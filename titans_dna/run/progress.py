"""What long work says: one voice, on stderr; a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS = 10.0
"""Between two lines where there is no terminal."""


class Progress:
    """How far some work is, how fast it goes and how long it will take.

    title: of the lines. total, done: of the whole work, and of what was done before, in `unit` ("b" for bases, "step").
    """

    def __init__(self, title: str, total: float, *, unit: str = "b", done: float = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self._first = self._done = float(done)
        self._note = ""
        scale = unit == "b"
        self._bar = tqdm(
            total=total, initial=done, unit=unit, unit_scale=scale, desc=title, dynamic_ncols=True, leave=False,
            file=sys.stderr, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(whole=kind is None)

    @property
    def done(self) -> float:
        """How far the work is, in its unit."""
        return self._done

    def add(self, amount: float, note: str = "") -> None:
        """Some more is done; `note` stands beside the figures until the next one."""
        self._done += amount
        if note:
            self._note = note
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(amount)
        if self._bar.disable and time.monotonic() - self._said > SECONDS:
            self._tell()

    def say(self, text: str) -> None:
        """One line, above the bar."""
        say(f"{self.title}: {text}" if self.title else text)

    def close(self, whole: bool = True) -> None:
        """Take the bar away; where the work took long enough for a line, say what was reached."""
        self._bar.close()
        if whole and self._said > self._began:
            self._tell()

    def _tell(self) -> None:
        self._said = time.monotonic()
        line = tqdm.format_meter(
            self._done, self.total, self._said - self._began, initial=self._first, unit=self.unit,
            unit_scale=self.unit == "b", ncols=100, postfix=self._note or None,
        )  # fmt: skip
        print(f"{self.title}: {line}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """One line, above any bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
