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
            block, warps, stages, _ = configurations.chosen(kernel, shape, family)
            assert warps in (1, 2, 4, 8)
            assert stages >= 1
            assert kernel == "shares" or not hidden or (block >= 16 and hidden % block == 0)


def test_committed_table_has_no_spills_where_none_were_timed_and_no_instructions_that_are_assembled_wrongly():
    with RESOURCES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "sm_90 wgmma", "sm_100", "sm_120", "gfx942"}
    for row in rows:
        if row["target"] in ("sm_100", "gfx942"):
            assert row["spills"] == "0", row
        assert row["target"] != "sm_90" or "HGMMA" not in row["matrix"], row


@pytest.mark.parametrize(
    ("version", "family", "arch"), [("12.8", "hopper", "sm80"), ("13.2", "hopper", "sm80"), ("13.3", "wgmma", None)]
)
def test_hopper_takes_its_own_instructions_only_from_a_sound_assembler(monkeypatch, version, family, arch):
    configurations.hopper.cache_clear()
    monkeypatch.setattr(configurations.knobs, "nvidia", SimpleNamespace(ptxas=SimpleNamespace(version=version)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    shape = plan.Shape(1, 64, 128, 64, 64, torch.bfloat16)
    try:
        found = configurations.configuration("read", shape, torch.device("cuda"))
        assert configurations.family(torch.device("cuda")) == family
        assert found.launch.get("arch") == arch
    finally:
        configurations.hopper.cache_clear()


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
