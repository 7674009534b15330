"""One thread per process: the tests' tensors are small, and threads that wait for each other take longer than one alone.

Kernels run under Triton's interpreter where there is no GPU. It is chosen here, before the first import of Triton, which other
libraries import too: what Triton made for a device at its import does not run under the interpreter."""

import os

import torch

for name in ("TITANS_DNA_CACHE", "XDG_CACHE_HOME"):  # what the user of this machine has set is not what is tested
    os.environ.pop(name, None)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
