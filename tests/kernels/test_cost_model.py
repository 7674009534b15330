"""The cost model counts what the kernels do: their products, loads and stores, and the memory that is allocated."""

import importlib.util
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from titans_kernels import memory_scan
from titans_kernels.triton import launch, plan, read, read_backward, write, write_backward
from titans_kernels.triton.plan import Shape

FOLDER = Path(__file__).parents[2] / "kernels" / "benchmarks"
interpreted = pytest.mark.skipif(not plan.INTERPRETED, reason="kernels run on a GPU here, not under the interpreter")


@pytest.fixture(scope="module")
def costs():
    spec = importlib.util.spec_from_file_location("costs", FOLDER / "costs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def run(shape, rows, tokens):
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(rows, tokens, shape.heads, shape.key, generator=g).to(shape.dtype) for _ in range(2))
    q, k = q / 8, k / 8
    v = torch.randn(rows, tokens, shape.heads, shape.value, generator=g).to(shape.dtype).requires_grad_()
    gates = torch.rand(3, rows, tokens, shape.heads, generator=g) / 8
    widths = [shape.key, shape.hidden, shape.value] if shape.hidden else [shape.key, shape.value]
    memory = [torch.randn(shape.heads, i, o, generator=g) / 8 for i, o in pairwise(widths)]
    alpha, eta, theta = gates
    options = dict(memory=memory, chunk=shape.chunk, backend="triton")
    y, _ = memory_scan(q, k, v, alpha=alpha, eta=eta, theta=theta, **options)
    y.sum().backward()


def count(monkeypatch, shape, tokens):
    """Operations and bytes of each kernel in one forward and backward of one lane."""
    from triton.runtime.interpreter import InterpreterBuilder

    products, moved, calls = defaultdict(int), defaultdict(int), []

    def name():
        again = calls[-1] in calls[:-1]
        return calls[-1] + " again" * again

    class Named:
        def __init__(self, kernel, name):
            self.kernel, self.name = kernel, name

        def __getitem__(self, grid):
            calls.append(self.name)
            return self.kernel[grid]

    with monkeypatch.context() as patch:
        for attribute, kernel in list(vars(launch).items()):
            if attribute.endswith("_kernel"):
                patch.setattr(launch, attribute, Named(kernel, attribute.replace("_mlp", "").replace("_linear", "")))
        for module in (read, read_backward, write, write_backward):
            original = module.product

            def counted(a, b, *rest, original=original):
                products[name()] += 2 * a.shape[0] * a.shape[1] * b.shape[1]
                return original(a, b, *rest)

            patch.setattr(module, "product", counted)
        load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

        def counted_load(self, pointers, mask, *rest):
            moved[name()] += int(mask.data.sum()) * pointers.get_element_ty().primitive_bitwidth // 8
            return load(self, pointers, mask, *rest)

        def counted_store(self, pointers, value, mask, *rest):
            moved[name()] += int(mask.data.sum()) * pointers.get_element_ty().primitive_bitwidth // 8
            return store(self, pointers, value, mask, *rest)

        patch.setattr(InterpreterBuilder, "create_masked_load", counted_load)
        patch.setattr(InterpreterBuilder, "create_masked_store", counted_store)
        run(shape, 1, tokens)
    return products, moved


NAMES = ["share_kernel", "write_kernel", "read_kernel", "share_kernel again", "write_kernel again", "read_backward_kernel",
         "read_onto_kernel", "write_backward_kernel", "share_backward_kernel"]  # fmt: skip


