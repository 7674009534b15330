"""Every supported shape has a launch configuration that its kernels can take; the table of resources keeps the limits."""

import csv
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from titans_kernels import options, support
from titans_kernels.triton import configurations, plan

RESOURCES = Path(__file__).parents[2] / "kernels" / "aot" / "resources.csv"


@pytest.mark.parametrize("family", configurations.TABLE)
def test_blocks_divide_the_hidden_width(family):
    kernels = ("shares", *configurations.KERNELS)
    for key, hidden, chunk in itertools.product(
        options.WIDTHS, range(0, options.WIDEST_HIDDEN + 1, 16), (1, 16, 64, 128)
    ):
        shape = plan.Shape(1, key, hidden, key, chunk, torch.bfloat16)
        for kernel in kernels:
            block, warps, stages = configurations.chosen(kernel, shape, family)
            assert warps in (1, 2, 4, 8)
            assert stages >= 1
            assert kernel == "shares" or not hidden or (block >= 16 and hidden % block == 0)


def test_committed_table_has_no_spills_on_the_main_targets():
    with RESOURCES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "sm_100", "sm_120", "gfx942"}
    for row in rows:
        if row["target"] in ("sm_90", "sm_100", "gfx942"):
            assert row["spills"] == "0", row


@pytest.mark.parametrize(
    ("widths", "chunk", "dtype", "small", "reason"),
    [([64, 128, 64], 64, torch.bfloat16, True, None), ([64, 128, 64], 128, torch.bfloat16, True, "shared memory"),
     ([128, 256, 128], 128, torch.bfloat16, False, None), ([128, 128], 64, torch.float32, False, "float32"),
     ([128, 128], 64, torch.bfloat16, False, "tensor memory")],
)  # fmt: skip
def test_what_does_not_fit_a_gpu_is_refused(monkeypatch, widths, chunk, dtype, small, reason):
    monkeypatch.setattr(support, "_shared_memory", lambda _: 99 * 1024 if small else 227 * 1024)
    monkeypatch.setattr(support, "_has_tensor_memory", lambda _: True)
    q = SimpleNamespace(is_cuda=True, dtype=dtype, device=None)
    got = support.obstacle(q, q, q, widths, chunk)
    assert got is None if reason is None else reason in got
