"""The memory layer: its gates keep the inner loop stable, and it learns to recall."""

import pytest
import torch
import torch.nn.functional as F

from titans_dna.config import TitansConfig
from titans_dna.nn.memory import KeyMap, NeuralMemory
from titans_dna.nn.model import TitansDNA
from titans_dna.train.loss import price_of_writing, watched_gates

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


class TestRemembering:
    """What makes a memory remember; the needle benchmark has the figures."""

    CONFIG = CONFIG.replace(
        key_width=24,
        key_map="cosine",
        gate_context=True,
        gate_speed=5.0,
        half_life=1000,
        forget_on_write=True,
        memory_depth=1,
        convolution=6,
    )

    def test_the_start_is_at_the_half_life(self):
        for speed in (1.0, 5.0):
            memory = NeuralMemory(CONFIG.replace(half_life=1000, gate_speed=speed))
            with torch.no_grad():
                memory.gates.weight.zero_()
            alpha, _, theta = memory._gates(memory.gates(torch.randn(1, 5, 32)))
            torch.testing.assert_close((1 - alpha) ** 1000, torch.full_like(alpha, 0.5), rtol=1e-3, atol=0)
            torch.testing.assert_close(theta, torch.full_like(theta, 1 / (8 * CONFIG.chunk)))

    def test_a_gate_learns_faster_and_starts_alike(self):
        """The same outputs at the start; a step of the optimiser moves theta so many times as far, and no other gate."""
        moved = []
        x = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(1))
        for speed in (1.0, 5.0):
            torch.manual_seed(0)
            memory = NeuralMemory(CONFIG.replace(gate_speed=speed))
            before = memory.gates(x)
            optimiser = torch.optim.Adam(memory.parameters(), lr=1e-3)
            memory(x)[0].square().sum().backward()
            optimiser.step()
            moved.append((before, memory.by_gate(memory.gates(x) - before)))
        torch.testing.assert_close(moved[0][0], moved[1][0])
        for name, factor in (("theta", 5), ("eta", 1), ("alpha", 1)):
            far, near = (one[name].abs().mean().item() for _, one in reversed(moved))
            assert far / near == pytest.approx(factor, rel=0.02)

    def test_what_is_not_written_is_not_forgotten(self):
        memory = NeuralMemory(self.CONFIG)
        force(memory, alpha=200.0, eta=0.0, theta=-200.0)
        alpha, _, theta = memory._gates(memory.gates(torch.randn(1, 5, 32)))
        assert theta.max() < 1e-30
        assert alpha.max() < 1e-30
        force(memory, alpha=0.0, eta=0.0, theta=200.0)
        alpha, _, _ = memory._gates(memory.gates(torch.randn(1, 5, 32)))
        torch.testing.assert_close(alpha, torch.full_like(alpha, 0.5))

    def test_gates_see_what_stands_before(self):
        """Of two sequences with one other token, the gates of those behind it differ, as far as the convolution reaches."""
        torch.manual_seed(0)
        model = TitansDNA(self.CONFIG).eval()
        one = torch.randint(7, 11, (1, 30))
        other = one.clone()
        other[0, 10] = 18 - other[0, 10] if other[0, 10] != 9 else 8
        for seen, expected in ((True, range(10, 16)), (False, range(10, 11))):
            model = TitansDNA(self.CONFIG.replace(gate_context=seen)).eval()
            with watched_gates(model) as gates:
                model(one), model(other)
            first, second = gates[0][1]
            assert (first != second).any(-1)[0].nonzero().flatten().tolist() == list(expected)

    def test_keys_begin_with_windows_of_their_groups(self):
        """Two heads, each with channels that see two tokens and channels that see four: keys one token earlier."""
        memory = NeuralMemory(CONFIG.replace(convolution=6, key_windows=[2, 4]))
        query, key, _ = memory.convolution.weight.detach().split(32, dim=1)
        for head in range(2):
            narrow, wide = query[:, 16 * head : 16 * head + 8], query[:, 16 * head + 8 : 16 * head + 16]
            assert (narrow != 0).any(1).tolist() == [False] * 4 + [True] * 2
            assert (wide != 0).any(1).tolist() == [False] * 2 + [True] * 4
        assert torch.equal(key, query.roll(-1, dims=0))

    def test_cosines_tell_more_keys_apart(self):
        """96 words of six letters, each with a value, written once and untrained."""
        recalled = {}
        for name, width in (("silu", 64), ("cosine", 64), ("cosine", 256)):
            torch.manual_seed(0)
            words = torch.randperm(4**6)[:96, None] // 4 ** torch.arange(6) % 4
            letters = F.one_hot(words, 4).float().flatten(1)
            keys = KeyMap(TitansConfig("lmm", width=64, heads=1, key_map=name, key_width=width, memory_depth=1))
            keys.initialise()
            made = keys((letters @ torch.randn(24, 64) / 6**0.5)[None]).detach()[0, :, 0]
            values = F.normalize(torch.randn(96, 64), dim=-1)
            memory = made.T @ values
            recalled[name, width] = ((made @ memory @ values.T).argmax(-1) == torch.arange(96)).float().mean().item()
        assert recalled["silu", 64] < recalled["cosine", 64] < recalled["cosine", 256]
        assert recalled["cosine", 256] > 0.9


class TestPrice:
    def test_by_hand(self):
        """Two tokens of a memory whose gates of theta are 1 and -20: the first pays 15, the other nothing."""
        memory = NeuralMemory(TitansConfig("lmm", width=4, heads=1))
        gates = torch.tensor([[[1.0, 9, 9], [-20.0, 9, 9]]], requires_grad=True)
        price = price_of_writing([(memory, [gates])], free=0)
        assert price.item() == 7.5
        (slope,) = torch.autograd.grad(price, gates)
        assert slope.tolist() == [[[0.5, 0, 0], [0, 0, 0]]]
        # A part is free: of two tokens, one, which is that which is written more; and all of it is.
        assert price_of_writing([(memory, [gates])], free=0.5).item() == 0
        # Over calls, memories and heads.
        calls = [torch.full((1, 3, 3), -13.0), torch.full((1, 1, 3), -10.0)]
        assert price_of_writing([(memory, calls), (memory, calls)], free=0).item() == 1.75

    def test_a_gate_wide_open_feels_it(self):
        """A price on ln theta would leave it open: there its slope is nought."""
        memory = NeuralMemory(TitansConfig("lmm", width=4, heads=1))
        gates = torch.full((1, 4, 3), 20.0, requires_grad=True)
        price_of_writing([(memory, [gates])], free=0).backward()
        assert gates.grad[..., 0].min() == 0.25

    def test_a_step_writes_less(self):
        torch.manual_seed(0)
        model = TitansDNA(CONFIG)
        ids = torch.randint(7, 11, (2, 60))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            with watched_gates(model) as seen:
                model(ids)
            price = price_of_writing(seen)
            optimiser.zero_grad()
            price.backward()
            optimiser.step()
        with watched_gates(model) as seen:
            model(ids)
        assert price_of_writing(seen) < price
