"""What the memory carries from one call to the next."""

# torch has no types for `vector_norm` and `tolist`:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = ("memory", "momentum", "anchor")
"""The weights of a state, by the names of its fields."""
Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class MemoryState:
    """State of the neural memory after a number of tokens; given back to `memory_scan`, the sequence goes on exactly.

    memory, momentum, anchor: one tensor [b, h, d_in, d_out] per layer of the memory MLP: M at the last token, S at the
    last token, and M at the last chunk boundary, where the gradients of the current chunk are taken.
    position: int64 [b] on the CPU, tokens since that boundary, 0 <= position < chunk.
    """

    memory: Weights
    momentum: Weights
    anchor: Weights
    position: Tensor

    @property
    def groups(self) -> tuple[Weights, Weights, Weights]:
        """As `GROUPS` names them."""
        return self.memory, self.momentum, self.anchor

    @classmethod
    def initial(cls, memory: Sequence[Tensor], rows: int) -> MemoryState:
        """The state before the first token: M_0 = `memory` ([h, d_in, d_out] per layer) in every row, S_0 = 0."""
        start = tuple(_accumulator(w).expand(rows, *w.shape) for w in memory)
        zero = tuple(torch.zeros_like(w) for w in start)
        return cls(start, zero, start, torch.zeros(rows, dtype=torch.int64))

    def map(self, fn: Callable[[Tensor], Tensor]) -> MemoryState:
        """Apply `fn` to every weight tensor; the position stays. A tensor that stands twice, as the anchor does at the end
        of a chunk, still does."""
        done: dict[int, Tensor] = {}
        for weight in (*self.memory, *self.momentum, *self.anchor):
            if id(weight) not in done:
                done[id(weight)] = fn(weight)
        memory, momentum, anchor = (tuple(done[id(w)] for w in group) for group in self.groups)
        return MemoryState(memory, momentum, anchor, self.position)

    def detach(self) -> MemoryState:
        """The same state, cut from the autograd graph (truncated backpropagation)."""
        return self.map(Tensor.detach)

    def rows(self, index: slice | Tensor) -> MemoryState:
        """Some rows of the batch."""
        picked = self.map(lambda w: w[index])
        return MemoryState(picked.memory, picked.momentum, picked.anchor, self.position[index])


def concatenate(states: Sequence[MemoryState]) -> MemoryState:
    """Stack the rows of several states."""
    memory, momentum, anchor = (
        tuple(torch.cat(layer) for layer in zip(*group, strict=True))
        for group in zip(*(s.groups for s in states), strict=True)
    )
    return MemoryState(memory, momentum, anchor, torch.cat([s.position for s in states]))


def bound(weight: Tensor, max_norm: float | None) -> Tensor:
    """Scale each matrix [..., d_in, d_out] back to Frobenius norm `max_norm` where it is over it."""
    if max_norm is None:
        return weight
    return weight * (max_norm / norms(weight).clamp(min=max_norm))


def norms(weight: Tensor) -> Tensor:
    """Frobenius norm of each matrix [..., d_in, d_out], [..., 1, 1]."""
    return torch.linalg.vector_norm(weight, dim=(-2, -1), keepdim=True)


def integers(x: Tensor) -> list[int]:
    """Its numbers; zeros of a tensor without data."""
    return [0] * len(x) if dataless(x) else x.tolist()


def dataless(x: Tensor) -> bool:
    """Whether a tensor has a shape alone, as on the device "meta" and under `FakeTensorMode`."""
    return x.is_meta or (type(x) is not Tensor and type(x).__name__ == "FakeTensor")


def flush(weight: Tensor) -> Tensor:
    """In place: what is too small for the product of two to be a normal number becomes zero.

    A memory that forgets more than it writes decays through the subnormal numbers, which cost a CPU a hundred times the time
    of an ordinary one (a long stream ran 2.7 times slower), and are nothing beside what an output is made of.
    """
    smallest = torch.finfo(weight.dtype).tiny ** 0.5
    return weight.masked_fill_(weight.abs() < smallest, 0)


def _accumulator(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
