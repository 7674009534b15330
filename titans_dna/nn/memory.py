"""The neural memory as a layer: projections, gates and state around one call of `memory_scan`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import TitansConfig
from titans_dna.nn.layers import CausalConv, HeadNorm
from titans_dna.nn.packing import Packing
from titans_kernels import MemoryState, memory_scan
from titans_kernels.state import integers
from titans_kernels.support import exact

FORGET_BIAS = (-7.0, -10.0)
"""Bias of the forget gate at the start, from the first head to the last: half forgotten in 760 to 15,000 tokens."""
SPREAD = 3.0
"""Standard deviation of the angles of Fourier features at the start."""
DECAY_BIAS, RATE_BIAS = 0.0, 0.0
"""Biases of momentum decay and inner learning rate: half the momentum stays, half of the largest rate."""


class NeuralMemoryState(NamedTuple):
    """What a later call needs: the memory itself, the convolution's last inputs, and the gates of the current chunk."""

    scan: MemoryState
    convolution: Tensor | None
    gates: Tensor | None
    """[b, 1, heads * gates] before the sigmoids; only where gates are per chunk."""
    age: int = 0
    """Tokens since the memory last began; only where it begins again."""

    def first(self, rows: int) -> NeuralMemoryState:
        """The state of the first rows of the batch."""
        convolution, gates = (None if x is None else x[:rows] for x in (self.convolution, self.gates))
        return NeuralMemoryState(self.scan.rows(slice(rows)), convolution, gates, self.age)


