"""The same model with its memory carried, started anew now and then, or never written."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from titans_dna.nn.blocks import Block, MACState, MAGState
from titans_dna.nn.memory import NeuralMemory, NeuralMemoryState
from titans_dna.nn.model import TitansDNA
from titans_kernels import MemoryState


@torch.no_grad()
def reset_memory(model: TitansDNA, state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The state with every block's memory as at the start of a sequence; convolutions and attention go on.

    That is the learned M_0 without momentum, into which mag and mal have then written their persistent tokens, as they do
    at a start; mac's next read is from M_0 too. A new state: the old one is unchanged.
    """
    return tuple(_reset(block, one) for block, one in zip(model.blocks, state, strict=True))


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
    if isinstance(state, MACState):
        assert state.memory is not None
        memory = _fresh(block, state.memory, persistent=False)
        return state._replace(memory=memory, previous=memory.scan.memory)
    if isinstance(state, MAGState):
        return state._replace(memory=_fresh(block, state.memory, persistent=True))
    return _fresh(block, state, persistent=True)


def _fresh(block: Block, state: NeuralMemoryState, persistent: bool) -> NeuralMemoryState:
    """The memory before the first token of a sequence, beside the running convolution."""
    rows = len(state.scan.position)
    weight = block.norm.weight
    prefix = block.prefix(weight.new_zeros(rows, 0, len(weight)))
    if persistent and prefix.shape[1]:
        _, start = block.memory(prefix)
        return state._replace(scan=start.scan, gates=start.gates)
    return state._replace(scan=MemoryState.initial(tuple(block.memory.initial_memory), rows), gates=None)
