"""The kernels, on the GPU or under Triton's interpreter, against the token-by-token reference in float64.

Memory that the kernels should have written is NaN until they do.
"""

import itertools
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.utils.checkpoint

pytest.importorskip("triton")

from tests.kernels.cases import everything, gradients, inputs, random_state
from titans_kernels import MemoryState, memory_scan, options, scan
from titans_kernels.triton import ops, plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WIDTHS = {1: (16, 16), 2: (16, 32, 16)}
DEPTHS = pytest.mark.parametrize("depth", [1, 2])
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def short_groups(monkeypatch):
    """Two chunks a group, as a long sequence has several groups."""
    monkeypatch.setattr(plan.Shape, "group", lambda *_: 2)


def moved(x, memory, state, dtype):
    def move(tensor):
        return tensor.detach().to(DEVICE, dtype).requires_grad_()

    if state is not None:
        groups = (state.memory, state.momentum, state.anchor)
        state = MemoryState(
            *(tuple(w.detach().to(DEVICE).float().requires_grad_() for w in g) for g in groups), state.position
        )
    return {name: move(value) for name, value in x.items()}, [move(w) for w in memory], state


def assert_exact(x, memory, state=None, dtype=torch.float32, **options):
    """Outputs, states and every gradient; the error of each tensor as a whole, beside its size."""
    want = everything(x, memory, state, backend="reference", **options)
    on_device = {name: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for name, v in options.items()}
    x, memory, state = moved(x, memory, state, dtype)
    got = everything(x, memory, state, backend="triton", **on_device)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        error = float((a.detach().cpu().double() - b.detach()).norm())
        assert error <= TOLERANCE[dtype] * float(b.detach().double().norm()) + 1e-7, f"tensor {i}: {error}"


@DEPTHS
@pytest.mark.parametrize("read", ["after", "before", "anchor"])
def test_states_in_and_out_at_any_place_of_a_chunk(depth, read):
    """The second row is at its chunk's end; gates of exactly 0 and 1; the bound is reached."""
    x, memory = inputs(2, 19, 1, WIDTHS[depth], gates="edges")
    assert_exact(x, memory, random_state(2, 1, WIDTHS[depth], [3, 5]), chunk=8, read=read, max_norm=1.5)


@DEPTHS
@pytest.mark.parametrize(("t", "position"), [(1, 0), (2, 6), (16, 0)])
def test_less_than_a_chunk(depth, t, position):
    x, memory = inputs(1, t, 2, WIDTHS[depth])
    assert_exact(x, memory, random_state(1, 2, WIDTHS[depth], position) if position else None, chunk=16)


@DEPTHS
def test_gates_of_exactly_zero_and_one(depth):
    x, memory = inputs(1, 19, 4, WIDTHS[depth])
    for head, (alpha, eta) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        x["alpha"] = x["alpha"].detach().index_fill(2, torch.tensor(head), alpha).requires_grad_()
        x["eta"] = x["eta"].detach().index_fill(2, torch.tensor(head), eta).requires_grad_()
    assert_exact(x, memory, chunk=16)


@DEPTHS
@pytest.mark.parametrize("given", [False, True])
def test_several_groups_of_packed_sequences(depth, given, short_groups):
    """One of them empty, one of a single token, all at different places of their chunks."""
    lengths = [9, 0, 1, 37]
    x, memory = inputs(1, sum(lengths), 1, WIDTHS[depth])
    state = random_state(4, 1, WIDTHS[depth], [3, 2, 7, 0]) if given else None
    assert_exact(x, memory, state, chunk=8, max_norm=1.5, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0))


@DEPTHS
def test_gates_per_chunk(depth, short_groups):
    x, memory = inputs(2, 35, 1, WIDTHS[depth], n=5, gates="edges")
    state = random_state(2, 1, WIDTHS[depth], 5)
    assert_exact(x, memory, state, chunk=8, read="before", max_norm=1.5)
    lengths = [9, 0, 10]
    x, memory = inputs(1, sum(lengths), 1, WIDTHS[depth], n=4)
    assert_exact(x, memory, chunk=8, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0))


@pytest.mark.parametrize(
    ("widths", "chunk", "t"),
    [((16, 32), 16, 20), ((32, 16), 24, 30), ((32, 48, 16), 24, 30), ((64, 128, 64), 64, 100), ((128, 16, 128), 128, 9),
     ((16, 16), 1, 5), ((16, 16, 16), 3, 7)],
)  # fmt: skip
def test_widths_and_chunks(widths, chunk, t):
    x, memory = inputs(1, t, 1, widths)
    assert_exact(x, memory, chunk=chunk, max_norm=4.0)