@interpreted
@pytest.mark.parametrize(
    "shape",
    [
        Shape(1, 16, 32, 16, 16, torch.bfloat16),
        Shape(1, 16, 16, 32, 16, torch.float16),
        Shape(1, 16, 0, 32, 16, torch.bfloat16),
    ],
)
def test_operations_and_bytes(costs, monkeypatch, shape):
    """What a run of two chunks has over one of one, so that what is done once a call drops out."""
    one, two = (count(monkeypatch, shape, shape.chunk * n) for n in (1, 2))
    names = [name for name in NAMES if shape.hidden or name != "read_onto_kernel"]
    assert set(two[1]) == set(names)
    found = [*costs.forward_costs(shape), *costs.backward_costs(shape)]
    for cost, name in zip(found, names, strict=True):
        products, moved = ((b[name] - a[name]) / shape.chunk for a, b in zip(one, two, strict=True))
        assert products == cost.products, name
        passed = cost.passed + cost.scratch + cost.cache  # but for where the sequence lies, and β_c, f_c, m_c
        assert passed - 2 <= moved <= passed + 4, name


class Idle:
    """A kernel that does nothing."""

    def __getitem__(self, grid):
        return lambda *_, **__: None


@interpreted
@pytest.mark.parametrize("hidden", [0, 32])
def test_memory_is_what_is_allocated(costs, monkeypatch, hidden):
    shape = Shape(2, 16, hidden, 32, 16, torch.bfloat16)
    monkeypatch.setattr(plan, "SMALL_SCRATCH", 0)  # several groups, as in a long sequence
    sizes = {"forward": 0, "backward": 0, "kept": 0}

    def counting(name, original, kind):
        def call(*arguments, **options):
            result = original(*arguments, **options)
            sizes[kind(options)] += sum(x.nbytes for x in result)
            return result

        monkeypatch.setattr(launch, name, call)

    counting("allocate", launch.allocate, lambda options: "backward" if options["backward"] else "forward")
    counting("allocate_gradient", launch.allocate_gradient, lambda _: "backward")
    forward = launch.forward

    def keeping(call, kept, *rest):
        sizes["kept"] += kept.nbytes
        forward(call, kept, *rest)

    monkeypatch.setattr(launch, "forward", keeping)
    for name in [name for name in vars(launch) if name.endswith("_kernel")]:
        monkeypatch.setattr(launch, name, Idle())
    run(shape, 2, 70)
    ran = dict(sizes)
    found = costs.memory(shape, 2, 70)
    assert ran["kept"] > 2 * 2 * 8 * shape.weights  # more than one group
    assert found.kept == ran["kept"]
    assert found.scratch == max(ran["forward"], ran["backward"])


@pytest.mark.parametrize("layers", [1, 2])
def test_a_million_tokens_take_a_tenth_more(costs, layers):
    shape = Shape(8, 64, 128 if layers == 2 else 0, 64, 64, torch.bfloat16)
    found = costs.memory(shape, 1, 2**20)
    assert found.passed == 2 * 2**20 * 8 * (4 * 64 * 2 + 3 * 4)
    assert found.share < 0.1


def test_floor_of_one_kernel(costs):
    """By hand: 8 lanes on 8 of 132 multiprocessors; all bytes of scratch through device memory."""
    call = costs.Call(Shape(8, 64, 0, 64, 64, torch.bfloat16), 1, 2**20)
    cost = costs.Cost("", products=24_576, passed=256, scratch=392, cache=0, rounds=2)
    found = costs.floor(cost, call)
    assert found.matrix == pytest.approx(2**23 * 24_576 / (790e12 * 8 / 132))
    assert found.memory == pytest.approx(2**23 * 648 / 4.3e12)
    assert found.latency == pytest.approx(2 * 0.5e-6 * 2**14)
    assert found.bound == "latency"


def test_useful_operations(costs):
    """22DE + 4c(D + E) for two layers, as the design page counts them but for the coefficients; 10D² + 4cD for one."""
    assert costs.useful(Shape(8, 64, 128, 64, 64, torch.bfloat16)) == 22 * 64 * 128 + 4 * 64 * (64 + 128)
    assert costs.useful(Shape(8, 64, 0, 64, 64, torch.bfloat16)) == 10 * 64 * 64 + 4 * 64 * 64


def test_tables_are_those_committed():
    """`python kernels/benchmarks/cost_model.py --write` brings them up to date."""
    printed = subprocess.run(
        [sys.executable, FOLDER / "cost_model.py"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == (FOLDER / "results" / "cost_model.md").read_text()
