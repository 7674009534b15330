"""The neural memory of Titans (arXiv 2501.00663): `memory_scan` and the state it carries. Depends on torch alone."""

from .scan import memory_scan
from .state import MemoryState

__all__ = ["MemoryState", "memory_scan"]
