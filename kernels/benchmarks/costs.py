"""What each kernel computes and moves, and how long that takes at least.

Operations are the kernels' own matrix products, 2·M·N·K each, whole tiles, masked halves included; bytes are their own loads
and stores. Tests count both again by running the kernels. Times are floors from measured rates, or, where a table says so,
estimates with assumed ones. All for gates per token, read="after", no bound, no incoming state.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from titans_kernels.triton import launch, ops
from titans_kernels.triton.configurations import chosen
from titans_kernels.triton.plan import Shape
from titans_kernels.triton.write_backward import FLAT


@dataclass(frozen=True)
class Card:
    """A GPU. Rates per second; the last three are assumptions that no session has measured yet."""

    name: str = "H200"
    matrix: float = 790e12
    """Operations of bf16 products, accumulated in float32; measured."""
    memory: float = 4.3e12
    """Bytes copied, read and written both counted; measured."""
    multiprocessors: int = 132
    cache: float = 30e6
    """Bytes of the L2 that scratch may count on: half of its 60 MB."""
    cache_rate: float = 5.5e12
    """Bytes between the L2 and all multiprocessors."""
    one_cache_rate: float = 0.11e12
    """Bytes between the L2 and one multiprocessor: 64 a cycle."""
    round: float = 0.5e-6
    """Seconds of one load → product → store that waits for the one before, in a recurrence."""


H200 = Card()


class Cost(NamedTuple):
    """One kernel, per token and head."""

    kernel: str
    products: float
    """Operations."""
    passed: float
    """Bytes of the call's inputs, outputs and gradients: always device memory."""
    scratch: float
    """Bytes between kernels, each counted once a kernel: device memory, unless all of a group's fit the L2."""
    cache: float
    """Bytes touched again within a kernel, or a lane's float32 state: taken to be in the L2."""
    rounds: int
    """Dependent rounds a chunk, of the kernels that run chunk after chunk; 0 where all chunks run at once."""


def useful(shape: Shape) -> float:
    """Operations per token and head of one forward that no implementation of the chunk form avoids, by products.

    Two layers: 6DE + 8EV to write, 4DE + 4EV to read, and 4cE + 2c(D + V) between tokens of a chunk: 22DE + 4c(D + E) at V = D.
    One: 10DV + 2c(D + V). The coefficients are counted as nothing: rows of 4c operations here (a product of c × c triangles,
    2c² a token, elsewhere). A backward counts twice a forward, two products for each; what is computed again counts nothing.
    """
    c, d, e, v = shape.chunk, shape.key, shape.hidden, shape.value
    between = 2 * c * (d + v)
    return 10 * d * e + 12 * e * v + 4 * c * e + between if e else 10 * d * v + between


def forward_costs(shape: Shape) -> list[Cost]:
    return [_shares(shape, backward=False), _write(shape), _read(shape)]


def backward_costs(shape: Shape) -> list[Cost]:
    again = [_shares(shape, backward=True), _write(shape)]
    reverse = [_read_backward, _read_onto, _write_backward] if shape.hidden else [_read_backward, _write_backward]
    return [*again, *(cost(shape) for cost in reverse), _share_backward(shape)]


def _shares(shape: Shape, backward: bool) -> Cost:
    c = shape.tile
    return Cost("shares" + " again" * backward, 0, 12, 4 * (c * (1 + backward) + 5), 0, 0)


