"""Inputs, states and the comparison with the token-by-token reference that the tests of all paths share."""

from itertools import pairwise

import torch

from titans_kernels import MemoryState, memory_scan

D, HIDDEN, V = 6, 10, 5
WIDTHS = {1: (D, V), 2: (D, HIDDEN, V), 3: (D, HIDDEN, 7, V), 4: (D, 7, HIDDEN, 8, V)}


def inputs(b, t, h, widths, seed=0, gates="random", n=None, dtype=torch.float64):
    """widths: of the memory MLP, or its depth. gates: random, with exact zeros and ones ("edges"), or (α, η)."""
    g = torch.Generator().manual_seed(seed)
    widths = WIDTHS.get(widths, widths)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    k, q = (torch.nn.functional.normalize(draw(b, t, h, widths[0]), dim=-1) for _ in range(2))
    n = t if n is None else n
    alpha, eta, theta = (torch.sigmoid(draw(b, n, h)) for _ in range(3))
    alpha, theta = alpha / 8, theta / 8  # forget little, so that much of one chunk reaches the next
    if gates == "edges":  # exact zeros and ones at every third token, in turn
        for i, gate in enumerate((alpha, eta, theta)):
            gate[:, i % max(n, 1) :: 3] = 0.0
            if gate is not theta:
                gate[:, (i + 1) % max(n, 1) :: 4] = 1.0
    elif gates != "random":
        alpha, eta = (torch.full_like(x, value) for x, value in zip((alpha, eta), gates, strict=True))
    memory = [draw(h, i, o) / i**0.5 for i, o in pairwise(widths)]
    out = dict(q=q, k=k, v=draw(b, t, h, widths[-1]), alpha=alpha, eta=eta, theta=theta)
    return {name: x.to(dtype).requires_grad_() for name, x in out.items()}, [
        w.to(dtype).requires_grad_() for w in memory
    ]


def random_state(b, h, widths, position, seed=5, dtype=torch.float64):
    """position: of all rows, or one a row."""
    g = torch.Generator().manual_seed(seed)
    widths = WIDTHS.get(widths, widths)
    groups = [
        tuple(
            (torch.randn(b, h, i, o, generator=g, dtype=torch.float64) / i**0.5 / scale).to(dtype).requires_grad_()
            for i, o in pairwise(widths)
        )
        for scale in (1, 4, 1)
    ]
    return MemoryState(*groups, torch.full((b,), position) if isinstance(position, int) else torch.tensor(position))


def everything(x, memory, state=None, **options):
    """Outputs, outgoing state, and the gradient of a random function of both with respect to every input."""
    y, after = memory_scan(**x, memory=memory, state=state, **options)
    flat = [y, *after.memory, *after.momentum, *after.anchor]
    leaves = [*x.values(), *memory]
    if state is not None:
        leaves += [*state.memory, *state.momentum, *state.anchor]
    return [*flat, *gradients(flat, leaves), after.position]


def gradients(flat, leaves):
    """Of a random function of all outputs; zero where an input is not used."""
    g = torch.Generator().manual_seed(99)
    loss = sum((o * torch.randn(o.shape, generator=g, dtype=torch.float64).to(o.dtype)).sum() for o in flat)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)]


def assert_same(got, want, tolerance=1e-9):
    for a, b in zip(got, want, strict=True):
        assert torch.isfinite(a.double()).all()
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
