"""What is measured: our memory, and other people's where they are installed. Each makes inputs and returns a `Pass`.

A peer that cannot be imported raises ImportError; the caller says so in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise

import torch
from gpu_timing import Pass
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from titans_kernels import memory_scan

PACKAGES = ("titans-pytorch", "fla-core", "flash-linear-attention")


class Size:
    """Rows, tokens and heads, and the device to be on; everything is bf16, heads are `key` wide."""

    def __init__(self, device: torch.device, rows: int, tokens: int, heads: int = 8, key: int = 64, chunk: int = 64):
        self.device, self.rows, self.tokens = device, rows, tokens
        self.heads, self.key, self.chunk = heads, key, chunk

    def with_rows(self, rows: int) -> Size:
        return Size(self.device, rows, self.tokens, self.heads, self.key, self.chunk)

    def widths(self, layers: int) -> list[int]:
        return [self.key, self.key] if layers == 1 else [self.key, 2 * self.key, self.key]

    def tokens_of(self, count: int) -> list[Tensor]:
        shape = (self.rows, self.tokens, self.heads, self.key)
        return [_unit(torch.randn(shape, device=self.device, dtype=torch.bfloat16)) for _ in range(count)]

    def gates(self, count: int) -> list[Tensor]:
        return [torch.rand(self.rows, self.tokens, self.heads, device=self.device) for _ in range(count)]


def _unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=-1)


def _leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [x.requires_grad_() for x in tensors]


def scan(size: Size, layers: int, backend: str) -> Pass:
    """`memory_scan`: gradients of q, k, v, the gates and the initial memory."""
    q, k, v = size.tokens_of(3)
    alpha, eta, theta = size.gates(3)
    alpha, theta = alpha / size.chunk, theta * (1 - eta) / 4
    memory = [torch.randn(size.heads, i, o, device=size.device) / i**0.5 for i, o in pairwise(size.widths(layers))]
    leaves = _leaves([q, k, v, alpha, eta, theta, *memory])

    def forward() -> Tensor:
        return memory_scan(
            q, k, v, alpha=alpha, eta=eta, theta=theta, memory=memory, chunk=size.chunk, backend=backend,
        )[0]  # fmt: skip

    return Pass(forward, leaves)


class Layer(nn.Module):
    """A plain layer around our memory, to stand beside a peer that comes with its projections."""

    def __init__(self, size: Size, layers: int, backend: str) -> None:
        super().__init__()
        width, self.size, self.backend = size.heads * size.key, size, backend
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gates = nn.Linear(width, 3 * size.heads)
        self.out = nn.Linear(width, width, bias=False)
        self.memory = nn.ParameterList(torch.randn(size.heads, i, o) / i**0.5 for i, o in pairwise(size.widths(layers)))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_unit(x).to(x.dtype) for x in self.qkv(x).unflatten(-1, (3 * self.size.heads, -1)).chunk(3, 2))
        alpha, eta, theta = torch.sigmoid(self.gates(x).float()).chunk(3, -1)
        y, _ = memory_scan(
            q, k, v, alpha=alpha / self.size.chunk, eta=eta, theta=theta * (1 - eta) / 4, memory=list(self.memory),
            chunk=self.size.chunk, backend=self.backend,
        )  # fmt: skip
        return self.out(y.flatten(-2))


def layer(size: Size, layers: int, backend: str) -> Pass:
    return _module(Layer(size, layers, backend), size, lambda module, x: module(x))


def titans_pytorch(size: Size, fast_scan: bool) -> Pass:
    """Its NeuralMemory with batch_size = chunk_size, the setting in which it computes the paper's rule; hidden width 2D."""
    from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]
    from titans_pytorch.memory_models import MemoryMLP  # pyright: ignore[reportMissingImports]

    module = NeuralMemory(
        dim=size.heads * size.key, heads=size.heads, dim_head=size.key, chunk_size=size.chunk, batch_size=size.chunk,
        model=MemoryMLP(size.key, depth=2, expansion_factor=2), mem_model_norm_add_residual=False,
        use_accelerated_scan=fast_scan,
    )  # fmt: skip
    return _module(module, size, lambda module, x: module(x)[0])


def _module(module: nn.Module, size: Size, run: Callable[[nn.Module, Tensor], Tensor]) -> Pass:
    """In bf16 by autocast, parameters in float32, as a layer is trained; gradients of the input and all parameters."""
    module = module.to(size.device)
    x = torch.randn(size.rows, size.tokens, size.heads * size.key, device=size.device, requires_grad=True)

    def forward() -> Tensor:
        with torch.autocast(size.device.type, torch.bfloat16):
            return run(module, x)

    y = forward()
    used = torch.autograd.grad(y.sum(), [x, *module.parameters()], allow_unused=True)
    leaves = [leaf for leaf, grad in zip([x, *module.parameters()], used, strict=True) if grad is not None]
    return Pass(forward, leaves)


def gated_delta_rule(size: Size) -> Pass:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]

    q, k, v = size.tokens_of(3)
    decay, beta = size.gates(2)
    decay, beta = torch.log1p(-decay / size.chunk), beta.to(q.dtype)
    leaves = _leaves([q, k, v, decay, beta])
    return Pass(lambda: chunk_gated_delta_rule(q, k, v, decay, beta)[0], leaves)


def ttt_linear(size: Size, chunk: int) -> Pass:
    from fla.ops.ttt import chunk_ttt_linear  # pyright: ignore[reportMissingImports]

    q, k, v = size.tokens_of(3)
    (rate,) = size.gates(1)
    rate = (rate / chunk).to(q.dtype)[..., None]
    scale = torch.ones(size.heads, size.key, device=size.device, dtype=q.dtype)
    shift = torch.zeros_like(scale)
    leaves = _leaves([q, k, v, rate, scale, shift])
    return Pass(lambda: chunk_ttt_linear(q, k, v, scale, shift, rate, chunk_size=chunk)[0], leaves)


def attention(size: Size, kind: SDPBackend) -> Pass:
    """Causal attention over all tokens, by one of PyTorch's own kernels."""
    q, k, v = (x.transpose(1, 2).contiguous() for x in size.tokens_of(3))
    leaves = _leaves([q, k, v])

    def forward() -> Tensor:
        with sdpa_kernel(kind):
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return Pass(forward, leaves)


def versions() -> dict[str, str]:
    """Of the peers; "missing" where there is none."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
