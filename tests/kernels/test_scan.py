"""The chunk form against the token-by-token reference in float64: outputs, states and every gradient."""

import pytest
import torch
import torch.utils.checkpoint

from tests.kernels.cases import assert_same, everything, inputs, random_state
from titans_kernels import chunked, memory_scan


@pytest.mark.parametrize("read", ["after", "before", "anchor"])
@pytest.mark.parametrize(
    ("depth", "t", "chunk"), [(1, 21, 8), (2, 1, 8), (2, 7, 8), (2, 35, 8), (3, 17, 4), (4, 12, 5)]
)
@pytest.mark.parametrize("gates", ["random", "edges"])
def test_chunked_equals_reference(read, depth, t, chunk, gates):
    x, memory = inputs(2, t, 2, depth, gates=gates)
    options = dict(read=read, chunk=chunk)
    assert_same(everything(x, memory, **options), everything(x, memory, backend="reference", **options))


@pytest.mark.parametrize("gates", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_gates_of_exactly_zero_and_one(gates):
    x, memory = inputs(1, 19, 2, 2, gates=gates)
    assert_same(everything(x, memory, chunk=8), everything(x, memory, chunk=8, backend="reference"))


@pytest.mark.parametrize("read", ["after", "before", "anchor"])
@pytest.mark.parametrize(("position", "t"), [(0, 9), (3, 2), (3, 5), (3, 6), (7, 1), (5, 30)])
@pytest.mark.parametrize("max_norm", [None, 1.5])
def test_incoming_state_and_its_gradient(read, position, t, max_norm):
    x, memory = inputs(2, t, 2, 2)
    state = random_state(2, 2, 2, position)
    options = dict(read=read, chunk=8, max_norm=max_norm)
    assert_same(everything(x, memory, state, **options), everything(x, memory, state, backend="reference", **options))


@pytest.mark.parametrize("read", ["after", "before", "anchor"])
@pytest.mark.parametrize(("depth", "position", "t", "max_norm"), [(1, 0, 48, None), (2, 3, 45, 1.5), (3, 0, 35, 1.5)])
@pytest.mark.parametrize("group", [1, 2])
def test_several_spans(read, depth, position, t, max_norm, group, monkeypatch):
    """A long sequence is worked off in spans of a few chunks; here a short one is."""
    monkeypatch.setattr(chunked, "_group", lambda *_: group)
    x, memory = inputs(2, t, 2, depth, gates="edges")
    state = random_state(2, 2, depth, position)
    options = dict(read=read, chunk=8, max_norm=max_norm)
    for given in (None, state):
        want = everything(x, memory, given, backend="reference", **options)
        assert_same(everything(x, memory, given, **options), want)


def test_one_gradient_alone_and_twice():
    """Only some inputs wanted, an output that nothing uses, and a graph that is kept."""
    x, memory = inputs(2, 21, 2, 2)
    x = {name: value if name == "k" else value.detach() for name, value in x.items()}
    wants = []
    for backend in ("reference", "chunked", "chunked"):
        _, after = memory_scan(**x, memory=[w.detach() for w in memory], chunk=8, backend=backend)
        loss = after.momentum[0].square().sum()
        wants.append([torch.autograd.grad(loss, x["k"], retain_graph=True)[0] for _ in range(2)])
    assert_same([*wants[1], *wants[2]], [*wants[0], *wants[0]])


def test_backward_inside_checkpointing_and_autocast():
    """Gradients depend neither on a checkpoint around the call nor on the autocast that backward is called under."""
    x, memory = inputs(2, 21, 2, 2, dtype=torch.float32)
    leaves = [*x.values(), *memory]

    def loss(*tensors):
        y, after = memory_scan(**dict(zip(x, tensors, strict=False)), memory=tensors[len(x) :], chunk=8)
        return y.square().sum() + after.memory[0].square().sum()

    want = torch.autograd.grad(loss(*leaves), leaves)
    got = torch.autograd.grad(torch.utils.checkpoint.checkpoint(loss, *leaves, use_reentrant=False), leaves)
    out = loss(*leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(out, leaves)
    assert_same([*got, *inside], [*want, *want], tolerance=1e-6)


def test_gates_that_vanish_within_a_chunk():
    """Products of gates far below the smallest float32 number change nothing, and give finite gradients."""
    x, memory = inputs(1, 130, 1, 2, dtype=torch.float32)
    x["eta"], x["alpha"] = (torch.full_like(x["eta"], value) for value in (1e-3, 0.999))
    results = []
    for dtype, backend in ((torch.float32, "chunked"), (torch.float64, "reference")):
        cast = {name: value.detach().to(dtype).requires_grad_() for name, value in x.items()}
        y, _ = memory_scan(**cast, memory=[w.detach().to(dtype) for w in memory], chunk=64, backend=backend)
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(cast.values()))])
    for got, want in zip(*results, strict=True):
        assert float((got.double() - want).norm()) <= 2e-5 * float(want.norm()) + 1e-6


