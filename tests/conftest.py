"""One thread per process: the tests' tensors are small, and threads that wait for each other take longer than one alone."""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)
