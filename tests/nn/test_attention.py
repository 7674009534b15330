"""Streaming attention against full matrices with explicit masks and absolute rotary positions."""

import pytest
import torch

from titans_dna.nn.attention import SegmentAttention, SegmentState, SlidingAttention, SlidingState, apply_rope

PRECISION = [(torch.float64, 1e-11), (torch.float32, 2e-5)]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def close(got, want, tolerance):
    torch.testing.assert_close(got.double(), want.double(), atol=tolerance, rtol=tolerance)


def turn(x, positions, base=10000.0):
    """Rotary embedding by explicit 2x2 rotations, pair by pair; x [b, t, h, d] in float64."""
    y = torch.empty_like(x)
    d = x.shape[-1]
    for i in range(0, d, 2):
        angle = positions.double()[:, None] * base ** (-i / d)
        y[..., i] = x[..., i] * angle.cos() - x[..., i + 1] * angle.sin()
        y[..., i + 1] = x[..., i] * angle.sin() + x[..., i + 1] * angle.cos()
    return y


def split_weights(layer):
    names = ["project.query.weight", "project.key_value.weight", "project.output.weight"]
    query, key_value, output = (dict(layer.named_parameters())[name].double() for name in names)
    return query, *key_value.chunk(2), output


def naive(layer, x, sources, positions, visible, prefix):
    """Full score matrix in float64: source tokens have positions; prefix tokens have none and are always visible."""
    heads = layer.project.heads
    wq, wk, wv, wo = split_weights(layer)
    x, sources, prefix = x.double(), sources.double(), prefix.double().expand(len(x), -1, -1)
    q, k, v, pk, pv = (
        (z @ w.T).unflatten(-1, (heads, -1))
        for z, w in [(x, wq), (sources, wk), (sources, wv), (prefix, wk), (prefix, wv)]
    )
    token_positions, source_positions = positions
    scores = torch.einsum("bthd,bshd->bhts", turn(q, token_positions), turn(k, source_positions))
    scores = scores.masked_fill(~visible, -torch.inf)
    scores = torch.cat([torch.einsum("bthd,bphd->bhtp", q, pk), scores], -1) / q.shape[-1] ** 0.5
    y = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), torch.cat([pv, v], 1))
    return y.flatten(-2) @ wo.T


def naive_sliding(layer, x, prefix, origin=0):
    position = torch.arange(x.shape[1]) + origin
    age = position[:, None] - position
    return naive(layer, x, x, (position, position), (age >= 0) & (age < layer.window), prefix)


def naive_segment(layer, x, h, prefix, origin=0):
    position = torch.arange(x.shape[1]) + origin
    twice = position.repeat(2)
    return naive(layer, x, torch.cat([h, x], 1), (position, twice), position[:, None] >= twice, prefix)


def run_sliding(layer, x, prefix, cuts):
    pieces, state = [], None
    for piece in x.tensor_split(cuts, dim=1):
        y, state = layer(piece, state, prefix if state is None else None)
        pieces.append(y)
    return torch.cat(pieces, 1), state


