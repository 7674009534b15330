"""The most memory that this process has had, on a CPU or a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class Peak:
    """Highest and present memory in bytes: of the process, or what PyTorch took of a GPU (untested on one)."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def reset(self) -> None:
        """Forget the highest so far, on a GPU; a process keeps it."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def highest(self) -> int:
        """The most there has been."""
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        return _status("VmHWM") or process_peak()

    def now(self) -> int:
        """What there is."""
        return torch.cuda.memory_allocated() if self.cuda else _status("VmRSS") or process_peak()


def process_peak() -> int:
    """The highest resident memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def can_fork(device: str) -> bool:
    """Whether a measurement may run in a fork of this process."""
    return sys.platform == "linux" and device == "cpu" and hasattr(os, "fork")


def machine_memory(device: str) -> tuple[int, int]:
    """Bytes available and in all, of this machine or of its first GPU."""
    if device == "cuda":
        return torch.cuda.mem_get_info()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _read(_MEMINFO, "MemAvailable") or total
    limit, used = (_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is None:
        return available, total
    return min(available, limit - (used or 0)), min(total, limit)


def _number(path: Path) -> int | None:
    # A container's own limit; "max" where it has none.
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def _status(name: str) -> int:
    return _read(_STATUS, name)


def _read(path: Path, name: str) -> int:
    """A line `name: n kB` in bytes; 0 where there is none, as on macOS."""
    if not path.is_file():
        return 0
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
