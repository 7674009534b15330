"""Progress while sequences go through a model; and how Ctrl-C and SIGTERM end that."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm


class Progress:
    """Bases done, speed and time left on stderr: a bar on a terminal, elsewhere a line now and then."""

    SECONDS = 10

    def __init__(self, verb: str, bases: int) -> None:
        self._verb, self._bases, self._done = verb, bases, 0.0
        self._bar = tqdm(
            total=bases, unit="b", unit_scale=True, dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()
        )
        self._began = self._said = time.monotonic()

    def add(self, bases: float) -> None:
        """Some more bases are done."""
        self._done += bases
        self._bar.update(bases)
        if self._bar.disable and time.monotonic() - self._said > self.SECONDS:
            self._say()

    def close(self, whole: bool) -> None:
        """Take the bar away; where all is done, say what was reached."""
        self._bar.close()
        if whole:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        passed = self._said - self._began
        line = tqdm.format_meter(self._done, self._bases, passed, unit="b", unit_scale=True, ncols=100)
        print(f"{self._verb}: {line}", file=sys.stderr, flush=True)


@contextmanager
def shown(verb: str, bases: int) -> Iterator[Progress]:
    """Progress while it lasts."""
    progress = Progress(verb, bases)
    whole = False
    try:
        yield progress
        whole = True
    finally:
        progress.close(whole)


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken as Ctrl-C is: what is half-written goes away."""


@contextmanager
def terminable() -> Iterator[None]:
    """While it lasts, SIGTERM raises `Terminated`."""
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:  # a worker, ended by the main process
            os._exit(128 + number)
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
