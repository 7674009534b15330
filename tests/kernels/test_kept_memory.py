"""What the chunked path keeps for the backward: inputs and a state for each span, not the weights of every chunk."""

import torch

from titans_kernels import memory_scan

HEADS, WIDTH, HIDDEN = 4, 64, 256


def kept_bytes(tokens):
    """Bytes of the distinct storages that autograd holds after a forward, batch 1, L = 2, E = 4D, float32, chunk 64."""
    q, k, v = (torch.randn(1, tokens, HEADS, WIDTH, requires_grad=True) for _ in range(3))
    alpha, eta, theta = (torch.rand(1, tokens, HEADS).div_(100).requires_grad_() for _ in range(3))
    memory = [
        torch.randn(HEADS, WIDTH, HIDDEN, requires_grad=True),
        torch.randn(HEADS, HIDDEN, WIDTH, requires_grad=True),
    ]
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y, _ = memory_scan(q, k, v, alpha=alpha, eta=eta, theta=theta, memory=memory, max_norm=32.0)
    return sum(storages.values()) + y.untyped_storage().nbytes()


def test_growth_per_1024_tokens_stays_small():
    """A state a chunk, M and S, is 16 MB for 1,024 tokens at this shape; inputs and outputs are 4 MB."""
    growth = (kept_bytes(6144) - kept_bytes(2048)) / 4
    assert 3e6 < growth < 8e6


def test_nothing_is_kept_without_a_gradient():
    x = {name: torch.randn(1, 256, 1, 8) for name in "qkv"}
    gates = {name: torch.rand(1, 256, 1) / 9 for name in ("alpha", "eta", "theta")}
    y, state = memory_scan(**x, **gates, memory=[torch.randn(1, 8, 8)])
    assert y.grad_fn is None
    assert all(w.grad_fn is None for w in state.memory)
