"""One token at a time against the token-by-token reference in float64: reads, states, and what is written where."""

import os
from itertools import pairwise

import pytest
import torch

from titans_kernels import MemoryState, memory_scan, memory_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cuda":
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # deterministic algorithms ask for it
GROUPS = ("memory", "momentum", "anchor")
CHUNK = 8


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """New tensors hold NaN until they are written."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def token(b, h, d, e, generator, gates="random", dtype=torch.float64):
    """Arguments of one step; gates are zeros and ones at random places if `gates` is "edges"."""

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k = (torch.nn.functional.normalize(draw(b, h, d), dim=-1) for _ in range(2))
    alpha, eta, theta = draw(b, h).sigmoid() / 8, draw(b, h).sigmoid(), draw(b, h).sigmoid() / 8
    if gates == "edges":
        alpha, eta = ((torch.rand(b, h, generator=generator) < 0.3).double() for _ in range(2))
        theta = theta * (torch.rand(b, h, generator=generator) < 0.7)
    x = dict(q=q, k=k, v=draw(b, h, e), alpha=alpha, eta=eta, theta=theta)
    return {name: value.to(DEVICE, dtype) for name, value in x.items()}


def random_state(positions, h, widths, generator):
    def draw(i, o, scale):
        w = torch.randn(len(positions), h, i, o, generator=generator) / i**0.5 / scale
        return w.to(DEVICE)

    groups = [tuple(draw(i, o, scale) for i, o in pairwise(widths)) for scale in (1, 4, 1)]
    return MemoryState(*groups, torch.tensor(positions))


def judge(x, state, **options):
    """The reference in float64 from the same numbers."""
    exact = state.map(torch.Tensor.double)
    x = {name: value.double()[:, None] for name, value in x.items()}
    memory = [w[0] for w in exact.memory]
    y, after = memory_scan(**x, memory=memory, state=exact, backend="reference", **options)
    return y[:, 0], after


def clone(state):
    return state.map(torch.clone)


def flat(y, state):
    return [y, *state.memory, *state.momentum, *state.anchor]


def assert_near(got, want, tolerance=2e-5):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


# widths: one layer in one tile and in two; two layers in one tile, in three, and with d and e unlike
WALKS = [
    ((16, 16), [0], "after", "random", None, False),
    ((32, 128), [3, 6], "before", "edges", 1.5, False),
    ((16, 32), [5, 5], "anchor", "random", 1.5, True),
    ((16, 16, 16), [0, 7], "after", "edges", 1.5, True),
    ((16, 48, 32), [3, 6], "after", "random", 1.5, False),
    ((32, 48, 16), [2], "before", "random", None, True),
    ((16, 48, 16), [7, 1], "anchor", "edges", None, False),
]


@pytest.mark.parametrize(("widths", "positions", "read", "gates", "max_norm", "inplace"), WALKS)
def test_twenty_tokens_equal_the_reference(widths, positions, read, gates, max_norm, inplace):
    g = torch.Generator().manual_seed(1)
    options = dict(chunk=CHUNK, read=read, max_norm=max_norm)
    state = random_state(positions, 2 if len(positions) == 1 else 1, widths, g)
    exact = clone(state)
    for _ in range(20):
        x = token(*state.memory[0].shape[:2], widths[0], widths[-1], g, gates)
        given = clone(state)
        y, after = memory_step(
            **{n: value.float() for n, value in x.items()},
            state=state, inplace=inplace, backend="triton", **options,
        )  # fmt: skip
        want, exact = judge(x, exact, **options)
        assert_near(flat(y, after), flat(want, exact))
        assert torch.equal(after.position, exact.position)
        tensors = [w for name in GROUPS for w in zip(getattr(state, name), getattr(after, name), strict=True)]
        if inplace:
            assert all(a is b for a, b in tensors)
        else:
            assert all(torch.equal(a, b) for a, b in zip(flat(y, state), flat(y, given), strict=True))
        state = after


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("widths", [(16, 16), (16, 48, 16)])
def test_only_rows_at_their_chunks_end_are_bounded(widths, inplace):
    """One row, the other, both, and neither: the anchor is new, and the norms are held, exactly where a chunk ends."""
    g = torch.Generator().manual_seed(2)
    for positions in ([7, 2], [3, 7], [7, 7], [0, 6]):
        state = random_state(positions, 1, widths, g)
        x = token(2, 1, widths[0], widths[-1], g)
        want, exact = judge(x, state, chunk=CHUNK, max_norm=0.2)
        given = clone(state)
        y, after = memory_step(
            **{n: value.float() for n, value in x.items()},
            state=state, chunk=CHUNK, max_norm=0.2, inplace=inplace, backend="triton",
        )  # fmt: skip
        assert_near(flat(y, after), flat(want, exact))
        for row, position in enumerate(positions):
            for W, S, A, before in zip(after.memory, after.momentum, after.anchor, given.anchor, strict=True):
                ended = position == CHUNK - 1
                assert ended == bool(W[row].norm() < 0.2001) == bool(S[row].norm() < 0.2001)
                assert torch.equal(A[row], W[row] if ended else before[row])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("widths", [(16, 32), (16, 48, 32)])
def test_inputs_of_lower_precision_and_any_stride(dtype, tolerance, widths):
    """The state is as exact as ever; only y is rounded. Inputs lie as a layer's projections leave them."""
    g = torch.Generator().manual_seed(3)
    state = random_state([4, 7], 2, widths, g)
    x = token(2, 2, widths[0], widths[-1], g, dtype=dtype)
    want, exact = judge(x, state, chunk=CHUNK)
    x["q"], x["k"] = torch.cat([x["q"], x["k"]], -1).chunk(2, -1)
    x["v"] = x["v"].mT.contiguous().mT
    for name in ("alpha", "eta", "theta"):
        x[name] = torch.stack([x[name]] * 3, 1)[:, 1]
    y, after = memory_step(**x, state=state, chunk=CHUNK, backend="triton")
    assert y.dtype == dtype
    assert after.memory[0].dtype == torch.float32
    assert_near([y], [want], tolerance)
    assert_near(flat(want, after), flat(want, exact))


