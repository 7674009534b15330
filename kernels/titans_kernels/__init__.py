"""The neural memory of Titans (arXiv 2501.00663): `memory_scan`, `memory_step`, and the state they carry. Depends on torch
alone, and on triton where the kernels run."""

from .options import READS
from .scan import memory_scan
from .state import MemoryState
from .step import memory_step

__all__ = ["READS", "MemoryState", "memory_scan", "memory_step"]