def _write(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    slots, trace = 2 * shape.weights * size / c, (2 * e + v) * size
    if not e:
        return Cost("write", 6 * d * v, size * (d + v), slots + trace + 8, 0, 2)
    state = 4 * 5 * shape.weights / c  # the anchor, W and S in, W and S out
    rounds = 3 * e // chosen("write", shape, "hopper").block + 1
    return Cost("write", 6 * d * e + 8 * e * v, size * (d + v), slots + trace + 8, state + 3 * e * size, rounds)


def _read(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    scratch = (2 * shape.weights / c + 2 * e + v) * size + _triangle(c) + 8
    products = (4 * d * e + 4 * e * v + 4 * c * e if e else 4 * d * v) + 2 * c * (d + v)
    return Cost("read", products, size * (2 * d + v), scratch, 0, 0)


def _read_backward(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    error = shape.errors.itemsize
    passed = size * (3 * d + v)
    taken = (2 * shape.weights / c + 2 * e + v) * size + _triangle(c) + 8
    if not e:
        given = error * (2 * shape.weights / c + v + d) + 4 * c + 8
        return Cost("read_backward", 8 * d * v + c * (6 * d + 4 * v), passed, taken + given, 0, 0)
    given = error * (2 * e + v + d) + 4 * c + 8
    products = 8 * d * e + 4 * e * v + 8 * c * e + c * (8 * d + 6 * v)
    again = (2 * d + v + 2 * e + v) * size + 2 * e * error + _triangle(c)
    return Cost("read_backward", products, passed, taken + given, again, 0)


def _read_onto(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    products = 4 * d * e + 4 * e * v + 4 * c * e + 2 * c * (d + v)
    scratch = shape.errors.itemsize * (4 * e + 2 * shape.weights / c) + size * v + _triangle(c) + 8
    return Cost("read_onto", products, size * (2 * d + v), scratch, 0, 0)


def _write_backward(shape: Shape) -> Cost:
    c, d, e, v, size = shape.tile, shape.key, shape.hidden, shape.value, shape.dtype.itemsize
    error = shape.errors.itemsize
    passed = size * (2 * d + v)
    taken = size * (2 * shape.weights / c + 2 * e + v) + error * (2 * shape.weights / c + 2 * e + v + d) + 16
    if not e:
        again = size * d * v / c  # W, as the anchor and as what was carried on
        return Cost("write_backward", 12 * d * v, passed, taken, again, 3)
    state = (
        40 * shape.weights + 8 * e * v
    ) / c  # its gradient: in and out, in for the products, out and in for the anchor's
    again = size * (d + v + 4 * e + (2 * e * v + d * e) / c) + 4 * e * error + 16
    rounds = shape.weights // FLAT.value + 4 * e // chosen("write_backward", shape, "hopper").block + 3
    return Cost("write_backward", 12 * d * e + 16 * e * v, passed, taken, state + again, rounds)


def _share_backward(shape: Shape) -> Cost:
    c = shape.tile
    return Cost("share_backward", 0, 24, 2 * (c + 1) + 4 * (c - 1) + 28, 0, 0)


def _triangle(c: int) -> float:
    """Bytes a row of a lower triangle, float32."""
    return 2 * (c + 1)


class Call(NamedTuple):
    """A size that is run."""

    shape: Shape
    rows: int
    tokens: int

    @property
    def lanes(self) -> int:
        return self.rows * self.shape.heads

    @property
    def chunks(self) -> int:
        return -(-self.tokens // self.shape.chunk)

    @property
    def group(self) -> int:
        return self.shape.group(self.chunks, self.lanes, backward=True)

    @property
    def spilt(self) -> bool:
        """Whether a group's scratch is more than the L2 can be counted on to hold."""
        return self.group * self.lanes * self.shape.scratch(per_chunk=False, backward=True) > H200.cache


class Floor(NamedTuple):
    """Seconds over all tokens of a call."""

    matrix: float
    memory: float
    cache: float
    latency: float
    """What the rounds of a recurrence wait for. This and the L2 are estimates."""

    @property
    def seconds(self) -> float:
        """The floor, from measured rates alone."""
        return max(self.matrix, self.memory)

    @property
    def estimate(self) -> float:
        return max(self.matrix, self.memory, self.cache) + self.latency

    @property
    def bound(self) -> str:
        return max(("matrix", "memory", "cache", "latency"), key=lambda name: getattr(self, name))


def floor(cost: Cost, call: Call, card: Card = H200) -> Floor:
    """A recurrence occupies a multiprocessor a lane; the other kernels all of them."""
    units = call.tokens * call.lanes
    waves = -(-call.lanes // card.multiprocessors)
    busy = call.lanes / waves if cost.rounds else card.multiprocessors
    share = busy / card.multiprocessors
    device = cost.passed + cost.scratch * call.spilt
    touched = cost.passed + cost.scratch + cost.cache
    return Floor(
        units * cost.products / (card.matrix * share),
        units * device / card.memory,
        units * touched / min(card.cache_rate, busy * card.one_cache_rate),
        cost.rounds * card.round * call.chunks * waves,
    )


class Memory(NamedTuple):
    """Bytes of a forward and backward."""

    kept: int
    scratch: int
    small: int
    """States in and out, and their gradients."""
    passed: int
    """Inputs, outputs and the gradients of both."""

    @property
    def share(self) -> float:
        return (self.kept + self.scratch + self.small) / self.passed


def memory(shape: Shape, rows: int, tokens: int) -> Memory:
    """Sizes of the tensors themselves, allocated on the meta device by the code that allocates them on a GPU."""
    device = torch.device("meta")
    q = torch.empty(rows, tokens, shape.heads, shape.key, dtype=shape.dtype, device=device)
    v = torch.empty(rows, tokens, shape.heads, shape.value, dtype=shape.dtype, device=device)
    gate = torch.empty(rows, tokens, shape.heads, device=device)
    state = torch.empty(rows, shape.heads, 2 * shape.weights, device=device)
    given = ops.Inputs(q, q, v, gate, gate, gate, state, None, None, None, shape.hidden, shape.chunk, 0, 0.0, False)
    call, kept = given.call(keep=True), state.new_empty(given.kept(keep=True))
    buffers = [*launch.allocate(call, backward=True), *launch.allocate_gradient(call)]
    forward = launch.allocate(call, backward=False)
    scratch = max(_bytes(buffers), _bytes(forward))
    passed = 2 * _bytes([q, q, v, v, gate, gate, gate])
    return Memory(_bytes([kept]), scratch, 5 * _bytes([state]), passed)


def _bytes(tensors: list[torch.Tensor] | launch.Scratch) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)
