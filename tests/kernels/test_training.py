"""A model trains through the kernels as it does through the PyTorch path."""

import functools

import pytest
import torch

pytest.importorskip("triton")

import titans_dna.nn.memory
from titans_dna import TitansConfig, TitansDNA
from titans_kernels import memory_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def steps(config, backend, monkeypatch):
    """Losses of three optimiser steps over two pieces of one sequence, the state carried with its gradient."""
    monkeypatch.setattr(titans_dna.nn.memory, "memory_scan", functools.partial(memory_scan, backend=backend))
    torch.manual_seed(0)
    model = TitansDNA(config).to(DEVICE)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.randint(config.vocab_size, (1, 31), device=DEVICE)
    losses = []
    for _ in range(3):
        first = model(ids[:, :20])
        second = model(ids[:, 20:-1], first.state)
        logits = torch.cat([first.logits, second.logits], 1)
        loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return torch.tensor(losses)


@pytest.mark.parametrize("options", [dict(variant="lmm"), dict(variant="mac", memory_depth=1, gates="chunk")])
def test_losses_of_a_run_are_the_same(options, monkeypatch):
    config = TitansConfig.preset("tiny", layers=1, heads=1, width=16, **options)
    want = steps(config, "chunked", monkeypatch)
    assert want[2] < want[0]
    torch.testing.assert_close(steps(config, "triton", monkeypatch), want, rtol=1e-5, atol=0)


def test_gradients_pass_through_distributed_data_parallel(tmp_path, monkeypatch):
    config = TitansConfig.preset("tiny", layers=1, heads=1, width=16, variant="lmm", memory_depth=1)
    monkeypatch.setattr(titans_dna.nn.memory, "memory_scan", functools.partial(memory_scan, backend="triton"))
    model = TitansDNA(config).to(DEVICE)
    ids = torch.randint(config.vocab_size, (1, 20), device=DEVICE)
    model(ids).logits.square().mean().backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        parallel(ids).logits.square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    for parameter, grad in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
