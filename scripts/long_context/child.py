"""A process that measures, followed and ended where it passes a limit."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POLL = 0.05
"""Seconds between two looks at the process's memory."""


def follow(command: list[str], memory: float, seconds: float) -> Iterator[dict[str, Any]]:
    """The marks of a measurement as they come, and at the end why it was stopped, where it was.

    memory: most resident memory, in units of 2^20 bytes. seconds: longest time from one start to the last mark.
    Last may come {"over": "memory"}, {"over": "seconds"} or {"failed": the last line of its complaint}. The process is
    gone when this ends, however it ends.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as complaint:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaint)
        assert child.stdout is not None
        began, rest = None, b""
        try:
            while True:
                if select.select([child.stdout], [], [], POLL)[0]:
                    got = os.read(child.stdout.fileno(), 1 << 16)
                    if not got:
                        break
                    *lines, rest = (rest + got).split(b"\n")
                    for message in (json.loads(line) for line in lines if line.startswith(b"{")):
                        if "start" in message:
                            began = time.monotonic()
                        elif message.get("peak", 0) > memory:  # between two looks
                            yield {"over": "memory"}
                            return
                        else:
                            yield message
                if began is not None and time.monotonic() - began > seconds:
                    yield {"over": "seconds"}
                    return
                if resident(child.pid) > memory:
                    yield {"over": "memory"}
                    return
            if child.wait():
                complaint.seek(0)
                lines = complaint.read().strip().splitlines() or [f"ended with status {child.returncode}"]
                yield {"failed": lines[-1]}
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def resident(pid: int) -> float:
    """Resident memory of a process in units of 2^20 bytes, 0 where it is gone."""
    status = Path(f"/proc/{pid}/status")
    if Path("/proc/self/status").exists():
        try:
            found = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
        except OSError:
            return 0.0
        return int(found[0].split()[1]) / 1024 if found else 0.0
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True).stdout
    return int(shown or 0) / 1024
