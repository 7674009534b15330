"""The memory layer: its gates keep the inner loop stable, and it learns to recall."""

import pytest
import torch
import torch.nn.functional as F

from titans_dna.config import TitansConfig
from titans_dna.nn.memory import NeuralMemory
from titans_dna.nn.model import TitansDNA

CONFIG = TitansConfig(variant="lmm", width=32, layers=1, heads=2, chunk=16)


def force(memory, alpha, eta, theta):
    """Hold the gates open or shut, whatever the input."""
    with torch.no_grad():
        memory.gates.weight.zero_()
        memory.gates.bias.copy_(torch.tensor([theta, eta, alpha]).repeat_interleave(memory.config.heads))


@pytest.mark.parametrize(("eta", "rate"), [(-40.0, 1.0), (0.0, 0.5), (40.0, 0.0)])
def test_gates_stay_in_their_range(eta, rate):
    memory = NeuralMemory(CONFIG)
    force(memory, alpha=-200.0, eta=eta, theta=200.0)
    alpha, decay, theta = memory._gates(memory.gates(torch.randn(1, 5, 32)))
    assert torch.count_nonzero(alpha) == 0
    torch.testing.assert_close(theta, torch.full_like(theta, rate / (2 * CONFIG.chunk)))
    assert ((decay >= 0) & (decay <= 1)).all()


REPEATS = {"poly-A": "A", "dinucleotide": "CA", "N": "N", "codon": "CAG"}


@torch.no_grad()
@pytest.mark.parametrize("name", REPEATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [1, 2])
def test_repeats_with_open_gates_stay_bounded(name, dtype, depth):
    """Largest rate, no forgetting; scripts/bench_stability.py does the same over a million tokens."""
    torch.manual_seed(0)
    model = TitansDNA(CONFIG.replace(memory_depth=depth)).eval()
    memory = model.blocks[0].memory
    ids = {"A": 7, "C": 8, "G": 9, "N": 11}
    piece = torch.tensor([ids[base] for base in REPEATS[name] * 4096][:4096])[None]
    limit = CONFIG.max_norm * CONFIG.head_width**0.5
    for eta in (-200.0, 0.0, 6.0):
        force(memory, alpha=-200.0, eta=eta, theta=200.0)
        state = None
        for _ in range(3):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                out = model(piece, state)
            state = out.state
            assert torch.isfinite(out.logits).all()
        scan = state[0].scan
        assert all(w.norm(dim=(-2, -1)).max() <= limit * 1.0001 for w in (*scan.memory, *scan.momentum))


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_gradients_do_not_grow_with_length(variant):
    """With a chunk's steps past 2 in sum (theta_max 32 here) they grow a thousandfold; within the range they do not."""
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig(variant=variant, width=32, layers=2, heads=2, segment=64, window=64))
    ids = torch.randint(7, 11, (2, 2049), generator=torch.Generator().manual_seed(0))
    ids[:, 500:900] = 7
    norms = []
    for t in (128, 2048):
        model.zero_grad()
        loss = F.cross_entropy(model(ids[:, :t]).logits.flatten(0, 1), ids[:, 1 : t + 1].flatten())
        loss.backward()
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm())
    assert norms[1] < 3 * norms[0]


def pairs(rows, count, generator):
    """[rows, 4 count]: `count` (key, value) pairs, then the same pairs in another order; and where values are asked for."""
    keys = torch.stack([torch.randperm(count, generator=generator) for _ in range(rows)])
    values = torch.randint(count, 2 * count, (rows, count), generator=generator)
    order = torch.stack([torch.randperm(count, generator=generator) for _ in range(rows)])
    first = torch.stack([keys, values], dim=2).flatten(1)
    again = torch.stack([keys.gather(1, order), values.gather(1, order)], dim=2).flatten(1)
    return torch.cat([first, again], dim=1), torch.arange(2 * count, 4 * count, 2)


@pytest.mark.parametrize(("depth", "steps"), [(1, 100), (2, 160)])
def test_recall_is_learned(depth, steps):
    """Associative recall of 8 pairs; scripts/bench_stability.py has the 32-pair task and its figures."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = TitansDNA(TitansConfig("lmm", vocab_size=16, width=32, layers=2, heads=1, chunk=16, memory_depth=depth))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        ids, asked = pairs(32, 8, generator)
        logits = model(ids[:, :-1]).logits[:, asked]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, asked + 1].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        ids, asked = pairs(256, 8, generator)
        right = model(ids[:, :-1]).logits[:, asked].argmax(-1) == ids[:, asked + 1]
    assert right.float().mean() > 0.95
