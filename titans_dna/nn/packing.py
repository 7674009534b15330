"""Sequences packed end to end in one row: where each lies, and the layouts that keep them apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def _once(make: Callable[[Packing, int], T]) -> Callable[[Packing, int], T]:
    """A layout serves every block of a model: made at the first call, on the CPU, and sent to the device once."""

    @wraps(make)
    def made(self: Packing, size: int) -> T:
        key = (make.__name__, size)
        if key not in self.layouts:
            self.layouts[key] = make(self, size)
        return self.layouts[key]

    return made


class Packing:
    """n sequences end to end as the tokens of [1, t, …]; sequence i is tokens cu_seqlens[i] to cu_seqlens[i + 1].

    cu_seqlens: int64 [n + 1] on the CPU, 0 first, never falling, t last. device: that of the tokens. lengths: int64 [n].
    """

    def __init__(self, cu_seqlens: Tensor, device: torch.device) -> None:
        self.cu_seqlens, self.device = cu_seqlens, device
        self.lengths = cu_seqlens.diff()
        self.layouts: dict[tuple[str, int], Any] = {}
        self._row = torch.repeat_interleave(self.lengths)  # the sequence of each token
        self._place = torch.arange(len(self._row)) - cu_seqlens[self._row]  # and its place in there

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def place(self) -> Tensor:
        """Of each token, in its sequence, from 0: int64 [1, t]."""
        return self._place[None].to(self.device)

    def insert(self, before: Tensor, x: Tensor) -> Tensor:
        """before [n, p, w] in front of each sequence of x [1, t, w] → [1, t + n p, w], as `widened(p)` describes it."""
        p = before.shape[1]
        return torch.cat([before.flatten(0, 1), x[0]])[None].index_select(1, self._inserted(p)[1]) if p else x

    def separate(self, y: Tensor, p: int) -> tuple[Tensor, Tensor]:
        """The inverse of `insert`: [1, t + n p, w] → [n, p, w] and [1, t, w]."""
        if p:
            y = y.index_select(1, self._inserted(p)[0])
        before, x = y.tensor_split([len(self) * p], dim=1)
        return before.reshape(len(self), p, y.shape[2]), x

    @_once
    def widened(self, p: int) -> Packing:
        """The same sequences with p more tokens in front of each."""
        return Packing(self.cu_seqlens + p * torch.arange(len(self) + 1), self.device)

    @_once
    def _inserted(self, p: int) -> tuple[Tensor, Tensor]:
        """Of the n p inserted tokens and then the t others, the places after `insert`; and the way back."""
        starts = self.widened(p).cu_seqlens[:-1, None] + torch.arange(p)
        places = torch.cat([starts.flatten(), torch.arange(len(self._row)) + p * (self._row + 1)])
        return places.to(self.device), places.argsort().to(self.device)

    @_once
    def every(self, size: int) -> Tensor:
        """The tokens at place 0, size, 2 size, … of their sequence."""
        return (self._place % size == 0).nonzero()[:, 0].to(self.device)

    @_once
    def heads(self, size: int) -> Heads:
        """The first `size` tokens of every sequence."""
        window = self.cu_seqlens[:-1, None] + torch.arange(size)
        inside = torch.arange(size) < self.lengths[:, None]
        sources, slots = window.clamp(max=len(self._row) - 1), inside.flatten().nonzero()[:, 0]
        return Heads(*(index.to(self.device) for index in (sources, slots, window[inside])))

    @_once
    def blocks(self, size: int) -> Blocks:
        """Every sequence cut into blocks of `size` tokens, or of the longest sequence's if that is shorter."""
        size = min(size, int(self.lengths.max()))
        order = self.lengths.argsort(descending=True, stable=True)
        each = -(-self.lengths // size)
        counts = torch.stack([(each > number).sum() for number in range(int(each.max()))])
        block = (counts.cumsum(0) - counts)[self._place // size] + order.argsort()[self._row]
        sequence = torch.cat([order[:count] for count in counts.tolist()])
        slots = block * size + self._place % size
        return Blocks(size, counts.tolist(), sequence.to(self.device), slots.to(self.device))


class Heads(NamedTuple):
    """The first tokens of every sequence, as rows of [n, size]."""

    sources: Tensor
    """[n, size]: the token each is; after the end of a short sequence, anything."""
    slots: Tensor
    """[s]: which places of the flattened [n · size] lie inside their sequence."""
    tokens: Tensor
    """[s]: the token of each of these."""


class Blocks(NamedTuple):
    """Blocks that each lie in one sequence, as m rows of [m, size], the last of a sequence filled up with zeros.

    First comes the first block of every sequence that has one, the longest sequence first, then every second block, and
    so on: the sequences with one more block are always the first few of those before.
    """

    size: int
    counts: list[int]
    """How many sequences have a first block, a second, …; m in all."""
    sequence: Tensor
    """[m]: the sequence of each block."""
    slots: Tensor
    """[t]: the place of each token in the flattened [m · size]."""

    def fold(self, x: Tensor) -> Tensor:
        """[1, t, …] → [m, size, …]."""
        flat = x.new_zeros(len(self.sequence) * self.size, *x.shape[2:]).index_copy_(0, self.slots, x[0])
        return flat.unflatten(0, (-1, self.size))

    def unfold(self, y: Tensor) -> Tensor:
        """The inverse of `fold`."""
        return y.flatten(0, 1).index_select(0, self.slots)[None]

    def side_by_side(self, step: Callable[[Tensor, Any], tuple[Tensor, Any]], x: Tensor) -> Tensor:
        """[1, t, …] → [1, t, …] through `step`, which takes [rows, size, …] and a state and returns both: a call for the
        first block of all sequences, then one for every second block, and so on.

        What fills up a last block is computed in vain: `step` looks at nothing ahead. A state has `first(rows)`.
        """
        state, outputs = None, []
        for rows in self.fold(x).split(self.counts):
            if state is not None and len(rows) < len(outputs[-1]):
                state = state.first(len(rows))
            y, state = step(rows, state)
            outputs.append(y)
        return self.unfold(torch.cat(outputs))

    def previous(self, y: Tensor) -> Tensor:
        """[m, size, …] → the block before each that is not the first of its sequence."""
        parts = y.split(self.counts)
        return torch.cat([part[:count] for part, count in zip(parts, [*self.counts[1:], 0], strict=True)])


def pack(cu_seqlens: Tensor, ids: Tensor) -> Packing:
    """The packing of ids [1, t], t at least 1. Raises ValueError unless cu_seqlens holds whole numbers [n + 1], 0 first,
    never falling, t last. An empty sequence is allowed."""
    if cu_seqlens.ndim != 1 or cu_seqlens.is_floating_point() or len(cu_seqlens) < 2:
        got = f"{cu_seqlens.dtype} {list(cu_seqlens.shape)}"
        raise ValueError(f"cu_seqlens: got {got}, want whole numbers [n + 1], n at least 1")
    if len(ids) != 1:
        raise ValueError(f"ids: got {len(ids)} rows beside cu_seqlens, want 1 with the sequences end to end")
    ends, t = cu_seqlens.tolist(), ids.shape[1]
    if ends[0] != 0 or ends[-1] != t or any(i > j for i, j in pairwise(ends)):
        raise ValueError(f"cu_seqlens: got {ends}, want 0 first, never falling, {t} (the number of tokens) last")
    return Packing(torch.tensor(ends), ids.device)
