"""What every variant must hold: no look ahead, cut anywhere = whole, rows and padding change nothing."""

import random

import pytest
import torch

from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.nn.blocks import LMMBlock, MACBlock
from titans_dna.nn.counts import Counts
from titans_dna.nn.memory import NeuralMemoryState
from titans_dna.nn.model import TitansDNA, detach, map_state

TOKENS = 75
SMALL = {"width": 16, "layers": 2, "heads": 2, "chunk": 8, "segment": 16, "window": 12, "persistent": 3}
REMEMBERING = {"key_width": 24, "key_map": "cosine", "key_windows": [2, 5, 3], "gate_context": True, "gate_speed": 5.0}
REMEMBERING |= {
    "half_life": 100,
    "forget_on_write": True,
    "attention_residual": True,
    "memory_depth": 1,
    "convolution": 6,
}
# One change each: the paper's ablations, the three reads, gates per chunk, odd sizes.
OTHERS = [
    {},
    {"gates": "chunk"},
    {"read": "before"},
    {"read": "anchor"},
    {"persistent": 0},
    {"convolution": 0},
    {"momentum": False},
    {"forgetting": False},
    {"memory_depth": 1},
    {"memory_depth": 3},
    {"attention": False},
    {"chunk": 1},
    {"segment": 12, "window": 1},
    {"max_norm": 0.0},
    {"restart": 24},
    {"key_width": 24, "memory_depth": 1},
    {"gate_context": True, "gates": "chunk"},
    {"attention_residual": True},
    {"forget_on_write": True, "half_life": 100},
    REMEMBERING,
    {**REMEMBERING, "memory_depth": 2, "restart": 24},
]
MIXED = ("conv-conv", "conv-lmm", "mac-conv-mag", "kmers-conv-lmm")
# Longer than they have rows, of one letter, and longer than a sequence; the dilated taps reach beyond every border.
BESIDE = {"stem": 6, "kmers": [2, 1, 9, 31], "kmer_width": 3, "kmer_slots": 64, "conv_dilations": [7]}
BESIDE["counts"] = [2, 9, 24]
ALL = (*VARIANTS, *MIXED)
CASES = [(variant, change) for variant in VARIANTS for change in OTHERS]
CASES += [
    ("lmm", change)
    for change in (
        {"mixers": ["conv", "lmm"]},
        {"mixers": ["conv", "mac"], "conv_taps": 5},
        {"mixers": ["conv", "conv"], "conv_taps": 40},
        {"mixers": ["mag", "conv"], "conv_taps": 3},
        {"mixers": ["mal", "conv", "mag"], "layers": 3, "restart": 24},
        {"stem": 1},
        {"stem": 7, "mixers": ["conv", "conv"], "conv_taps": 4, "conv_dilations": [3, 20]},
        {"kmers": [3]},
        {"mixers": ["conv", "mac"], "conv_taps": 3, **BESIDE},
    )
]


def build(variant="mac", seed=0, dtype=torch.float64, **change):
    torch.manual_seed(seed)
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


def draw(b=2, t=TOKENS, seed=1):
    return torch.randint(7, 12, (b, t), generator=torch.Generator().manual_seed(seed))


def stream(model, ids, pieces):
    state, logits = None, []
    for piece in ids.split(pieces, dim=1):
        out = model(piece, state)
        state = out.state
        logits.append(out.logits)
    return torch.cat(logits, dim=1), state


def tensors(state):
    found = []
    map_state(lambda x: found.append(x) or x, state)
    return found


