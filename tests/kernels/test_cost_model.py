"""The cost model counts what the kernels do: their products, loads and stores, and the memory that is allocated."""

import importlib.util
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from titans_kernels import memory_scan
from titans_kernels.triton import launch, plan, read, read_backward, write, write_backward
from titans_kernels.triton.plan import Shape

SCRIPT = Path(__file__).parents[2] / "kernels" / "benchmarks" / "cost_model.py"
interpreted = pytest.mark.skipif(not plan.INTERPRETED, reason="kernels run on a GPU here, not under the interpreter")


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location("cost_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(shape, rows, tokens):
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(rows, tokens, shape.heads, shape.key, generator=g).to(shape.dtype) for _ in range(2))
    q, k = q / 8, k / 8
    v = torch.randn(rows, tokens, shape.heads, shape.value, generator=g).to(shape.dtype).requires_grad_()
    gates = torch.rand(3, rows, tokens, shape.heads, generator=g) / 8
    widths = [shape.key, shape.hidden, shape.value] if shape.hidden else [shape.key, shape.value]
    memory = [torch.randn(shape.heads, i, o, generator=g) / 8 for i, o in zip(widths, widths[1:], strict=False)]
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


@interpreted
@pytest.mark.parametrize(
    "shape",
    [Shape(1, 16, 32, 16, 16, torch.bfloat16), Shape(1, 16, 16, 32, 16, torch.float16), Shape(1, 16, 0, 32, 16, torch.bfloat16)],
)
def test_operations_and_bytes(model, monkeypatch, shape):
    """What a run of four chunks has over one of two, so that what is done once a call drops out."""
    two, four = (count(monkeypatch, shape, shape.chunk * n) for n in (2, 4))
    costs = [*model.forward_costs(shape), *model.backward_costs(shape)]
    names = ["share_kernel", "write_kernel", "read_kernel", "share_kernel again", "write_kernel again",
             "read_backward_kernel", *["read_onto_kernel"][: shape.hidden], "write_backward_kernel",
             "share_backward_kernel"]  # fmt: skip
    assert set(four[1]) == set(names)
    for cost, name in zip(costs, names, strict=True):
        print(name, [(four[i][name] - two[i][name]) / (2 * shape.chunk) for i in (0, 1)], cost, sum(cost[2:5]))
