"""One thread per process: the tests' tensors are small, and threads that wait for each other take longer than one alone.

Kernels run under Triton's interpreter where there is no GPU. It is chosen here, before the first import of Triton, which other
libraries import too: what Triton made for a device at its import does not run under the interpreter."""

import os

import pytest
import torch

for name in ("TITANS_DNA_CACHE", "XDG_CACHE_HOME"):  # what the user of this machine has set is not what is tested
    os.environ.pop(name, None)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

SLOW = (
    "test_pretrain.py", "test_finetune.py", "test_faults.py", "test_notebook_", "test_plan.py", "test_long_context.py",
    "test_benchmark.py", "test_remember.py", "test_needle.py", "test_readme.py", "test_triton.py", "test_streaming.py",
)  # fmt: skip
"""Files that take longest: they begin first, or one worker would be left with them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.name.startswith(SLOW))
