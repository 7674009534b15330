"""Packed sequences: each gives what it gives alone, in outputs and gradients, and nothing crosses a border."""

import random
from itertools import pairwise

import pytest
import torch

from titans_dna.config import MIXERS, VARIANTS, TitansConfig
from titans_dna.nn.counts import Counts
from titans_dna.nn.memory import NeuralMemory
from titans_dna.nn.model import TitansDNA
from titans_dna.nn.packing import pack

# Around the chunk (8), the window (12) and the segment (16); one token; shorter than the convolution's reach of 3; none.
LENGTHS = [7, 1, 40, 0, 16, 33, 2, 0]
SMALL = {"width": 16, "layers": 2, "heads": 2, "chunk": 8, "segment": 16, "window": 12, "persistent": 3}
ALL = (*VARIANTS, "conv-conv", "conv-lmm", "mac-conv-mag", "kmers-conv-lmm")
BESIDE = {"stem": 6, "kmers": [2, 1, 9, 31], "kmer_width": 3, "kmer_slots": 64, "conv_dilations": [7]}
BESIDE["counts"] = [2, 9, 24]
REMEMBERING = {"key_width": 24, "key_map": "cosine", "key_windows": [2, 3], "gate_context": True, "convolution": 5}
REMEMBERING |= {"forget_on_write": True, "attention_residual": True, "memory_depth": 1}
EVERY = [
    {},
    REMEMBERING,
    {**REMEMBERING, "gates": "chunk"},
    {"gates": "chunk"},
    {"convolution": 0},
    {"persistent": 0, "read": "before"},
    {"read": "anchor"},
]
CASES = [
    *((variant, change) for variant in VARIANTS for change in EVERY),
    ("lmm", {"memory_depth": 1, "momentum": False, "max_norm": 0.0}),
    ("mac", {"attention": False}),
    ("mac", {"segment": 12, "convolution": 1}),
    ("mac", {"segment": 64, "gates": "chunk"}),
    ("mag", {"attention": False, "gates": "chunk", "chunk": 1}),
    ("mag", {"window": 1}),
    ("mal", {"persistent": 9, "gates": "chunk"}),
    ("mal", {"window": 64, "forgetting": False}),
    *((variant, {"restart": 16}) for variant in VARIANTS),
    *(("lmm", {"mixers": ["conv", kind], "conv_taps": 5}) for kind in MIXERS),
    ("lmm", {"mixers": ["mal", "conv", "mag"], "layers": 3, "restart": 16, "conv_taps": 9}),
    ("lmm", {"stem": 9}),
    ("mag", {"kmers": [3, 20], "kmer_slots": 128}),
]


def build(variant, dtype=torch.float64, **change):
    torch.manual_seed(0)
    if variant.startswith("kmers-"):
        variant, change = variant.removeprefix("kmers-"), {**BESIDE, **change}
    if "-" in variant:
        change |= {"mixers": variant.split("-"), "layers": variant.count("-") + 1, "conv_taps": 5}
        variant = "lmm"
    model = TitansDNA(TitansConfig(variant=variant, **{**SMALL, **change})).to(dtype).eval()
    with torch.no_grad():  # away from the start's special values, so that every path carries something
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    if model.config.counts:
        model.counts = Counts.fit(["".join(random.Random(0).choices("ACGT", k=3000))])
    return model


def draw(lengths=LENGTHS, seed=1):
    """ids [1, t] and cu_seqlens."""
    ids = torch.randint(7, 12, (1, sum(lengths)), generator=torch.Generator().manual_seed(seed))
    return ids, torch.tensor([0, *lengths]).cumsum(0)


def alone(model, ids, lengths=LENGTHS):
    """The logits of each sequence in a call of its own, end to end."""
    return torch.cat([model(piece).logits for piece in ids.split(lengths, dim=1) if piece.shape[1]], dim=1)


def gradients(model, logits):
    weights = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((logits * weights).sum(), list(model.parameters()))
    return [one.to_dense() for one in found]  # those of look-ups are sparse: the rows that were met


