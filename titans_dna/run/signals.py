"""How a process ends: by itself, by what is wrong, or by Ctrl-C and SIGTERM, at any moment with one line.

While steps are counted a signal is a wish, granted after the step, or in the middle of it where that takes long.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room to write."""
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


def late() -> None:
    """The work is done and said: a signal that comes while Python winds up changes nothing."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


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


def ended(work: Callable[[], int], name: str) -> int:
    """The exit status of some work, which Ctrl-C and SIGTERM stop: its own, or that of its end.

    1 where the numbers stopped being finite, 2 for wrong input, 130 and 143 interrupted: each with one line on stderr,
    after `name`, that of the program.
    """
    try:
        with stoppable(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"{name}: warning: {message}", file=sys.stderr)
            try:
                return work()
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it, as `head` does, has had enough.
        _drop_output()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        status, line = stopped.status, "; ".join(filter(None, ["interrupted", stopped.advice]))
    except FloatingPointError as error:
        status, line = 1, f"stopped: {error}"
    except (ValueError, OSError) as error:
        status, line = 2, f"error: {_one_line(error)}"
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            # Every file that is written has its name said: this is what was printed.
            line = f"error: standard output: {error.strerror}"
            _drop_output()
    with suppress(OSError):
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    return status


def _drop_output() -> None:
    """What could not be printed is not tried again at the end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