@pytest.mark.parametrize("backend", ["triton", "chunked"])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_step_in_place_never_reaches_the_first_memory(rows, backend):
    """The initial state's memory and anchor are views of M_0 itself; a chunk of one token renews the anchor at once."""
    g = torch.Generator().manual_seed(4)
    M_0 = [torch.randn(2, 16, 16, generator=g).to(DEVICE) for _ in range(2)]
    kept = [w.clone() for w in M_0]
    state = MemoryState.initial(M_0, rows)
    exact = clone(state)
    for _ in range(2):
        x = token(rows, 2, 16, 16, g, dtype=torch.float32)
        want, exact = judge(x, exact, chunk=1)
        y, state = memory_step(**x, state=state, chunk=1, inplace=True, backend=backend)
        assert_near(flat(y, state), flat(want, exact))
    places = {w.untyped_storage().data_ptr() for name in GROUPS for w in getattr(state, name)}
    assert len(places) == 6
    assert all(torch.equal(a, b) for a, b in zip(M_0, kept, strict=True))


def test_an_anchor_that_stays_is_not_copied():
    g = torch.Generator().manual_seed(5)
    state = random_state([6, 6], 1, (16, 16), g)
    x = token(2, 1, 16, 16, g, dtype=torch.float32)
    _, inside = memory_step(**x, state=state, chunk=CHUNK, backend="triton")
    assert inside.anchor[0] is state.anchor[0]
    _, ended = memory_step(**x, state=inside, chunk=CHUNK, backend="triton")
    assert ended.anchor[0] is ended.memory[0]


@pytest.mark.parametrize("inplace", [False, True])
def test_the_other_paths_take_any_shape(inplace):
    g = torch.Generator().manual_seed(6)
    state = random_state([1, 7], 2, (6, 10, 7, 5), g)
    x = token(2, 2, 6, 5, g, dtype=torch.float32)
    want, exact = judge(x, state, chunk=CHUNK, read="before")
    for backend in ("auto", "chunked", "reference"):
        given = clone(state)
        y, after = memory_step(**x, state=given, chunk=CHUNK, read="before", inplace=inplace, backend=backend)
        assert_near(flat(y, after), flat(want, exact))
        assert (after.anchor[0] is given.anchor[0]) == inplace


def test_auto_keeps_the_gradient():
    g = torch.Generator().manual_seed(7)
    state = random_state([1, 7], 2, (16, 16), g)
    x = token(2, 2, 16, 16, g, dtype=torch.float32)
    x["k"].requires_grad_()
    y, _ = memory_step(**x, state=state, chunk=CHUNK)
    scanned, _ = memory_scan(
        **{n: value[:, None] for n, value in x.items()},
        memory=[w[0] for w in state.memory], state=state, chunk=CHUNK, backend="reference",
    )  # fmt: skip
    got, want = (torch.autograd.grad(out.square().sum(), x["k"])[0] for out in (y, scanned))
    assert_near([got], [want])


