"""The memory reset and the memory off, beside what they must equal."""

import numpy as np
import pytest
import torch

from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.context.score import borders, memory_off, reset_memory, score
from titans_dna.nn.memory import NeuralMemory
from titans_dna.nn.model import TitansDNA
from titans_dna.reading.stream import Ids, calls

ROWS, WINDOW, TOKENS = 2, 32, 104


def make(variant, **changes):
    torch.manual_seed(1)
    shape = {"width": 16, "layers": 2, "heads": 2, "chunk": 8, "persistent": 3, "segment": 16, "window": 8}
    model = TitansDNA(TitansConfig(variant=variant, **{**shape, **changes}))
    for memory in (module for module in model.modules() if isinstance(module, NeuralMemory)):
        memory.initial_memory[-1].data.mul_(10)  # so that what is read without writing matters
        memory.gates.bias.data[-2:] = -2  # forgets within a window
    return model.eval()


def tokens(seed=0, count=TOKENS):
    return torch.randint(7, 11, (ROWS, count), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def read_with_resets(model, ids):
    out, state = [], None
    for first in range(0, ids.shape[1], WINDOW):
        state = reset_memory(model, state) if state is not None else None
        logits, state = model(ids[:, first : first + WINDOW], state)[1:]
        out.append(logits)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("gates", ["token", "chunk"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_convolution_and_attention_a_reset_is_a_fresh_start(variant, gates):
    """Nothing but the memory crosses the border: sliding attention over one token, or segments that end there."""
    model = make(variant, convolution=0, window=1, gates=gates)
    ids = tokens()
    with torch.no_grad():
        alone = torch.cat([model(part).logits for part in ids.split(WINDOW, dim=1)], dim=1)
        carried = model(ids).logits
    torch.testing.assert_close(read_with_resets(model, ids), alone, atol=1e-5, rtol=1e-5)
    assert (carried - alone).abs().max() > 1e-3


@torch.no_grad()
def test_a_reset_leaves_a_block_without_a_memory_alone():
    model = make("lmm", mixers=["conv", "mag"], conv_taps=5)
    _, _, state = model(tokens())
    conv, after = reset_memory(model, state)
    assert conv is state[0]
    assert not torch.equal(after.memory.scan.memory[0], state[1].memory.scan.memory[0])
    convolutions = make("lmm", mixers=["conv", "conv"], stem=4, kmers=[2, 5], conv_dilations=[1, 9])
    torch.testing.assert_close(read_with_resets(convolutions, tokens()), convolutions(tokens()).logits)
    assert torch.equal(memory_off(convolutions)(tokens()).logits, convolutions(tokens()).logits)


@pytest.mark.parametrize("variant", ["lmm", "mag"])
@torch.no_grad()
def test_a_reset_is_of_the_memory_alone(variant):
    """One block by hand: convolution and attention over the whole sequence, the memory over each window apart."""
    model = make(variant, layers=1)
    block, memory = model.blocks[0], model.blocks[0].memory
    ids = tokens()
    x = model.embedding(ids)
    normed, prefix = block.norm(x), block.prefix(x)
    p = prefix.shape[1]
    whole = torch.cat([prefix, normed], dim=1)
    qkv = memory.convolution(memory.qkv(whole))[0]
    parts = []
    for first in range(0, TOKENS, WINDOW):
        rows = [*range(p), *range(p + first, min(p + first + WINDOW, p + TOKENS))]
        read, _ = memory._scan(qkv[:, rows], memory.gates(whole[:, rows]), None, None)
        parts.append(memory.answer(whole[:, rows], read)[:, p:])
    mixed = torch.cat(parts, dim=1)
    if variant == "mag":
        mixed = block.gate(block.attention(normed, None, prefix)[0], mixed)
    x = x + mixed
    want = model.head(model.norm(x + block.ffn(block.ffn_norm(x))))
    torch.testing.assert_close(read_with_resets(model, ids), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_reset_leaves_the_old_state_as_it_was(variant):
    model = make(variant)
    ids = tokens()
    state = model(ids[:, :50]).state
    want = model(ids[:, 50:], state).logits
    again = model(ids[:, 50:], reset_memory(model, state)).logits
    assert torch.equal(model(ids[:, 50:], state).logits, want)
    assert (again - want).abs().max() > 1e-4


@pytest.mark.parametrize("changes", [{}, {"forgetting": False}, {"momentum": False}, {"gates": "chunk"}])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_off_remembers_nothing_beyond_convolution_and_attention(variant, changes):
    model = make(variant, **changes)
    off = memory_off(model)
    one, other = tokens(), tokens()
    other[:, :30] = tokens(seed=5)[:, :30]
    config = model.config
    attention = {"lmm": 0, "mac": config.segment - 1}.get(variant, config.window - 1)
    reach = config.layers * (attention + config.convolution - 1)
    first = 30 + reach
    assert first < TOKENS - 10
    (_, kept, state), (_, changed, _) = off(one), off(other)
    torch.testing.assert_close(kept[:, first:], changed[:, first:], atol=1e-6, rtol=0)
    assert (kept[:, :31] - changed[:, :31]).abs().max() > 1e-3
    assert (model(one).logits - model(other).logits)[:, first:].abs().max() > 1e-4
    for block, after in zip(off.blocks, state, strict=True):
        scan = (after if variant == "lmm" else after.memory).scan
        for weight, start in zip(scan.memory, block.memory.initial_memory, strict=True):
            assert torch.equal(weight, start.expand_as(weight))
        assert not any(weight.any() for weight in scan.momentum)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_scores_are_those_of_one_call(piece):
    model = make("mag")
    ids = tokens()
    with torch.no_grad():
        logits = model(ids).logits.log_softmax(-1)
    want = -logits[:, 63:-1].gather(-1, ids[:, 64:, None])[..., 0] / torch.tensor(2.0).log()
    torch.testing.assert_close(torch.from_numpy(score(model, ids, TOKENS - 64, piece)), want, atol=1e-5, rtol=1e-5)


def test_windows_are_counted_from_the_first_scored_base():
    for context in (1, 5, 10, 23):
        *within, end = borders(context, context + 30, 10)
        assert end == context + 30
        assert within == [at for at in range(1, context + 30) if (at - context) % 10 == 0]
        rows, first = [Ids(np.arange(context + 30))], 0
        for last in (*within, end):
            found = [(call.start, call.start + len(call.tokens[0].ids)) for call in calls(rows, 4, first, last)]
            assert [first, *(stop for _, stop in found)] == [*(start for start, _ in found), last]
            assert all(0 < stop - start <= 4 for start, stop in found)
            first = last
    assert [*borders(5, 35, 0)] == [35]


def test_resets_while_scoring():
    model = make("lmm")
    ids = tokens()[:, :84]  # 20 bases of context: the windows begin at 20 and 52
    called = []
    bits = score(model, ids, 64, 9, window=32, reset=lambda state: called.append(1) or reset_memory(model, state))
    assert len(called) == 2
    with torch.no_grad():
        state = model(ids[:, :20]).state
        state = reset_memory(model, state)
        logits, state = model(ids[:, 20:52], state)[1:]
        rest = model(ids[:, 52:], reset_memory(model, state)).logits
    got = torch.cat([logits, rest], dim=1)[:, :-1].log_softmax(-1)
    want = -got.gather(-1, ids[:, 21:, None])[..., 0] / torch.tensor(2.0).log()
    torch.testing.assert_close(torch.from_numpy(bits[:, 1:]), want, atol=1e-5, rtol=1e-5)