@DEPTHS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float64(depth, dtype):
    x, memory = inputs(1, 40, 1, WIDTHS[depth])
    rounded = {n: v.detach().to(dtype).double().requires_grad_() for n, v in x.items()}
    memory = [w.detach().to(dtype).double().requires_grad_() for w in memory]
    assert_exact(rounded, memory, dtype=dtype, chunk=16)
    y, state = memory_scan(**moved(rounded, memory, None, dtype)[0], memory=memory, chunk=16, backend="triton")
    assert (y.dtype, state.memory[0].dtype) == (dtype, torch.float32)


@DEPTHS
def test_any_cut_equals_the_whole(depth):
    """Gradients flow through the states from piece to piece."""
    x, memory = inputs(2, 23, 1, WIDTHS[depth], gates="edges")
    want = everything(x, memory, backend="reference", chunk=8, max_norm=2.0)
    x, memory, state = moved(x, memory, None, torch.float32)
    reads = []
    for piece in zip(*(part.split([3, 0, 13, 6, 1], 1) for part in x.values()), strict=True):
        y, state = memory_scan(
            **dict(zip(x, piece, strict=True)), memory=memory, state=state, chunk=8, max_norm=2.0, backend="triton"
        )
        reads.append(y)
    flat = [torch.cat(reads, 1), *state.memory, *state.momentum, *state.anchor]
    for a, b in zip([*flat, *gradients(flat, [*x.values(), *memory])], want[:-1], strict=True):
        assert float((a.detach().cpu().double() - b.detach()).norm()) <= 2e-6 * float(b.detach().norm()) + 1e-7


def call(depth, t=21, **options):
    x, memory = inputs(1, t, 1, WIDTHS[depth], dtype=torch.float32)
    x, memory, _ = moved(x, memory, None, torch.float32)

    def loss(*tensors):
        named = dict(zip(x, tensors, strict=False))
        y, after = memory_scan(**named, memory=tensors[len(x) :], chunk=8, backend="triton", **options)
        return y.square().sum() + after.memory[0].square().sum() + after.anchor[0].sum()

    return loss, [*x.values(), *memory]


@DEPTHS
def test_same_inputs_same_bits_also_in_a_checkpoint_and_under_autocast(depth):
    loss, leaves = call(depth)
    want = torch.autograd.grad(loss(*leaves), leaves)
    again = torch.autograd.grad(loss(*leaves), leaves)
    kept = torch.autograd.grad(torch.utils.checkpoint.checkpoint(loss, *leaves, use_reentrant=False), leaves)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        cast = torch.autograd.grad(loss(*leaves), leaves)
    for many in (again, kept, cast):
        assert all(torch.equal(a, b) for a, b in zip(many, want, strict=True))


