"""The four ways to put the memory into a block (arXiv 2501.00663, section 4), LMM, MAC, MAG, MAL; and a block without one.

Every block: pre-norm, mixing, residual; pre-norm, SwiGLU, residual. `block(x, state)` → (x, state), None at the start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import TitansConfig
from titans_dna.nn.attention import SegmentAttention, SegmentInputs, SegmentState, SlidingAttention, SlidingState
from titans_dna.nn.layers import CausalConv, RMSNorm, SwiGLU
from titans_dna.nn.memory import MemoryReader, NeuralMemory, NeuralMemoryState
from titans_dna.nn.packing import Packing


def build_blocks(config: TitansConfig) -> list[Block]:
    """All blocks of a model, from the first. Of the memories all but the last begin again where `restart` says so."""
    last = max((place for place, kind in enumerate(config.kinds) if kind != "conv"), default=0)
    dilations = iter(config.conv_dilations)
    return [
        build_block(
            config.replace(restart=0) if place == last else config, kind, next(dilations, 1) if kind == "conv" else 1
        )
        for place, kind in enumerate(config.kinds)
    ]


def build_block(config: TitansConfig, kind: str, dilation: int = 1) -> Block:
    """One block with this mixer; without attention, mac, mag and mal are the memory over [P, x]. dilation: of a convolution."""
    if kind == "conv":
        return ConvBlock(config, dilation)
    config = config.replace(variant=kind)
    if not config.attention:
        return LMMBlock(config)
    return {"lmm": LMMBlock, "mac": MACBlock, "mag": MAGBlock, "mal": MALBlock}[kind](config)


class Block(nn.Module):
    """Residual frame around `mix`, which the mixers define."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width)
        self.mixer(config)
        self.ffn_norm = RMSNorm(config.width)
        self.ffn = SwiGLU(config.width, config.ffn_hidden)
        self.dropout = nn.Dropout(config.dropout)

    def mixer(self, config: TitansConfig) -> None:
        """Make what mixes, where its weights have always been drawn."""
        raise AssertionError("a block defines mixer")

    def forward(self, x: Tensor, state: Any = None, packing: Packing | None = None) -> tuple[Tensor, Any]:
        """x [b, t, width], t >= 1. With a packing, x is [1, t, width] and there is no state, neither in nor out."""
        if packing is None:
            mixed, state = self.mix(self.norm(x), state)
        else:
            mixed, state = self.mix_packed(self.norm(x), packing), None
        x = x + self.dropout(mixed)
        return x + self.dropout(self.ffn(self.ffn_norm(x))), state

    def mix(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Mix the tokens of the normalised x [b, t, width]."""
        raise AssertionError("a block defines mix")

    def mix_packed(self, x: Tensor, packing: Packing) -> Tensor:
        """The same for sequences packed in x [1, t, width], each of them from its start."""
        raise AssertionError("a block defines mix_packed")


class ConvState(NamedTuple):
    """The convolution's last inputs."""

    convolution: Tensor

    def first(self, rows: int) -> ConvState:
        """The state of the first rows of the batch."""
        return ConvState(self.convolution[:rows])


class ConvBlock(Block):
    """No memory: a causal depthwise convolution over `conv_taps` tokens, each `dilation` from the next, gated."""

    def __init__(self, config: TitansConfig, dilation: int) -> None:
        self.dilation = dilation
        super().__init__(config)

    def mixer(self, config: TitansConfig) -> None:
        self.input = nn.Linear(config.width, 2 * config.width, bias=False)
        self.convolution = CausalConv(config.width, config.conv_taps, self.dilation)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def mix(self, x: Tensor, state: ConvState | None) -> tuple[Tensor, ConvState]:
        value, gate = self.input(x).chunk(2, dim=-1)
        y, last = self.convolution(value, None if state is None else state.convolution)
        return self.output(y * F.silu(gate)), ConvState(last)

    def mix_packed(self, x: Tensor, packing: Packing) -> Tensor:
        value, gate = self.input(x).chunk(2, dim=-1)
        return self.output(self.convolution.packed(value, packing) * F.silu(gate))


class MemoryBlock(Block):
    """What the blocks with a memory share."""

    def mixer(self, config: TitansConfig) -> None:
        persistent = 0 if config.variant == "lmm" else config.persistent
        self.persistent = nn.Parameter(torch.randn(persistent, config.width)) if persistent else None
        self.memory = NeuralMemory(config)

    def prefix(self, x: Tensor) -> Tensor:
        """The persistent tokens, normalised as x is, for every row: [b, p, width]."""
        if self.persistent is None:
            return x[:, :0]
        return self.norm(self.persistent).to(x.dtype).expand(len(x), -1, -1)

    def remember(self, x: Tensor, state: NeuralMemoryState | None) -> tuple[Tensor, Tensor, NeuralMemoryState]:
        """Memory over [P, x]: what it returns at P (empty unless the sequence starts here), at x, and the state."""
        if state is not None:
            y, after = self.memory(x, state)
            return y[:, :0], y, after
        prefix = self.prefix(x)
        y, after = self.memory(torch.cat([prefix, x], dim=1))
        return y[:, : prefix.shape[1]], y[:, prefix.shape[1] :], after

    def remember_packed(self, x: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Memory over [P, sequence] for each sequence of x [1, t, width]: at P [n, p, width], and at x."""
        prefix = self.prefix(x).expand(len(packing), -1, -1)
        p = prefix.shape[1]
        return packing.separate(self.memory.packed(packing.insert(prefix, x), packing.widened(p)), p)


class LMMBlock(MemoryBlock):
    """The memory alone mixes tokens."""

    def mix(self, x: Tensor, state: NeuralMemoryState | None) -> tuple[Tensor, NeuralMemoryState]:
        _, y, state = self.remember(x, state)
        return y, state

    def mix_packed(self, x: Tensor, packing: Packing) -> Tensor:
        return self.remember_packed(x, packing)[1]


class MACState(NamedTuple):
    """The memory; the reader's convolution; the memory as the last segment left it; the segment's keys so far."""

    memory: NeuralMemoryState | None
    reader: Tensor | None
    previous: tuple[Tensor, ...]
    attention: SegmentState | None
    position: int

    def first(self, rows: int) -> MACState:
        """The state of the first rows of the batch, at the end of a segment."""
        assert self.memory is not None
        memory = self.memory.first(rows)
        reader = None if self.reader is None else self.reader[:rows]
        return MACState(memory, reader, memory.scan.memory, None, self.position)


class MACBlock(MemoryBlock):
    """Memory as context (eqs. 21-25): attention inside a segment over [P, what the memory recalls, the segment]."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.segment = config.segment
        self.reader = MemoryReader(config)
        self.attention = SegmentAttention(config.width, config.heads, config.segment, config.rope_base)
        self.write_norm = RMSNorm(config.width)
        self.residual = config.attention_residual
        self.gate = Gate(config.width, (2 * config.layers) ** -0.5)

    def mix(self, x: Tensor, state: MACState | None) -> tuple[Tensor, MACState]:
        if state is None:
            state = MACState(None, None, self.memory.initial_weights(len(x)), None, 0)
        memory, reader, previous, attention, position = state
        queries, reader = self.reader.queries(x, self.memory.keys, reader)
        inputs, shared = self.attention.prepare(x, position, self.prefix(x))
        pieces = _to_borders(x.shape[1], position, self.segment)
        # Cut once: the reverse of one cut is one concatenation, that of a slice as long as the whole.
        cut = zip(
            *(part.split(pieces, dim=1) for part in (x, queries, *inputs[:-1])), inputs.turn.split(pieces), strict=True
        )
        outputs = []
        for own, asked, *piece in cut:
            recalled = self.reader(asked, previous)  # h = M_{i-1}(q), read without writing
            y, attention = self.attention.attend(SegmentInputs(*piece), shared, recalled, attention)
            written = self.write_norm(own + y if self.residual else y)
            read, memory = self.memory.write(written, memory)  # write y, and read what is written up to each token
            outputs.append((y, written, read))
            position = (position + y.shape[1]) % self.segment
            if position == 0:
                previous, attention = memory.scan.memory, None
        y, written, read = (torch.cat(parts, dim=1) for parts in zip(*outputs, strict=True))
        return self.gate(y, self.memory.answer(written, read)), MACState(memory, reader, previous, attention, position)

    def mix_packed(self, x: Tensor, packing: Packing) -> Tensor:
        return packing.blocks(self.segment).side_by_side(self.mix, x)  # a segment waits for the one before it anyway


def _to_borders(t: int, position: int, segment: int) -> list[int]:
    """Lengths of the pieces in which t tokens lie in segments, the first of them at place `position` of its own."""
    first = min(segment - position, t)
    whole, rest = divmod(t - first, segment)
    return [first] + [segment] * whole + [rest] * (rest > 0)


class MAGState(NamedTuple):
    """State of the memory and of the sliding window."""

    memory: NeuralMemoryState
    attention: SlidingState


class MAGBlock(MemoryBlock):
    """Gated (eqs. 26-28): the memory over [P, x] beside sliding-window attention over [P, x]."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.attention = SlidingAttention(config.width, config.heads, config.window, config.rope_base)
        self.gate = Gate(config.width, (2 * config.layers) ** -0.5)

    def mix(self, x: Tensor, state: MAGState | None) -> tuple[Tensor, MAGState]:
        if state is None:
            y, attention = self.attention(x, None, self.prefix(x))
        else:
            y, attention = self.attention(x, state.attention)
        _, z, memory = self.remember(x, None if state is None else state.memory)
        return self.gate(y, z), MAGState(memory, attention)

    def mix_packed(self, x: Tensor, packing: Packing) -> Tensor:
        y = self.attention.packed(x, self.prefix(x), packing)
        return self.gate(y, self.remember_packed(x, packing)[1])


class MALBlock(MemoryBlock):
    """Layer (eqs. 29-31): the memory over [P, x], then sliding-window attention over what it returns."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.attention = SlidingAttention(config.width, config.heads, config.window, config.rope_base)
        self.attention_norm = RMSNorm(config.width)
        self.residual = config.attention_residual

    def mix(self, x: Tensor, state: MAGState | None) -> tuple[Tensor, MAGState]:
        prefix, y, memory = self.remember(x, None if state is None else state.memory)
        prefix, given = self.attention_norm(prefix), self.attention_norm(y)
        z, attention = self.attention(given, None, prefix) if state is None else self.attention(given, state.attention)
        return y + z if self.residual else z, MAGState(memory, attention)

    def mix_packed(self, x: Tensor, packing: Packing) -> Tensor:
        prefix, y = self.remember_packed(x, packing)
        z = self.attention.packed(self.attention_norm(y), self.attention_norm(prefix), packing)
        return y + z if self.residual else z


class Gate(nn.Module):
    """⊗ of the paper: each side normalised with its own learned vector, a sigmoid on the memory's side, product."""

    def __init__(self, width: int, scale: float) -> None:
        """scale: length of the attention's learned vector at the start; the product ends a residual branch."""
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.memory_norm = RMSNorm(width)
        nn.init.constant_(self.attention_norm.weight, scale)

    def forward(self, attention: Tensor, memory: Tensor) -> Tensor:
        """[b, t, width] twice → [b, t, width]."""
        return self.attention_norm(attention) * torch.sigmoid(self.memory_norm(memory))