@torch.no_grad()
@pytest.mark.parametrize(("variant", "change"), CASES)
def test_any_cut_equals_the_whole(variant, change):
    model, ids = build(variant, **change), draw()
    whole = model(ids)
    cuts = [[16, 16, 43], [7, 1, 30, 37], [74, 1]]
    for pieces in [*cuts, [1] * TOKENS] if change in OTHERS[:3] else cuts:
        logits, state = stream(model, ids, pieces)
        torch.testing.assert_close(logits, whole.logits, rtol=1e-9, atol=1e-9)
        for a, b in zip(tensors(state), tensors(whole.state), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# Segment, chunk and window borders, the token before and after each, and places inside.
@torch.no_grad()
@pytest.mark.parametrize(("variant", "change"), CASES)
def test_a_token_changes_nothing_before_it(variant, change):
    model, ids = build(variant, **change), draw(1)
    before = model(ids).logits[0]
    places = [0, 1, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 24, 31, 32, 33, 40, 47, 48, 50, 63, 64, 74]
    changed = ids.repeat(len(places), 1)
    changed[range(len(places)), places] = 7 + (changed[range(len(places)), places] - 6) % 5
    after = model(changed).logits
    for place, logits in zip(places, after, strict=True):
        assert place == 0 or (logits[:place] - before[:place]).abs().max() < 1e-12
        assert (logits[place] - before[place]).abs().max() > 1e-6
        reach = logits[place + 1 :] - before[place + 1 :]
        assert place == TOKENS - 1 or reach.abs().max() > 1e-9  # and it does reach what follows


@pytest.mark.parametrize("variant", ALL)
def test_no_gradient_from_the_future(variant):
    model, ids = build(variant), draw(1, 40)
    embedded = model.embedding(ids).detach().requires_grad_()
    x = embedded if model.entry is None else model.entry(model.entry.look(ids, None), embedded, None)[0]
    for block in model.blocks:
        x, _ = block(x, None)
    for place in (0, 7, 8, 15, 16, 20, 31, 38):
        (grad,) = torch.autograd.grad(x[0, place].sum(), embedded, retain_graph=True)
        assert torch.count_nonzero(grad[0, place + 1 :]) == 0
        assert torch.count_nonzero(grad[0, : place + 1]) > 0


@torch.no_grad()
@pytest.mark.parametrize("variant", ALL)
def test_rows_padding_and_batch_size_change_nothing(variant):
    model, ids = build(variant, dtype=torch.float32), draw(5)
    together = model(ids).logits
    for i in range(5):
        alone = model(ids[i : i + 1, : 30 + i]).logits
        torch.testing.assert_close(alone[0], together[i, : 30 + i], rtol=1e-5, atol=1e-5)
        padded = torch.cat([ids[i : i + 1, : 30 + i], torch.full((1, 20), 4)], dim=1)
        torch.testing.assert_close(model(padded).logits[:, : 30 + i], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ALL)
def test_gradients_through_pieces_equal_those_of_the_whole(variant):
    model, ids = build(variant), draw(2, 50)
    parameters = list(model.parameters())
    weights = torch.randn(2, 50, 12, dtype=torch.float64)
    # Sparse are those of look-ups: the rows that were met.
    whole = [one.to_dense() for one in torch.autograd.grad((model(ids).logits * weights).sum(), parameters)]
    logits, _ = stream(model, ids, [9, 16, 1, 24])
    for a, b in zip(torch.autograd.grad((logits * weights).sum(), parameters), whole, strict=True):
        torch.testing.assert_close(a.to_dense(), b, rtol=1e-8, atol=1e-9)
    assert all(torch.isfinite(g).all() and torch.count_nonzero(g) for g in whole)


@pytest.mark.parametrize("variant", ALL)
def test_activation_checkpointing_changes_no_gradient(variant):
    model, ids = build(variant), draw(2, 30)
    grads = []
    for model.activation_checkpointing in (False, True):
        grads.append(torch.autograd.grad(model(ids).logits.square().sum(), list(model.parameters())))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("variant", ALL)
def test_bfloat16_autocast_keeps_the_state_in_float32(variant):
    model, ids = build(variant, dtype=torch.float32), draw()
    exact = model(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(ids)
    out.logits.float().sum().backward()
    assert all(torch.isfinite(p.grad.to_dense()).all() for p in model.parameters())
    assert (out.logits.float() - exact.logits).norm() < 0.1 * exact.logits.norm()
    states = [getattr(state, "memory", state) for state in out.state]
    assert all(state.scan.memory[0].dtype == torch.float32 for state in states if isinstance(state, NeuralMemoryState))


def test_detach_cuts_the_graph_and_keeps_the_state():
    model, ids = build(), draw()
    state = model(ids).state
    cut = detach(state)
    assert cut[0].position == state[0].position == TOKENS % 16
    assert tensors(cut)
    assert not any(x.requires_grad for x in tensors(cut))


@torch.no_grad()
def test_mac_reads_what_the_last_segment_left():
    """h_j reaches token i of the same segment for j <= i alone, and comes from the memory of the segments before."""
    model, ids = build("mac", layers=1), draw(1)
    reader = model.blocks[0].reader
    seen = []
    reader.register_forward_hook(lambda module, args, output: seen.append(args[1][0].clone()))
    changed = ids.clone()
    changed[0, 20] = 7 + (changed[0, 20] - 6) % 5
    model(ids)
    model(changed)
    first, second = seen[:5], seen[5:]  # one read a segment: 16, 16, 16, 16, 11 tokens
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [True, True, False, False, False]
    torch.testing.assert_close(first[0][0], model.blocks[0].memory.initial_memory[0])


@torch.no_grad()
@pytest.mark.parametrize("gates", ["token", "chunk"])
def test_local_memories_begin_again_and_the_last_one_goes_on(gates):
    """A stretch of a local memory is what that stretch gives alone; the last block has none."""
    model = build("lmm", restart=16, gates=gates)
    memory, x = model.blocks[0].memory, torch.randn(2, 43, 16, dtype=torch.float64)
    y, _ = memory(x)
    alone = torch.cat([memory(part)[0] for part in x.split(16, dim=1)], dim=1)
    torch.testing.assert_close(y, alone)
    pieces, state = [], None
    for part in x.split([5, 11, 20, 7], dim=1):
        one, state = memory(part, state)
        pieces.append(one)
    torch.testing.assert_close(torch.cat(pieces, dim=1), y)
    assert state.age == 43 % 16
    last = model.blocks[1].memory
    assert (
        last(x)[0][:, 16:] - torch.cat([last(part)[0] for part in x.split(16, dim=1)], dim=1)[:, 16:]
    ).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("variant", "change"), [("mag", {}), ("mal", {}), ("mac", {}), ("mag", {"attention": False})])
def test_persistent_tokens_are_seen_by_every_token(variant, change):
    model, ids = build(variant, **change), draw(1)
    before = model(ids).logits
    model.blocks[0].persistent[0] += 1.0
    assert ((model(ids).logits - before).abs().amax(-1) > 1e-9).all()


def test_ablations_leave_out_what_they_name():
    names = {
        name: {n for n, _ in build("mag", **change).named_parameters()}
        for name, change in {
            "full": {}, "convolution": {"convolution": 0}, "persistent": {"persistent": 0}, "attention": {"attention": False},
        }.items()
    }  # fmt: skip
    assert names["full"] - names["convolution"] == {f"blocks.{i}.memory.convolution.weight" for i in (0, 1)}
    assert names["full"] - names["persistent"] == {f"blocks.{i}.persistent" for i in (0, 1)}
    assert not any("attention" in n for n in names["attention"])
    assert isinstance(build("mac", attention=False).blocks[0], LMMBlock)
    assert isinstance(build("mac").blocks[0], MACBlock)
    assert build(momentum=False).blocks[0].memory.gates.out_features == 4
    assert build(momentum=False, forgetting=False).blocks[0].memory.gates.out_features == 2
    assert len(build(memory_depth=1).blocks[0].memory.initial_memory) == 1


@torch.no_grad()
def test_momentum_and_forgetting_switch_off():
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    for switch, index in (("forgetting", 0), ("momentum", 1)):
        memory = build(**{switch: False}).blocks[0].memory
        assert torch.count_nonzero(memory._gates(memory.gates(x))[index]) == 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 0, dtype=torch.long), "ids: got"),
        (torch.zeros(5, dtype=torch.long), "ids: got"),
        (torch.zeros(2, 5), "ids: got"),
    ],
)
def test_bad_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        build()(ids)


def test_state_of_another_model():
    state = build(layers=1)(draw()).state
    with pytest.raises(ValueError, match="state: got 1 parts, want 2"):
        build()(draw(), state)
