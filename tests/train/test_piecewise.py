"""Full backpropagation in pieces: the loss, the state and every gradient are those of one call."""

import pytest
import torch

from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.nn.model import TitansDNA, map_state, tensors_of
from titans_dna.train.loss import loss_sums
from titans_dna.train.piecewise import piecewise_loss

SMALL = {"width": 16, "layers": 2, "heads": 2, "chunk": 8, "segment": 16, "window": 12, "persistent": 3}
LENGTHS = torch.tensor([0.0] * 7 + [1.0] * 4 + [0.0])
PIECES = [1, 7, 16, 41, 75, 200]


def build(variant, **change):
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig(variant=variant, **{**SMALL, **change})).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def draw(t=76, b=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(7, 12, (b, t), generator=generator), torch.rand(b, t, generator=generator, dtype=torch.float64)


def losses(ids, weight):
    def of_piece(logits, piece):
        return loss_sums(logits, ids[:, 1:][:, piece], weight[:, 1:][:, piece], LENGTHS)

    return of_piece


def gradients(loss, inputs):
    return torch.autograd.grad(loss, inputs, allow_unused=True)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_state_and_gradients_are_those_of_one_call(variant, piece):
    model, (ids, weight) = build(variant), draw()
    parameters, loss = list(model.parameters()), losses(ids, weight)
    out = model(ids[:, :-1])
    whole = loss(out.logits, slice(None))
    after = sum((x * torch.linspace(0.5, 1, x.numel()).view_as(x)).sum() for x in tensors_of(out.state))
    wanted = gradients(whole.weighted + after, parameters)

    sums, state = piecewise_loss(model, ids[:, :-1], loss, piece)
    for a, b in zip(sums, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # the logits are scored in float32
    for a, b in zip(tensors_of(state), tensors_of(out.state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    again = sum((x * torch.linspace(0.5, 1, x.numel()).view_as(x)).sum() for x in tensors_of(state))
    for a, b in zip(gradients(sums.weighted + again, parameters), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_flows_into_the_state_it_goes_on_from(variant):
    model, (ids, weight) = build(variant), draw()
    with torch.no_grad():
        before = model(ids[:, :21]).state
    rest, loss = ids[:, 21:], losses(ids[:, 21:], weight[:, 21:])
    found = []
    for piece in (None, 10):
        leaves = map_state(lambda x: x.clone().requires_grad_(), before)
        if piece is None:
            sums = loss(model(rest[:, :-1], leaves).logits, slice(None))
        else:
            sums, _ = piecewise_loss(model, rest[:, :-1], loss, piece, leaves)
        found.append(gradients(sums.weighted, tensors_of(leaves)))
    assert any(x is not None and x.abs().max() > 1e-6 for x in found[0])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None) or not (b if a is None else a).any()
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_dropout_is_that_of_the_forward():
    """A piece that is run again drops what it dropped, and the random state afterwards is that of one forward."""
    model, (ids, weight) = build("mag", dropout=0.3).train(), draw()
    loss, parameters = losses(ids, weight), list(model.parameters())
    torch.manual_seed(5)
    weighted = piecewise_loss(model, ids[:, :-1], loss, 20)[0].weighted
    random = torch.get_rng_state()
    found = gradients(weighted, parameters)
    assert torch.equal(torch.get_rng_state(), random)
    torch.manual_seed(5)
    state, total = None, torch.zeros(())
    for start in range(0, 75, 20):  # the same pieces with one graph over all
        piece = slice(start, min(start + 20, 75))
        out = model(ids[:, piece], state)
        state, total = out.state, total + loss(out.logits, piece).weighted
    torch.testing.assert_close(weighted, total, rtol=1e-6, atol=1e-6, check_dtype=False)
    for a, b in zip(found, gradients(total, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_autocast_is_that_of_the_forward():
    model, (ids, weight) = build("lmm").float(), draw()
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append((torch.is_autocast_enabled("cpu"), output)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums, _ = piecewise_loss(model, ids[:, :-1], losses(ids, weight.float()), 40)
    sums.weighted.backward()
    assert [enabled for enabled, _ in seen] == [True] * 4
    assert torch.equal(seen[0][1].logits, seen[3][1].logits)


def test_activation_checkpointing_over_blocks_inside_pieces():
    model, (ids, weight) = build("mac"), draw()
    loss, found = losses(ids, weight), []
    for model.activation_checkpointing in (False, True):
        sums, _ = piecewise_loss(model, ids[:, :-1], loss, 30)
        found.append(gradients(sums.weighted, list(model.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_no_graph_is_kept_where_none_is_wanted():
    model, (ids, weight) = build("lmm"), draw()
    with torch.no_grad():
        sums, state = piecewise_loss(model, ids[:, :-1], losses(ids, weight), 16)
    assert not sums.weighted.requires_grad
    assert not any(x.requires_grad for x in tensors_of(state))


def test_a_piece_of_nothing():
    model, (ids, weight) = build("lmm"), draw()
    with pytest.raises(ValueError, match="piece: got 0, want at least 1"):
        piecewise_loss(model, ids, losses(ids, weight), 0)
