"""Ctrl-C and SIGTERM: at any moment an end with one line, and while steps are counted a wish, granted after the step, or in
the middle of it where that takes long."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.5
"""Seconds that a step has to come to its end. Whoever stops a process, as a scheduler does, may not wait for long."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""

    def __init__(self, number: int = signal.SIGINT, advice: str = "") -> None:
        super().__init__()
        self.number = number
        self.advice = advice
        """What stands, and how the work goes on, in words; `RunDirectory` knows."""

    @property
    def status(self) -> int:
        """The exit status that says so: 130 or 143."""
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[None]:
    """While it lasts, either signal raises `Stopped` in the main thread; what is half-written then goes away."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:
            _leave(number)
            return
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption:
    """While the context lasts, the first Ctrl-C or SIGTERM is only noted, in `signal`; a second one raises `Stopped`. So does
    the first one after `PATIENCE` seconds, in what may be given up, and `late` is then true.

    Data workers forked meanwhile take no notice of Ctrl-C, which a terminal sends to all processes: the main process
    ends them.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.late = self._losable = False
        self._before: dict[int, Any] = {}
        self._owner = 0

    def __enter__(self) -> Interruption:
        self._owner = os.getpid()
        self._before = {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGALRM)}
        self.listen()
        signal.signal(signal.SIGALRM, self._hurry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def losable(self) -> Iterator[None]:
        """While it lasts, what is done may be given up: it will be done again."""
        self._losable = True
        try:
            yield
        finally:
            self._losable = False

    def listen(self) -> None:
        """Be the one who is told; again once another has put its own handlers in place."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._owner:
            _leave(number)
        elif self.signal is not None:
            raise Stopped(number)
        else:
            self.signal = number
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, 0.1)

    def _hurry(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if os.getpid() == self._owner and self._losable and self.signal is not None:
            self._losable, self.late = False, True
            raise Stopped(self.signal)


def _leave(number: int) -> None:
    """In a forked worker: the main process ends it by SIGTERM, and Ctrl-C is for the main process."""
    if number == signal.SIGTERM:
        os._exit(128 + number)