class NeuralMemory(nn.Module):
    """Writes every token into a memory that learns at test time, and reads it back (arXiv 2501.00663, section 3)."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.config = config
        asked = config.projected
        self.qkv = nn.Linear(width, 2 * asked + width, bias=False)
        seen = 2 * asked + width * (1 + config.gate_context)
        self.convolution = CausalConv(seen, config.convolution) if config.convolution else None
        self.keys = KeyMap(config)
        self.gate_names = ("theta", *["eta"] * config.momentum, *["alpha"] * config.forgetting)
        """The gates that are learned, in the order of their rows in `gates`: `heads` rows each."""
        self.gates = GateLinear(width, heads * len(self.gate_names), heads, config.gate_speed)  # theta's rows are first
        self.norm = HeadNorm(heads, config.head_width)
        self.output_gate = nn.Linear(width, width)
        self.output = nn.Linear(width, width, bias=False)
        self.initial_memory = nn.ParameterList(
            torch.randn(heads, d_in, d_out) / math.sqrt(d_in) for d_in, d_out in pairwise(config.memory_widths)
        )
        self.initial_memory[-1].data.mul_(0.03)  # so that what is written soon outweighs what was drawn
        self.initialise(1.0)

    @torch.no_grad()
    def initialise(self, scale: float) -> None:
        """Start as an associative memory of what follows what: the key of token t is the query of token t − 1, and what
        comes out is what went in, times `scale`.

        From random projections the match of keys and queries and the way of a value through the output are learned each
        by way of the other, slowly; docs/stability.md has what this start brings.
        """
        config, width = self.config, self.config.width
        ends = config.projected, 2 * config.projected
        query, key, value = self.qkv.weight.tensor_split(ends)
        for weight in (query, value):
            nn.init.normal_(weight, std=width**-0.5)
        key.copy_(query)
        self.output.weight.copy_(value.T * scale)
        nn.init.normal_(self.output_gate.weight, std=0.3 * width**-0.5)
        nn.init.constant_(self.output_gate.bias, 1.28)  # SiLU(1.28) = 1
        if self.convolution is not None and config.convolution > 1:
            taps = self.convolution.weight
            query, key, rest = taps.tensor_split(ends, dim=1)
            query[0] = 0
            if config.key_windows:
                _narrow(query, config.key_windows, config.heads)
            key.copy_(query.roll(-1, dims=0))
            rest.mul_(0.3)[-1] += 1  # values, and what gates see
        self.keys.initialise()
        nn.init.normal_(self.gates.weight, std=0.1 * width**-0.5)  # at the start the biases alone set the rates
        even = torch.ones(config.heads)
        # transformers replaces torch.linspace while it loads a model, and leaves it so where that fails.
        forget = torch.tensor(np.linspace(*FORGET_BIAS, config.heads).tolist())
        if config.half_life:
            forget = math.log(math.expm1(math.log(2) / config.half_life)) * even  # logit of 1 - 2^(-1 / half_life)
        biases = {"theta": RATE_BIAS * even, "eta": DECAY_BIAS * even, "alpha": forget}
        self.gates.bias.copy_(torch.cat([biases[name] for name in self.gate_names]))
        for weight in (self.gates.weight, self.gates.bias):
            weight[: config.heads].div_(config.gate_speed)

    def forward(self, x: Tensor, state: NeuralMemoryState | None = None) -> tuple[Tensor, NeuralMemoryState]:
        """x [b, t, width] → y [b, t, width], where y_t has seen the writes of tokens up to t, and the state after them."""
        read, state = self.write(x, state)
        return self.answer(x, read), state

    def write(self, x: Tensor, state: NeuralMemoryState | None = None) -> tuple[Tensor, NeuralMemoryState]:
        """x [b, t, width] → what each token reads, [b, t, h, d], and the state."""
        return self._stretches(x, state) if self.config.restart else self._write(x, state)

    def _stretches(self, x: Tensor, state: NeuralMemoryState | None) -> tuple[Tensor, NeuralMemoryState]:
        """`write` where the memory begins again every `restart` tokens: what is left of a stretch, then the whole ones side
        by side as rows, then the beginning of another."""
        (b, t), stretch = x.shape[:2], self.config.restart
        age = 0 if state is None else state.age
        after = state if age else None
        left = min(stretch - age, t) if age else 0
        whole, rest = divmod(t - left, stretch)
        begun, middle, last = x.split([left, whole * stretch, rest], dim=1)
        reads = []
        if left:
            read, after = self._write(begun, after)
            reads.append(read)
        if whole:
            read, _ = self._write(middle.unflatten(1, (whole, stretch)).flatten(0, 1), None)
            reads.append(read.unflatten(0, (b, whole)).flatten(1, 2))
        if rest:
            read, after = self._write(last, None)
            reads.append(read)
        age = (age + t) % stretch
        if not age or after is None:
            after = self._beginning(x)
        return torch.cat(reads, dim=1), after._replace(age=age)

    def _beginning(self, x: Tensor) -> NeuralMemoryState:
        """The state before a stretch, for the rows of x."""
        convolution = None
        if self.convolution is not None:
            taps, channels = self.convolution.weight.shape
            convolution = x.new_zeros(len(x), taps - 1, channels)
        return NeuralMemoryState(MemoryState.initial(tuple(self.initial_memory), len(x)), convolution, None)

    def _write(self, x: Tensor, state: NeuralMemoryState | None) -> tuple[Tensor, NeuralMemoryState]:
        qkv, convolution = self._convolved(x), None
        if self.convolution is not None:
            qkv, convolution = self.convolution(qkv, None if state is None else state.convolution)
        qkv, seen = self._parted(qkv, x)
        gates, last = self._raw_gates(seen, state)
        read, scan = self._scan(qkv, gates, None if state is None else state.scan, None)
        return read, NeuralMemoryState(scan, convolution, last)

    def _convolved(self, x: Tensor) -> Tensor:
        """What the convolution takes: queries, keys, values, and where gates see it too, the input."""
        return torch.cat([self.qkv(x), x], dim=-1) if self.config.gate_context else self.qkv(x)

    def _parted(self, convolved: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, keys and values; and what gates see."""
        if not self.config.gate_context:
            return convolved, x
        qkv, seen = convolved.tensor_split((-x.shape[-1],), dim=-1)
        return qkv, seen

    def answer(self, x: Tensor, read: Tensor) -> Tensor:
        """The output of tokens x [b, t, width], of what they read, [b, t, h, d]: [b, t, width]."""
        return self.output(self.norm(read).flatten(-2) * F.silu(self.output_gate(x)))

    def packed(self, x: Tensor, packing: Packing) -> Tensor:
        """x [1, t, width] → y [1, t, width], every sequence as if it were alone.

        The kernels of a GPU take any lengths at once. The PyTorch path takes rows of one length: there the sequences go
        side by side through blocks of whole chunks, so long that about an eighth is filling.
        """
        if x.is_cuda and not self.config.restart:
            return self._packed_scan(x, packing)
        chunk = self.config.chunk
        chunks = max(1, x.shape[1] // (4 * chunk * len(packing)))
        return packing.blocks(chunks * chunk).side_by_side(self, x)

    def _packed_scan(self, x: Tensor, packing: Packing) -> Tensor:
        qkv = self._convolved(x)
        if self.convolution is not None:
            qkv = self.convolution.packed(qkv, packing)
        qkv, seen = self._parted(qkv, x)
        gates = self.gates(seen if self.config.gates == "token" else seen[:, packing.every(self.config.chunk)])
        return self.answer(x, self._scan(qkv, gates, None, packing.cu_seqlens)[0])

    def _scan(
        self, qkv: Tensor, gates: Tensor, state: MemoryState | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, MemoryState]:
        """Around the one call of `memory_scan`; gates as `_gates` takes them."""
        config = self.config
        q, k, v = qkv.split([config.projected, config.projected, config.width], dim=-1)
        alpha, eta, theta = self._gates(gates)
        return memory_scan(
            self.keys(q),
            self.keys(k),
            # The read is normalised, so only directions count; long values drive a deep memory to its bound.
            unit(F.silu(v).unflatten(-1, (config.heads, -1))),
            alpha=alpha,
            eta=eta,
            theta=theta,
            memory=tuple(self.initial_memory),
            state=state,
            chunk=config.chunk,
            read=config.read,
            cu_seqlens=cu_seqlens,
            max_norm=config.max_norm * math.sqrt(config.head_width) if config.max_norm else None,
        )

    def initial_weights(self, rows: int) -> tuple[Tensor, ...]:
        """M_0 for a batch: one tensor [rows, heads, d_in, d_out] per layer of the memory."""
        return MemoryState.initial(tuple(self.initial_memory), rows).memory

    def gate_rows(self, name: str) -> slice:
        """The rows of `gates` that are those of theta, eta or alpha; ValueError where it is not learned."""
        first = self.gate_names.index(name) * self.config.heads
        return slice(first, first + self.config.heads)

    def by_gate(self, rows: Tensor) -> dict[str, Tensor]:
        """What `gates` gives, [..., heads * gates], by the name of the gate, each [..., heads]."""
        return dict(zip(self.gate_names, rows.unflatten(-1, (-1, self.config.heads)).unbind(-2), strict=True))

    def _raw_gates(self, x: Tensor, state: NeuralMemoryState | None) -> tuple[Tensor, Tensor | None]:
        """Per token, or per chunk: a chunk takes the gates of its first token, for a later one would show the future."""
        if self.config.gates == "token":
            return self.gates(x), None
        chunk = self.config.chunk
        position = 0 if state is None else integers(state.scan.position)[0]
        gates = self.gates(x[:, -position % chunk :: chunk])
        if position and state is not None and state.gates is not None:
            gates = torch.cat([state.gates, gates], dim=1)
        return gates, gates[:, -1:]

    def _gates(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """α, η in [0, 1] and θ in [0, theta_max (1 − η) / (2 chunk)], each [b, n, heads], float32.

        A chunk takes all its steps from one anchor. On n equal unit keys they sum up to Σ 2θ / (1 − η), and past 1 the
        memory overshoots, past 2 it diverges and so do the gradients: hence the range (docs/stability.md).
        """
        with exact(raw.device):
            precise = raw.to(torch.promote_types(raw.dtype, torch.float32)).sigmoid()
            learned = self.by_gate(precise)
            theta = learned["theta"]
            eta, alpha = (learned[name] if name in learned else torch.zeros_like(theta) for name in ("eta", "alpha"))
            if self.config.forget_on_write:
                alpha = alpha * theta
            return alpha, eta, theta * (1 - eta) * (self.config.theta_max / (2 * self.config.chunk))


class GateLinear(nn.Linear):
    """A linear layer whose first outputs are `speed` times what their weights say, so that they learn so much faster."""

    def __init__(self, width: int, rows: int, fast: int, speed: float) -> None:
        super().__init__(width, rows)
        self.fast, self.speed = fast, speed

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        if self.speed == 1:
            return y
        return torch.cat([y[..., : self.fast] * self.speed, y[..., self.fast :]], dim=-1)


class KeyMap(nn.Module):
    """Projections to unit keys, or queries, of every head: SiLU, or random Fourier features with frequencies that learn."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        heads, width, wanted = config.heads, config.head_width, config.memory_widths[0]
        self.heads = heads
        self.frequencies = self.phases = None
        if config.key_map == "cosine":
            self.frequencies = nn.Parameter(torch.empty(heads, width, wanted))
            self.phases = nn.Parameter(torch.empty(heads, wanted))

    @torch.no_grad()
    def initialise(self) -> None:
        """Angles of standard deviation `SPREAD` for inputs of unit variance."""
        if self.frequencies is not None and self.phases is not None:
            nn.init.normal_(self.frequencies, std=SPREAD * self.frequencies.shape[1] ** -0.5)
            nn.init.uniform_(self.phases, -math.pi, math.pi)

    def forward(self, x: Tensor) -> Tensor:
        """x [b, t, heads * …] → [b, t, heads, key width]."""
        x = x.unflatten(-1, (self.heads, -1))
        if self.frequencies is None or self.phases is None:
            return unit(F.silu(x))
        return unit(
            torch.cos(torch.einsum("bthd,hdk->bthk", x, self.frequencies.to(x.dtype)) + self.phases.to(x.dtype))
        )


class MemoryReader(nn.Module):
    """Reads a memory without writing to it: M(q), with a query projection of its own (arXiv 2501.00663, eq. 21)."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        width = config.width
        self.query = nn.Linear(width, config.projected, bias=False)
        self.convolution = CausalConv(config.projected, config.convolution) if config.convolution else None
        self.norm = HeadNorm(config.heads, config.head_width)
        self.output = nn.Linear(width, width, bias=False)

    def queries(self, x: Tensor, keys: KeyMap, convolution: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """x [b, t, width] → q [b, t, h, d], as the memory's own `keys` makes it, and the convolution's state."""
        q = self.query(x)
        if self.convolution is not None:
            q, convolution = self.convolution(q, convolution)
        return keys(q), convolution

    def forward(self, q: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """q [b, t, h, d] through memories [b, h, d_in, d_out] → [b, t, width]."""
        x = q.transpose(1, 2)
        with exact(x.device):
            x = x.to(weights[0].dtype)
            for i, weight in enumerate(weights):
                x = (F.silu(x) if i else x) @ weight
        return self.output(self.norm(x.transpose(1, 2).to(q.dtype)).flatten(-2))


def unit(x: Tensor) -> Tensor:
    """Unit Euclidean length along the last axis, in x's dtype; vectors much shorter than 0.1 stay short, so that the
    gradient at zero (the key of a sequence's first token) stays small."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    return (precise * torch.rsqrt(precise.square().sum(-1, keepdim=True) + 1e-2)).to(x.dtype)


def _narrow(taps: Tensor, windows: tuple[int, ...], heads: int) -> None:
    """Of taps [n, heads * d], in place: those alone stay that see the last tokens, so many as the channel's group says. Each
    head has all groups."""
    groups = torch.arange(taps.shape[1]) % (taps.shape[1] // heads) * len(windows) // (taps.shape[1] // heads)
    seen = torch.tensor(windows)[groups]
    taps[torch.arange(len(taps))[:, None] < len(taps) - seen] = 0