def run_segment(layer, x, h, prefix, cuts):
    pieces, state = [], None
    for piece, memory_tokens in zip(x.tensor_split(cuts, dim=1), h.tensor_split(cuts, dim=1), strict=True):
        y, state = layer(piece, memory_tokens, state, prefix)
        pieces.append(y)
    return torch.cat(pieces, 1), state


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rope_turns_pairs_and_keeps_its_precision_far_out(dtype):
    x, positions = torch.randn(2, 4, 3, 6).to(dtype), torch.tensor([0, 1, 7, 16_000_000])
    close(apply_rope(x, positions, 100.0), turn(x.double(), positions, 100.0), 1e-6 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize(
    ("t", "window", "p"),
    [(1, 4, 2), (3, 4, 2), (4, 4, 0), (5, 4, 1), (7, 4, 1), (8, 4, 1), (23, 5, 9), (24, 8, 8), (12, 50, 3), (20, 1, 2)],
)
def test_sliding_is_the_full_matrix(dtype, tolerance, t, window, p):
    layer = SlidingAttention(16, 2, window).to(dtype)
    x, prefix = torch.randn(3, t, 16).to(dtype), torch.randn(1, p, 16).to(dtype)
    y, state = layer(x, prefix=prefix)
    assert y.dtype == dtype
    assert state.keys.shape == (3, min(t, window - 1), 2, 8)
    for origin in (0, 1000):  # only distances count
        close(y, naive_sliding(layer, x, prefix, origin), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize(("t", "p"), [(1, 2), (2, 0), (9, 3), (12, 8)])
def test_segment_is_the_full_matrix(dtype, tolerance, t, p):
    layer = SegmentAttention(16, 2, 12).to(dtype)
    x, h, prefix = torch.randn(3, t, 16).to(dtype), torch.randn(3, t, 16).to(dtype), torch.randn(3, p, 16).to(dtype)
    y, state = layer(x, h, prefix=prefix)
    assert y.dtype == dtype
    assert state.keys.shape == (3, t, 2, 2, 8)
    for origin in (0, 1000):
        close(y, naive_segment(layer, x, h, prefix, origin), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize(
    "cuts", [[1], [4], [5], [6], [22], [2, 3], [4, 10, 11], [7, 19], [5, 10, 15, 20], list(range(1, 23))]
)
@pytest.mark.parametrize("window", [1, 5, 30])
def test_sliding_cut_anywhere_is_the_whole(dtype, tolerance, cuts, window):
    layer = SlidingAttention(8, 2, window).to(dtype)
    x, prefix = torch.randn(2, 23, 8).to(dtype), torch.randn(2, 3, 8).to(dtype)
    y, state = run_sliding(layer, x, prefix, cuts)
    close(y, naive_sliding(layer, x, prefix), tolerance)
    for got, want in zip(state, layer(x, prefix=prefix)[1], strict=True):
        close(got, want, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize("cuts", [[1], [5], [8], [2, 3], list(range(1, 9))])
def test_segment_cut_anywhere_is_the_whole(dtype, tolerance, cuts):
    layer = SegmentAttention(8, 2, 9).to(dtype)
    x, h, prefix = (torch.randn(2, n, 8).to(dtype) for n in (9, 9, 3))
    y, state = run_segment(layer, x, h, prefix, cuts)
    close(y, naive_segment(layer, x, h, prefix), tolerance)
    for got, want in zip(state, layer(x, h, prefix=prefix)[1], strict=True):
        close(got, want, tolerance)


def influence(run, source):
    """[t, tokens of source]: the largest absolute gradient of any feature of output i by any feature of input j."""
    jacobian = torch.autograd.functional.jacobian(run, source)  # [1, t, width, 1, tokens, width]
    assert isinstance(jacobian, torch.Tensor)
    return jacobian.abs().amax((0, 2, 3, 5))


@pytest.mark.parametrize("cuts", [[], [6], [3, 4, 11]])
def test_sliding_sees_its_window_and_the_prefix_and_nothing_else(cuts):
    layer, t = SlidingAttention(8, 2, 4).double(), 13
    x, prefix = torch.randn(1, t, 8).double(), torch.randn(1, 3, 8).double()
    age = torch.arange(t)[:, None] - torch.arange(t)
    seen = influence(lambda z: run_sliding(layer, z, prefix, cuts)[0], x) != 0  # exactly zero elsewhere
    assert torch.equal(seen, (age >= 0) & (age < 4))
    assert (influence(lambda z: run_sliding(layer, x, z, cuts)[0], prefix) > 0).all()


@pytest.mark.parametrize("cuts", [[], [3, 4]])
def test_segment_sees_tokens_and_memory_up_to_itself_and_the_prefix(cuts):
    layer, t = SegmentAttention(8, 2, 7).double(), 7
    x, h, prefix = (torch.randn(1, n, 8).double() for n in (t, t, 3))
    past = torch.ones(t, t).tril().bool()
    assert torch.equal(influence(lambda z: run_segment(layer, z, h, prefix, cuts)[0], x) != 0, past)
    assert torch.equal(influence(lambda z: run_segment(layer, x, z, prefix, cuts)[0], h) != 0, past)
    assert (influence(lambda z: run_segment(layer, x, h, z, cuts)[0], prefix) > 0).all()


def test_the_prefix_weighs_the_same_at_every_position():
    """The same token everywhere: once the window is full, no output may depend on where it is."""
    layer, prefix = SlidingAttention(8, 2, 4).double(), torch.randn(1, 3, 8).double()
    y = layer(torch.randn(1, 1, 8).double().expand(1, 37, 8), prefix=prefix)[0][:, 3:]
    close(y, y[:, :1].expand_as(y), 1e-12)


def test_a_long_call_is_linear_and_as_precise_at_its_end():
    """One matrix of [t, t] flags would take 10 GB here."""
    layer, t = SlidingAttention(4, 1, 50), 100_000
    x, prefix = torch.randn(1, t, 4), torch.randn(1, 2, 4)
    with torch.no_grad():
        y, state = layer(x, prefix=prefix)
        assert state.keys.untyped_storage().nbytes() == 49 * 4 * 4
    close(y[:, -50:], naive_sliding(layer, x[:, -99:], prefix)[:, -50:], 1e-5)


def test_batch_rows_are_independent():
    sliding, segment = SlidingAttention(8, 2, 4).double(), SegmentAttention(8, 2, 11).double()
    x, h, prefix = (torch.randn(3, n, 8).double() for n in (11, 11, 2))
    together, inside = sliding(x, prefix=prefix)[0], segment(x, h, prefix=prefix)[0]
    for row in range(3):
        one = slice(row, row + 1)
        close(sliding(x[one], prefix=prefix[one])[0], together[one], 1e-12)
        close(segment(x[one], h[one], prefix=prefix[one])[0], inside[one], 1e-12)


@pytest.mark.parametrize("cuts", [[], [2, 3]])
def test_gradients_are_right_through_state_and_prefix(cuts):
    sliding, segment = SlidingAttention(4, 2, 2).double(), SegmentAttention(4, 1, 5).double()
    x, h = (torch.randn(2, 5, 4).double().requires_grad_() for _ in range(2))
    prefix = torch.randn(1, 2, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: run_sliding(sliding, *a, cuts)[0], (x, prefix))
    assert torch.autograd.gradcheck(lambda *a: run_segment(segment, *a, cuts)[0], (x, h, prefix))


def test_every_gradient_is_finite_for_large_inputs():
    layer, x = SlidingAttention(16, 2, 8), (100 * torch.randn(2, 40, 16)).requires_grad_()
    layer(x, prefix=x[:, :2])[0].square().mean().backward()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in [x, *layer.parameters()])


def test_bfloat16_autocast_and_a_detached_state():
    layer, segment = SlidingAttention(32, 2, 8), SegmentAttention(32, 2, 40)
    x, h, prefix = torch.randn(2, 40, 32), torch.randn(2, 40, 32), torch.randn(1, 3, 32)
    want, inside = naive_sliding(layer, x, prefix), naive_segment(segment, x, h, prefix)
    with torch.autocast("cpu", torch.bfloat16):
        first, state = layer(x[:, :20], prefix=prefix)
        rest, _ = layer(x[:, 20:], SlidingState(*(z.detach() for z in state)))
        head, state = segment(x[:, :20], h[:, :20], prefix=prefix)
        tail, _ = segment(x[:, 20:], h[:, 20:], SegmentState(*(z.detach() for z in state)), prefix)
        (rest.float().sum() + tail.float().sum()).backward()
    assert first.dtype == torch.bfloat16
    close(torch.cat([first, rest], 1), want, 3e-2)
    close(torch.cat([head, tail], 1), inside, 3e-2)
    pure = SlidingAttention(32, 2, 8).bfloat16()
    close(pure(x.bfloat16(), prefix=prefix.bfloat16())[0], naive_sliding(pure, x, prefix), 3e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_cuda_gives_the_same(dtype, tolerance):
    sliding, segment = SlidingAttention(64, 2, 16), SegmentAttention(64, 2, 40)
    x, h, prefix = torch.randn(2, 40, 64), torch.randn(2, 40, 64), torch.randn(1, 3, 64)
    want, inside = naive_sliding(sliding, x, prefix), naive_segment(segment, x, h, prefix)
    x, h, prefix = (z.cuda().requires_grad_() for z in (x, h, prefix))
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        y, _ = run_sliding(sliding.cuda(), x, prefix, [5])
        z, _ = run_segment(segment.cuda(), x, h, prefix, [5])
    close(y.cpu(), want, tolerance)
    close(z.cpu(), inside, tolerance)
    (y.float().sum() + z.float().sum()).backward()
    assert all(g.grad is not None and g.grad.isfinite().all() for g in (x, h, prefix))


def sliding(*shape):
    return SlidingAttention(8, 2, 4)(torch.zeros(*shape))


STATE = sliding(2, 6, 8)[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SlidingAttention(8, 2, 0), "window: got 0, want at least 1"),
        (lambda: SegmentAttention(8, 2, 0), "segment: got 0, want at least 1"),
        (lambda: SlidingAttention(6, 2, 4), "heads: got 2, want an even head width out of width 6"),
        (lambda: sliding(2, 0, 8), r"x: got shape \[2, 0, 8\], want \[b, t, 8\] with t at least 1"),
        (lambda: SlidingAttention(8, 2, 4)(torch.zeros(2, 1, 8), STATE, torch.zeros(1, 1, 8)), "prefix: .* want None"),
        (lambda: SlidingAttention(8, 2, 4)(torch.zeros(3, 1, 8), STATE), "state: got 3 tokens in 2 batch rows"),
        (lambda: SlidingAttention(8, 2, 3)(torch.zeros(2, 1, 8), STATE), "state: got 3 tokens in 2 batch rows"),
        (
            lambda: SlidingAttention(8, 2, 4)(torch.zeros(3, 1, 8), prefix=torch.zeros(2, 1, 8)),
            r"prefix: got shape \[2, 1, 8\], want \[3 or 1, p, 8\]",
        ),
        (
            lambda: SegmentAttention(8, 2, 4)(torch.zeros(1, 5, 8), torch.zeros(1, 5, 8)),
            "x: got 5 tokens after 0 of the segment, want at most 4",
        ),
        (
            lambda: SegmentAttention(8, 2, 4)(torch.zeros(1, 3, 8), torch.zeros(1, 2, 8)),
            r"memory_tokens: got shape \[1, 2, 8\], want \[1, 3, 8\]",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