@pytest.mark.parametrize(("variant", "change"), CASES, ids=str)
def test_each_sequence_gives_what_it_gives_alone(variant, change):
    model, (ids, cu_seqlens) = build(variant, **change), draw()
    packed, want = model(ids, cu_seqlens=cu_seqlens), alone(model, ids)
    assert packed.state == ()
    torch.testing.assert_close(packed.logits, want, rtol=1e-9, atol=1e-9)
    for (name, _), a, b in zip(
        model.named_parameters(), gradients(model, packed.logits), gradients(model, want), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.count_nonzero(b)


@pytest.mark.parametrize(
    "change", [{}, {"convolution": 0}, {"convolution": 1}, {"convolution": 6}, {"gates": "chunk"}], ids=str
)
def test_one_scan_and_blocks_side_by_side_are_the_memory_of_each(change):
    """The way of a GPU and that of a CPU."""
    torch.manual_seed(0)
    memory = NeuralMemory(TitansConfig(**{**SMALL, **change})).double()
    packing, x = pack(draw()[1], draw()[0]), torch.randn(1, sum(LENGTHS), 16).double().requires_grad_()
    want = torch.cat([memory(piece)[0] for piece in x.split(LENGTHS, dim=1) if piece.shape[1]], dim=1)
    sources, weights = [x, *memory.parameters()], torch.randn_like(want)
    wanted = torch.autograd.grad((want * weights).sum(), sources)
    for way in (memory._packed_scan, memory.packed):
        y = way(x, packing)
        torch.testing.assert_close(y, want, rtol=1e-10, atol=1e-10)
        for a, b in zip(torch.autograd.grad((y * weights).sum(), sources), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lengths", [[1], [75], [1, 1, 1], [0, 5, 0]])
@pytest.mark.parametrize("variant", ALL)
def test_few_sequences_in_float32(variant, lengths):
    model, (ids, cu_seqlens) = build(variant, torch.float32), draw(lengths)
    packed, want = model(ids, cu_seqlens=cu_seqlens.int()).logits, alone(model, ids, lengths)
    torch.testing.assert_close(packed, want, rtol=1e-5, atol=1e-5)
    names = [name for name, _ in model.named_parameters()]
    for name, a, b in zip(names, gradients(model, packed), gradients(model, want), strict=True):
        small = 1e-5 if name.endswith("log_prior") else 1e-7  # a prior's is a small difference of large numbers
        assert (a - b).norm() <= 1e-5 * b.norm() + small


@torch.no_grad()
@pytest.mark.parametrize("change", [{}, {"gates": "chunk"}], ids=str)
@pytest.mark.parametrize("variant", ALL)
def test_a_sequence_changes_nothing_in_another(variant, change):
    model, (ids, cu_seqlens) = build(variant, torch.float32, **change), draw()
    before = model(ids, cu_seqlens=cu_seqlens).hidden
    for start, stop in pairwise(cu_seqlens.tolist()):
        changed = ids.clone()
        changed[:, start:stop] = 7 + (ids[:, start:stop] - 6) % 5
        after = model(changed, cu_seqlens=cu_seqlens).hidden
        assert torch.equal(after[:, :start], before[:, :start])
        assert torch.equal(after[:, stop:], before[:, stop:])
        assert (after[:, start:stop] != before[:, start:stop]).any(-1).all()


@pytest.mark.parametrize("variant", ALL)
def test_no_gradient_over_a_border(variant):
    model, (ids, cu_seqlens) = build(variant), draw([7, 1, 20, 2])
    embedded = model.embedding(ids).detach().requires_grad_()
    x, packing = embedded, pack(cu_seqlens, ids)
    for block in model.blocks:
        x, _ = block(x, None, packing)
    for start, stop in pairwise(cu_seqlens.tolist()):
        (grad,) = torch.autograd.grad(x[0, start:stop].sum(), embedded, retain_graph=True)
        reached = grad[0].count_nonzero(-1) > 0
        assert reached[start:stop].all()
        assert reached.sum() == stop - start


@torch.no_grad()
def test_features_of_a_middle_block():
    model, (ids, cu_seqlens) = build("mag"), draw()
    hidden, state = model.features(ids, layer=0, cu_seqlens=cu_seqlens)
    want = [model.features(piece, layer=0)[0] for piece in ids.split(LENGTHS, dim=1) if piece.shape[1]]
    torch.testing.assert_close(hidden, torch.cat(want, dim=1), rtol=1e-9, atol=1e-9)
    assert state == ()


@pytest.mark.parametrize("variant", ALL)
def test_activation_checkpointing_changes_no_gradient(variant):
    model, (ids, cu_seqlens) = build(variant), draw([7, 1, 20])
    grads = []
    for model.activation_checkpointing in (False, True):
        grads.append(gradients(model, model(ids, cu_seqlens=cu_seqlens).logits))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", ALL)
def test_bfloat16_autocast(variant):
    model, (ids, cu_seqlens) = build(variant, torch.float32), draw()
    exact = model(ids, cu_seqlens=cu_seqlens).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(ids, cu_seqlens=cu_seqlens).logits
    rounded.float().sum().backward()
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()
    assert all(p.grad is not None and torch.isfinite(p.grad.to_dense()).all() for p in model.parameters())


@pytest.mark.parametrize("p", [0, 1, 5])
def test_insert_and_separate(p):
    ids, cu_seqlens = draw([2, 0, 3])
    packing, x, before = pack(cu_seqlens, ids), torch.arange(5.0).view(1, 5, 1), -torch.arange(1.0, 3 * p + 1)
    wide = packing.insert(before.view(3, p, 1), x)
    a, b, c = before.split(p) if p else [before] * 3
    torch.testing.assert_close(wide[0, :, 0], torch.cat([a, x[0, :2, 0], b, c, x[0, 2:, 0]]))
    assert packing.widened(p).cu_seqlens.tolist() == [0, 2 + p, 2 + 2 * p, 5 + 3 * p]
    for got, want in zip(packing.separate(wide, p), (before.view(3, p, 1), x), strict=True):
        assert torch.equal(got, want)


def test_blocks_hold_one_sequence_each():
    ids, cu_seqlens = draw([3, 0, 7, 4])
    blocks, x = pack(cu_seqlens, ids).blocks(3), torch.arange(1.0, 15).view(1, 14, 1)
    folded = blocks.fold(x)
    assert folded[:, :, 0].tolist() == [[4, 5, 6], [11, 12, 13], [1, 2, 3], [7, 8, 9], [14, 0, 0], [10, 0, 0]]
    assert blocks.counts == [3, 2, 1]
    assert blocks.sequence.tolist() == [2, 3, 0, 2, 3, 2]
    assert blocks.previous(folded)[:, :, 0].tolist() == [[4, 5, 6], [11, 12, 13], [7, 8, 9]]
    assert torch.equal(blocks.unfold(folded), x)


@pytest.mark.parametrize(
    ("rows", "cu_seqlens", "message"),
    [
        (1, [0, 3, 9], r"cu_seqlens: got \[0, 3, 9\], want 0 first, never falling, 10"),
        (1, [1, 10], r"cu_seqlens: got \[1, 10\], want 0 first"),
        (1, [0, 7, 3, 10], r"cu_seqlens: got \[0, 7, 3, 10\], want 0 first, never falling"),
        (1, [0.0, 10.0], r"cu_seqlens: got torch.float32 \[2\], want whole numbers \[n \+ 1\], n at least 1"),
        (1, [10], r"cu_seqlens: got torch.int64 \[1\], want whole numbers \[n \+ 1\], n at least 1"),
        (1, [[0, 10]], r"cu_seqlens: got torch.int64 \[1, 2\], want whole numbers"),
        (2, [0, 10], "ids: got 2 rows beside cu_seqlens, want 1 with the sequences end to end"),
    ],
)
def test_bad_packing_is_named(rows, cu_seqlens, message):
    with pytest.raises(ValueError, match=message):
        build("lmm")(torch.full((rows, 10), 7), cu_seqlens=torch.tensor(cu_seqlens))


def test_no_state_beside_packing():
    model, (ids, cu_seqlens) = build("lmm"), draw([4, 6])
    with pytest.raises(ValueError, match="state: got one beside cu_seqlens, want None"):
        model(ids, model(ids).state, cu_seqlens)
