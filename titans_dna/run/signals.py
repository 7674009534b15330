"""Ctrl-C and SIGTERM as a wish, granted at the end of the step."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While the context lasts, the first Ctrl-C or SIGTERM is only noted, in `signal`; a second one ends the process.

    Data workers forked meanwhile take no notice of Ctrl-C, which a terminal sends to all processes: the main process
    ends them.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._owner = 0

    def __enter__(self) -> Interruption:
        self._owner = os.getpid()
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Be the one who is told; again once another has put its own handlers in place."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._owner:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
