"""Bits of the bases of a stretch after a context, with the memory carried, started anew now and then, or never written."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_dna.nn.blocks import ConvState, MACState, MAGState, MemoryBlock
from titans_dna.nn.entry import EntryState
from titans_dna.nn.memory import NeuralMemory, NeuralMemoryState
from titans_dna.nn.model import Output, TitansDNA
from titans_dna.reading.bits import nats
from titans_dna.reading.stream import Ids, Piece, calls, logits, read
from titans_kernels import MemoryState

Reader = Callable[[Tensor, Any], Output]
"""A model as it is called here: ids [b, t] and a state → logits [b, t, vocabulary] of what comes next, and the state."""


@torch.inference_mode()
def score(
    model: Reader,
    ids: Tensor,
    target: int,
    piece: int,
    *,
    window: int = 0,
    reset: Callable[[Any], Any] | None = None,
    progress: Callable[[float], object] = lambda bases: None,
) -> np.ndarray:
    """Bits of the last `target` of ids [b, context + target], context >= 1: float32 [b, target].

    window, reset: where given, the state goes through `reset` every `window` tokens, counted from the first that is scored.
    piece: tokens of a row per call of the model; changes nothing.
    """
    rows, total = [Ids(row) for row in ids.cpu().numpy()], ids.shape[1] - 1
    into, state, first = _Target(ids, total + 1 - target), None, 0
    for last in borders(total + 1 - target, total, window if reset else 0):
        if first and reset is not None:
            state = reset(state)
        part = calls(rows, piece, first, last)
        state = read(logits(model), part, into, state, device=ids.device, progress=progress)
        first = last
    return torch.cat(into.bits, dim=1).numpy()


def borders(context: int, total: int, window: int) -> Iterator[int]:
    """Where the windows of [0, total) end, if one begins at `context`; without windows, `total` alone."""
    if window:
        yield from range(context % window or window, total, window)
    yield total


class _Target:
    """Takes logits, and keeps the bits of the tokens that stand behind the context."""

    def __init__(self, ids: Tensor, context: int) -> None:
        self.ids, self.context = ids, context
        self.bits: list[Tensor] = []

    def add(self, piece: Piece) -> None:
        wanted = max(self.context - 1 - piece.start, 0)  # position t predicts t + 1
        stop = piece.start + piece.out.shape[1]
        if piece.start + wanted < stop:
            targets = self.ids[:, piece.start + wanted + 1 : stop + 1]
            self.bits.append((nats(piece.out[:, wanted:], targets) / math.log(2)).cpu())


@torch.no_grad()
def reset_memory(model: TitansDNA, state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The state with every block's memory as at the start of a sequence; convolutions and attention go on.

    That is the learned M_0 without momentum, into which mag and mal have then written their persistent tokens, as they do
    at a start; mac's next read is from M_0 too. A new state: the old one is unchanged.
    """
    return tuple(_reset(block, one) for block, one in zip(model.parts(), state, strict=True))


@torch.no_grad()
def memory_off(model: TitansDNA) -> TitansDNA:
    """A copy whose memory is never written: θ and α are exactly 0, so each read is of the learned M_0."""
    model = copy.deepcopy(model)
    for memory in (module for module in model.modules() if isinstance(module, NeuralMemory)):
        for rows in [memory.gate_rows(name) for name in memory.gate_names if name != "eta"]:
            memory.gates.weight[rows] = 0
            memory.gates.bias[rows] = -math.inf
    return model


def _reset(block: Any, state: Any) -> Any:
    if isinstance(state, (ConvState, EntryState)):
        return state
    if isinstance(state, MACState):
        assert state.memory is not None
        memory = _fresh(block, state.memory, persistent=False)
        return state._replace(memory=memory, previous=memory.scan.memory)
    if isinstance(state, MAGState):
        return state._replace(memory=_fresh(block, state.memory, persistent=True))
    return _fresh(block, state, persistent=True)


def _fresh(block: MemoryBlock, state: NeuralMemoryState, persistent: bool) -> NeuralMemoryState:
    """The memory before the first token of a sequence, beside the running convolution."""
    rows = len(state.scan.position)
    weight = block.norm.weight
    prefix = block.prefix(weight.new_zeros(rows, 0, len(weight)))
    if persistent and prefix.shape[1]:
        _, start = block.memory(prefix)
        return state._replace(scan=start.scan, gates=start.gates)
    return state._replace(scan=MemoryState.initial(tuple(block.memory.initial_memory), rows), gates=None)