def test_bound_is_reached_and_held():
    x, memory = inputs(1, 64, 1, 2)
    x["alpha"] = torch.zeros_like(x["alpha"])
    free = memory_scan(**x, memory=memory, chunk=8)[1]
    held = memory_scan(**x, memory=memory, chunk=8, max_norm=1.5)[1]
    assert max(w.norm() for w in free.memory) > 1.6
    assert max(w.norm() for w in (*held.memory, *held.momentum)) <= 1.5 + 1e-12


@pytest.mark.parametrize("position", [0, 3, 7])
@pytest.mark.parametrize("t", [1, 6, 29])
def test_gates_per_chunk(position, t):
    chunks = -(-(position + t) // 8)
    x, memory = inputs(2, t, 2, 2, n=chunks, gates="edges")
    state = random_state(2, 2, 2, position)
    want = everything(x, memory, state, chunk=8, backend="reference")
    assert_same(everything(x, memory, state, chunk=8), want)
    # and the reference's repeat is what a caller would repeat
    place = (position + torch.arange(t)) // 8
    repeated = {n: g[:, place] if n in ("alpha", "eta", "theta") else g for n, g in x.items()}
    y, after = memory_scan(**repeated, memory=memory, state=state, chunk=8)
    assert_same([y, *after.memory], [want[0], *want[1:3]])


@pytest.mark.parametrize("pieces", [[1] * 37, [8, 8, 8, 8, 5], [3, 0, 20, 14], [36, 1], [9, 28]])
@pytest.mark.parametrize("read", ["after", "before", "anchor"])
@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_any_cut_equals_the_whole(pieces, read, backend):
    x, memory = inputs(2, 37, 2, 2, gates="edges")
    want = everything(x, memory, chunk=8, read=read, max_norm=2.0)
    state, reads = None, []
    for piece in zip(*(part.split(pieces, 1) for part in x.values()), strict=True):
        y, state = memory_scan(
            **dict(zip(x, piece, strict=True)),
            memory=memory, state=state, chunk=8, read=read, max_norm=2.0, backend=backend,
        )  # fmt: skip
        reads.append(y)
    flat = [torch.cat(reads, 1), *state.memory, *state.momentum, *state.anchor]
    g = torch.Generator().manual_seed(99)
    loss = sum((o * torch.randn(o.shape, generator=g, dtype=o.dtype)).sum() for o in flat)
    assert_same([*flat, *torch.autograd.grad(loss, [*x.values(), *memory]), state.position], want)


@pytest.mark.parametrize("gates", ["token", "chunk"])
@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_packed_sequences_are_what_they_are_alone(gates, backend):
    lengths = [5, 0, 16, 5, 1, 23]
    chunks = [-(-n // 8) for n in lengths]
    x, memory = inputs(1, sum(lengths), 2, 2, n=sum(chunks) if gates == "chunk" else None)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    got_y, got = memory_scan(**x, memory=memory, chunk=8, cu_seqlens=ends, backend=backend)
    parts = [
        x[name].split(chunks if gates == "chunk" and name in ("alpha", "eta", "theta") else lengths, 1) for name in x
    ]
    for i, part in enumerate(zip(*parts, strict=True)):
        y, alone = memory_scan(**dict(zip(x, part, strict=True)), memory=memory, chunk=8, backend="reference")
        row = got.rows(slice(i, i + 1))
        assert_same(
            [got_y[:, ends[i] : ends[i + 1]], *row.memory, *row.momentum, *row.anchor, row.position],
            [y, *alone.memory, *alone.momentum, *alone.anchor, alone.position],
        )
    # the returned rows stand at different places of their chunks, and go on together all the same
    more, _ = inputs(6, 11, 2, 2, seed=3)
    y, after = memory_scan(**more, memory=memory, state=got, chunk=8, backend=backend)
    for i in range(6):
        alone_y, alone = memory_scan(
            **{n: p[i : i + 1] for n, p in more.items()}, memory=memory, state=got.rows(slice(i, i + 1)), chunk=8
        )
        assert_same([y[i : i + 1], after.memory[0][i : i + 1]], [alone_y, alone.memory[0]])
        assert int(after.position[i]) == int(alone.position[0]) == (lengths[i] + 11) % 8


def test_theta_zero_writes_nothing():
    x, memory = inputs(1, 20, 2, 2, gates=(0.0, 0.5))
    x["theta"] = torch.zeros_like(x["theta"])
    _, state = memory_scan(**x, memory=memory, chunk=8)
    for got, want in zip(state.memory, memory, strict=True):
        torch.testing.assert_close(got[0], want)


def test_delta_rule_falls_out():
    """chunk = 1, L = 1, α = η = 0 is DeltaNet with β = 2θ (Yang et al., arXiv 2406.06484, eq. 2)."""
    x, memory = inputs(1, 12, 1, 1, gates=(0.0, 0.0))
    y, _ = memory_scan(**x, memory=memory, chunk=1)
    W = memory[0][0]
    for t in range(12):
        k, v, beta = x["k"][0, t, 0], x["v"][0, t, 0], 2 * x["theta"][0, t, 0]
        W = W - beta * torch.outer(k, k @ W - v)
        torch.testing.assert_close(y[0, t, 0], x["q"][0, t, 0] @ W)


def test_ttt_linear_falls_out():
    """L = 1, α = η = 0 with a mini-batch is TTT-Linear (Sun et al., arXiv 2407.04620): gradients at the batch's start."""
    x, memory = inputs(1, 13, 1, 1, gates=(0.0, 0.0))
    y, _ = memory_scan(**x, memory=memory, chunk=4)
    W = start = memory[0][0]
    for t in range(13):
        start = W if t % 4 == 0 else start
        k, v = x["k"][0, t, 0], x["v"][0, t, 0]
        W = W - x["theta"][0, t, 0] * 2 * torch.outer(k, k @ start - v)
        torch.testing.assert_close(y[0, t, 0], x["q"][0, t, 0] @ W)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_lower_precision_stays_near_float64(dtype, tolerance):
    exact, memory = inputs(2, 130, 2, 2)
    x, weights = inputs(2, 130, 2, 2, dtype=dtype)
    y, state = memory_scan(**x, memory=weights, chunk=64)
    want, _ = memory_scan(**exact, memory=memory, chunk=64, backend="reference")
    assert y.dtype == dtype
    assert state.memory[0].dtype == torch.float32
    assert float(((y.double() - want).norm() / want.norm()).detach()) < tolerance


def test_rows_do_not_see_each_other_nor_the_future():
    x, memory = inputs(3, 20, 2, 2)
    y, _ = memory_scan(**x, memory=memory, chunk=8)
    grads = torch.autograd.grad(y[1, 10].sum(), list(x.values()))
    for grad in grads:
        assert torch.count_nonzero(grad[[0, 2]]) == 0
        assert torch.count_nonzero(grad[:, 11:]) == 0
        assert torch.count_nonzero(grad[1, :11]) > 0


BAD = [
    (dict(chunk=0), "chunk: got 0"),
    (dict(read="later"), "read: got 'later'"),
    (dict(backend="cuda"), "backend: got 'cuda'"),
    (dict(backend="triton"), "backend: got 'triton' with q, k, v of torch.float64"),
    (dict(max_norm=0.0), "max_norm"),
    (dict(alpha=torch.zeros(2, 3, 2)), "alpha: got shape"),
    (dict(v=torch.zeros(2, 9, 2, 4)), "memory: got a last layer of width 5, want the width of v, 4"),
    (dict(k=torch.zeros(2, 9, 2, 4)), "k: got shape"),
    (dict(memory=[]), "memory: got 0 layers"),
    (dict(cu_seqlens=torch.tensor([0, 9])), "cu_seqlens: got a batch of 2"),
    (dict(state=random_state(1, 2, 2, 0)), "state.memory"),
    (dict(state=random_state(2, 2, 2, 8)), "state.position"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments_are_named(change, message):
    x, memory = inputs(2, 9, 2, 2)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        memory_scan(**{**x, "memory": memory, "chunk": 8, **change})


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
def test_a_memory_that_fades_ends_at_zero(depth):
    """Not among the subnormal numbers, which cost a CPU a hundred times the time of others: a long stream slows down."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4096, 1, 8, generator=generator) / 3 for _ in range(3))
    alpha, eta, theta = torch.full((1, 4096, 1), 0.02), torch.full((1, 4096, 1), 0.9), torch.zeros(1, 4096, 1)
    memory = [torch.randn(1, 8, 8, generator=generator) / 3 for _ in range(depth)]
    state = None
    for tokens in (3000, 1096):
        _, state = memory_scan(
            *(x[:, :tokens] for x in (q, k, v)),
            **{name: x[:, :tokens] for name, x in (("alpha", alpha), ("eta", eta), ("theta", theta))},
            memory=memory, state=state, chunk=16,
        )  # fmt: skip
        for w in (*state.memory, *state.momentum, *state.anchor):
            assert not ((w != 0) & (w.abs() < torch.finfo(torch.float32).tiny)).any()
    assert all(torch.count_nonzero(w) == 0 for w in state.memory)