@pytest.mark.parametrize(("widths", "ends"), [((16, 16), "none"), ((16, 16), "all"), ((16, 16, 16), "rows")])
def test_operators_keep_their_contract(widths, ends):
    from titans_kernels.triton import ops

    g = torch.Generator().manual_seed(8)
    state = random_state([1, 7], 1, widths, g)
    x = token(2, 1, 16, 16, g, dtype=torch.float32)
    position = torch.tensor([2, 0], device=DEVICE) if ends == "rows" else None
    arguments = (*x.values(), *(list(getattr(state, name)) for name in GROUPS), position, ends, "after", 0.5)
    for operator in (ops.memory_step, ops.memory_step_in_place):
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_compiles_as_one_graph(inplace, tied):
    g = torch.Generator().manual_seed(9)
    state = random_state([1, 7], 1, (16, 16, 16), g)
    if tied:
        state = MemoryState(state.memory, state.momentum, state.memory, state.position)
    options = dict(chunk=CHUNK, max_norm=0.5, inplace=inplace, backend="triton")
    x = token(2, 1, 16, 16, g, dtype=torch.float32)

    def two_steps(x, state):
        _, state = memory_step(**x, state=state, **options)
        return memory_step(**x, state=state, **options)

    want = two_steps(x, clone(state))
    given = clone(state)
    got = torch.compile(two_steps, backend="aot_eager", fullgraph=True)(x, given)
    assert_near(flat(*got), flat(*want), 0)
    assert torch.equal(got[1].position, want[1].position)
    if inplace:
        assert_near([given.momentum[0]], [want[1].momentum[0]], 0)


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
def test_a_graph_replays_across_a_chunks_end():
    g = torch.Generator().manual_seed(10)
    start = random_state([1, 6], 2, (32, 64, 32), g)
    x = token(2, 2, 32, 32, g, dtype=torch.float32)
    live = clone(start)
    live = MemoryState(live.memory, live.momentum, live.anchor, start.position.to(DEVICE))

    def one():
        y, after = memory_step(**x, state=live, chunk=CHUNK, inplace=True, backend="triton")
        live.position.copy_(after.position)
        return y

    one()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = one()
    for _ in range(4):
        graph.replay()
    want, exact = None, start
    for _ in range(5):
        want, exact = judge(x, exact, chunk=CHUNK)
    assert_near(flat(y, live), flat(want, exact))
    assert live.position.tolist() == exact.position.tolist()


BAD = [
    (dict(backend="cuda"), "backend: got 'cuda'"),
    (dict(q=torch.zeros(2, 9, 1, 16)), "q: got shape"),
    (dict(k=torch.zeros(2, 1, 32)), "k: got shape"),
    (dict(v=torch.zeros(2, 1, 32)), "state.memory: got shapes"),
    (dict(eta=torch.zeros(2)), "eta: got shape [2], want [2, 1]"),
    (dict(chunk=0), "chunk: got 0"),
    (dict(chunk=4), "state.position: got [1, 7]"),
    (dict(read="later"), "read: got 'later'"),
    (dict(max_norm=-1.0), "max_norm: got -1.0"),
    (dict(k=torch.zeros(2, 1, 16, requires_grad=True)), "backend: got 'triton' with inputs that require a gradient"),
    (dict(k=torch.zeros(2, 1, 16, requires_grad=True), inplace=True, backend="auto"), "inplace: got True"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments_are_named(change, message):
    g = torch.Generator().manual_seed(11)
    x = token(2, 1, 16, 16, g, dtype=torch.float32)
    arguments = {**x, "state": random_state([1, 7], 1, (16, 16), g), "chunk": CHUNK, "backend": "triton", **change}
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        memory_step(**arguments)


@pytest.mark.parametrize(
    ("widths", "dtype", "message"),
    [
        ((16, 16, 16, 16), torch.float32, "a memory of 3 layers"),
        ((16, 24), torch.float32, "head widths 16 and 24"),
        ((16, 24, 16), torch.float32, "a hidden width of 24"),
        ((16, 16), torch.float64, "a state of torch.float64"),
    ],
)
def test_what_the_kernel_cannot_take_is_said(widths, dtype, message):
    g = torch.Generator().manual_seed(12)
    state = random_state([1], 1, widths, g).map(lambda w: w.to(dtype))
    x = token(1, 1, widths[0], widths[-1], g, dtype=dtype)
    with pytest.raises(ValueError, match=f"backend: got 'triton' with {message}"):
        memory_step(**x, state=state, chunk=CHUNK, backend="triton")


def test_without_gpu_and_interpreter_one_line_says_so(monkeypatch):
    import triton

    from titans_kernels.triton import launch

    compiled = triton.JITFunction(launch.step_linear_kernel.fn)  # what it is without the interpreter
    monkeypatch.setattr(launch, "step_linear_kernel", compiled)
    x, gate = torch.zeros(1, 1, 16), torch.zeros(1, 1)
    state = MemoryState.initial([torch.zeros(1, 16, 16)], 1)
    with pytest.raises(ValueError, match=r"backend: got 'triton' with tensors on cpu.*(on a GPU, or|need a GPU, or)"):
        memory_step(x, x, x, alpha=gate, eta=gate, theta=gate, state=state, backend="triton")