@DEPTHS
def test_compiles_without_a_graph_break(depth):
    loss, leaves = call(depth)
    want = torch.autograd.grad(loss(*leaves), leaves)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        got = torch.autograd.grad(compiled(*leaves), leaves)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_compiles_with_a_state_and_packed_sequences():
    x, memory = inputs(1, 12, 1, WIDTHS[1], dtype=torch.float32)
    x, memory, state = moved(x, memory, random_state(2, 1, WIDTHS[1], [3, 5], dtype=torch.float32), torch.float32)
    ends = torch.tensor([0, 5, 12], device=DEVICE)

    def run(state):
        y, after = memory_scan(**x, memory=memory, state=state, cu_seqlens=ends, chunk=8, backend="triton")
        return y, after.momentum[0], after.anchor[0], after.position

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.compile(run, backend="aot_eager", fullgraph=True)(state)
    for a, b in zip(got, run(state), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("given", [False, True])
def test_operators_keep_their_promises(given):
    x, memory = inputs(2, 11, 1, WIDTHS[2], dtype=torch.float32)
    x, memory, _ = moved(x, memory, None, torch.float32)
    packed = torch.randn(2, 1, 2 * 32 * 32, device=DEVICE, requires_grad=True)
    anchor = torch.randn(2, 1, 32 * 32, device=DEVICE, requires_grad=True) if given else None
    position = torch.tensor([1, 2]) if given else None
    arguments = (*x.values(), packed, anchor, None, position, 32, 8, 0, 1.5, False, True)
    torch.library.opcheck(
        ops.memory_forward, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )


def test_the_future_and_other_rows_change_nothing():
    x, memory = inputs(2, 19, 1, WIDTHS[2], dtype=torch.float32)
    x, memory, _ = moved(x, memory, None, torch.float32)
    y, _ = memory_scan(**x, memory=memory, chunk=8, backend="triton")
    for grad in torch.autograd.grad(y[1, 10].sum(), list(x.values())):
        assert torch.count_nonzero(grad[0]) == 0
        assert torch.count_nonzero(grad[:, 11:]) == 0
        assert torch.count_nonzero(grad[1, :11]) > 0


@pytest.mark.parametrize(
    ("widths", "chunk", "dtype", "reason"),
    [((16, 16), 129, torch.float32, "a chunk of 129"), ((16, 24, 16), 8, torch.float32, "a hidden width of 24"),
     ((24, 16), 8, torch.float32, "head widths 24 and 16"), ((16, 16, 16, 16), 8, torch.float32, "a memory of 3 layers"),
     ((16, 16), 8, torch.float64, "q, k, v of torch.float64")],
)  # fmt: skip
def test_what_the_kernels_do_not_support_is_named(widths, chunk, dtype, reason):
    x, memory = inputs(1, 3, 1, widths, dtype=dtype)
    with pytest.raises(ValueError, match=f"backend: got 'triton' with {reason}"):
        memory_scan(**x, memory=memory, chunk=chunk, backend="triton")


def test_groups_keep_extra_memory_below_a_tenth_at_a_million_tokens():
    """States kept and scratch, beside inputs, outputs and their gradients; all shapes but the README's exceptions."""
    over = set()
    for heads, width, times, chunk in itertools.product((1, 8), options.WIDTHS, (0, 1, 2, 4), (16, 32, 64, 128)):
        shape = plan.Shape(heads, width, times * width, width, chunk, torch.bfloat16)
        chunks = 2**20 // chunk
        group = shape.group(chunks, heads, backward=True)
        kept = -(-chunks // group) * 8 * shape.weights
        extra = kept + group * shape.scratch(per_chunk=False, backward=True)
        if extra > 0.1 * 2**21 * (2 * 4 * width + 12):
            over.add((width, times, chunk))
    assert over == {(64, 4, 16), (64, 4, 32), (128, 2, 16), *((128, 4, chunk) for chunk in (16, 32, 64, 128))}


@DEPTHS
def test_a_single_token_without_gradients_goes_through_the_decode_kernel(depth):
    """As generation calls it; over a chunk's border, rows at different places."""
    x, memory = inputs(2, 4, 1, WIDTHS[depth])
    state = random_state(2, 1, WIDTHS[depth], [5, 6])
    want, _ = memory_scan(**x, memory=memory, state=state, chunk=8, max_norm=1.5, backend="reference")
    x, memory, state = moved(x, memory, state, torch.float32)
    with torch.no_grad():
        for t in range(4):
            token = {name: value[:, t : t + 1] for name, value in x.items()}
            y, state = memory_scan(**token, memory=memory, state=state, chunk=8, max_norm=1.5, backend="triton")
            torch.testing.assert_close(y.cpu().double(), want[:, t : t + 1].detach(), rtol=1e-5, atol=1e-6)


def test_auto_says_once_why_it_does_not_take_the_kernels():
    """On a GPU, for what they do not support; on a CPU the PyTorch path needs no excuse."""
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.float32, shape=(1, 3, 1, 24))
    memory = [SimpleNamespace(shape=(1, 24, 24))]
    with pytest.warns(
        UserWarning, match="chunked PyTorch path runs instead of the kernels, because of head widths 24 and 24"
    ):
        assert scan._choose("auto", on_gpu, on_gpu, on_gpu, memory, 64) == "chunked"
    assert scan._choose("auto", on_gpu, on_gpu, on_gpu, memory, 64) == "chunked"  # in silence: warnings are errors
    on_gpu.shape = (1, 3, 1, 32)
    assert scan._choose("auto", on_gpu, on_gpu, on_gpu, [SimpleNamespace(shape=(1, 32, 64))], 64) == "triton"
    on_cpu = SimpleNamespace(is_cuda=False)
    assert scan._choose("auto", on_cpu, on_cpu, on_cpu, memory, 64) == "chunked"
