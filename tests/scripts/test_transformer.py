"""Held to what the models are: no look ahead, cut anywhere = whole, rows apart; and its reach is its window."""

import pytest
import torch

import transformer
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA, map_state
from transformer import Transformer

TOKENS = 40
WINDOWS = [0, 1, 7]


def build(window, layers=2, dtype=torch.float64, **change):
    torch.manual_seed(0)
    config = TitansConfig(width=16, layers=layers, heads=2, **change)
    return Transformer(config, window).to(dtype).eval()


def draw(b=2, t=TOKENS):
    return torch.randint(7, 12, (b, t), generator=torch.Generator().manual_seed(1))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def naive(model, ids):
    """The same model by a whole matrix of scores, rotation by sines and cosines written out."""
    x = model.embedding(ids)
    t, age = ids.shape[1], torch.arange(ids.shape[1])[:, None] - torch.arange(ids.shape[1])
    visible = (age >= 0) & ((age < model.window) | (model.window == 0))
    angle = torch.arange(t)[:, None] * 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    for block in model.blocks:
        z, attention = block.norm(x), block.attention
        if model.window:
            q = attention.project.query(z)
            k, v = attention.project.key_value(z).chunk(2, dim=-1)
            output = attention.project.output
        else:
            (q, k, v), output = attention.project(z).chunk(3, dim=-1), attention.output
        q, k, v = (y.unflatten(-1, (2, 8)) for y in (q, k, v))
        q, k = (
            torch.stack([y[..., ::2] * cos - y[..., 1::2] * sin, y[..., ::2] * sin + y[..., 1::2] * cos], -1).flatten(
                -2
            )
            for y in (q, k)
        )
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / 8**0.5
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        x = x + output(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(-2))
        x = x + block.ffn(block.ffn_norm(x))
    return model.head(model.norm(x))


@torch.no_grad()
@pytest.mark.parametrize("window", WINDOWS)
def test_it_is_the_full_matrix(window):
    model, ids = build(window), draw()
    close(model(ids).logits, naive(model, ids))


@torch.no_grad()
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("cuts", [[25, 15], [1, 30, 9], [20, 1, 19], [1] * TOKENS])
@pytest.mark.parametrize("mask", [1, 100, 1 << 22])
def test_any_cut_equals_the_whole(window, cuts, mask, monkeypatch):
    monkeypatch.setattr(transformer, "MASK", mask)
    model, ids = build(window), draw()
    whole, state, hidden = model(ids), None, []
    for piece in ids.split(cuts, dim=1):
        before = state
        kept = [] if before is None else [x.clone() for block in before for x in block]
        out = model(piece, before)
        state = out.state
        hidden.append(out.hidden)
        for x, y in zip([] if before is None else [x for block in before for x in block], kept, strict=True):
            assert torch.equal(x, y)  # a state may be used again
    close(torch.cat(hidden, dim=1), whole.hidden)
    for got, want in zip(state, whole.state, strict=True):
        for a, b in zip(got, want, strict=True):
            close(a, b)


@torch.no_grad()
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("cut", [TOKENS, 13])
def test_no_token_sees_the_future_nor_past_its_window(window, cut):
    model, ids = build(window, layers=1), draw(1)
    changed = ids.repeat(TOKENS, 1)
    changed[range(TOKENS), range(TOKENS)] = 7 + (changed[range(TOKENS), range(TOKENS)] - 6) % 5

    def read(ids):
        first = model(ids[:, :cut])
        return first.logits if cut == TOKENS else torch.cat([first.logits, model(ids[:, cut:], first.state).logits], 1)

    moved = (read(changed) - read(ids)).abs().amax(-1) > 1e-12  # [changed place, place that moved]
    age = torch.arange(TOKENS) - torch.arange(TOKENS)[:, None]
    assert torch.equal(moved, (age >= 0) & (age < (window or TOKENS)))


@torch.no_grad()
@pytest.mark.parametrize("window", WINDOWS)
def test_rows_and_padding_change_nothing(window):
    model, ids = build(window), draw(3)
    together = model(ids).logits
    for i in range(3):
        close(model(ids[i : i + 1, : 20 + i]).logits[0], together[i, : 20 + i])


@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_through_pieces_equal_those_of_the_whole(window):
    model, ids = build(window), draw()
    parameters, weights = list(model.parameters()), torch.randn(2, TOKENS, 12, dtype=torch.float64)
    whole = torch.autograd.grad((model(ids).logits * weights).sum(), parameters)
    first = model(ids[:, :17])
    logits = torch.cat([first.logits, model(ids[:, 17:], first.state).logits], dim=1)
    for a, b in zip(torch.autograd.grad((logits * weights).sum(), parameters), whole, strict=True):
        close(a, b)


def test_one_call_asks_for_the_causal_kernel_and_no_mask(monkeypatch):
    asked = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def watch(*args, attn_mask=None, is_causal=False):
        asked.append((is_causal, None if attn_mask is None else attn_mask.numel()))
        return fused(*args, attn_mask=attn_mask, is_causal=is_causal)

    monkeypatch.setattr(transformer.F, "scaled_dot_product_attention", watch)
    monkeypatch.setattr(transformer, "MASK", 200)
    model, ids = build(0, layers=1), draw()
    out = model(ids[:, :20])
    assert asked == [(True, None)]
    model(ids[:, 20:], out.state)
    assert len(asked) > 2
    assert all(not causal and flags is not None and flags <= 200 for causal, flags in asked[1:])


def test_it_starts_as_the_models_do():
    config = TitansConfig(variant="mag", width=64, layers=3, heads=4)
    ours, model = TitansDNA(config), Transformer(config)
    assert model.parameter_count() == sum(p.numel() for p in model.parameters())
    assert model.parameter_count() == 2 * 12 * 64 + 64 + 3 * (4 * 64 * 64 + 3 * 64 * config.ffn_hidden + 2 * 64)
    for name in ("embedding.weight", "head.weight", "blocks.1.ffn.gate_up.weight", "blocks.1.ffn.down.weight"):
        torch.testing.assert_close(
            model.get_parameter(name).std(), ours.get_parameter(name).std(), rtol=0.2, atol=0, msg=name
        )
    tied = Transformer(config.replace(tie_embeddings=True))
    assert tied.head.weight is tied.embedding.weight
    assert tied.logit_scale == 1 / 64


def test_states_are_taken_apart_as_the_models_are():
    state = build(0)(draw()).state
    halves = map_state(lambda x: x / 2, state)
    close(halves[1].keys, state[1].keys / 2)
    assert type(halves[0]) is type(state[0])


STATE = build(0)(draw()).state


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(-1), "window: got -1, want at least 1, or 0 for full attention"),
        (lambda: build(0)(draw()[0]), r"ids: got torch.int64 \[40\], want whole numbers \[b, t\]"),
        (lambda: build(0)(draw()[:, :0]), "want whole numbers"),
        (lambda: build(0, layers=3)(draw(), STATE), "state: got 2 blocks, want 3"),
        (lambda: build(0)(draw(1), STATE), "state: got 2 batch rows, want 1 as in x"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
