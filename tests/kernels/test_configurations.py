"""Every supported shape has a launch configuration that its kernels can take; the table of resources keeps the limits."""

import csv
import itertools
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from titans_kernels.triton import configurations, plan

RESOURCES = Path(__file__).parents[2] / "kernels" / "aot" / "resources.csv"


@pytest.mark.parametrize("family", configurations.TABLE)
def test_blocks_divide_the_hidden_width(family):
    kernels = ("shares", *configurations.KERNELS)
    for key, hidden, chunk in itertools.product(plan.WIDTHS, range(0, plan.WIDEST_HIDDEN + 1, 16), (1, 16, 64, 128)):
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
