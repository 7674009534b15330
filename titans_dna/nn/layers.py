"""Small layers: root-mean-square norms, the gated feed-forward, the causal convolution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.nn.packing import Packing

EPS = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, [..., width] to [..., width] in the input's dtype.

    Computed in float32 when the input is of lower precision; learned scale, no shift (arXiv 1910.07467).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(_positive("width", width)))

    def forward(self, x: Tensor) -> Tensor:
        return (_unit_rms(x) * self.weight).to(x.dtype)


class HeadNorm(nn.Module):
    """RMSNorm of every head apart: [b, t, h, d] to [b, t, h, d], with one learned scale [h, d]."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(_positive("heads", heads), _positive("width", width)))

    def forward(self, x: Tensor) -> Tensor:
        return (_unit_rms(x) * self.weight).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward, [..., width] to [..., width]: down(SiLU(gate) * up), no biases (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(_positive("width", width), 2 * _positive("hidden", hidden), bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class CausalConv(nn.Module):
    """Depthwise causal convolution without bias: y_t = sum_i weight[i] * x_{t - (taps - 1 - i) dilation}, per channel.

    `forward(x [b, t, channels], state)` returns (y [b, t, channels], state); the state is the last `reach` inputs,
    reach = (taps - 1) dilation, [b, reach, channels], and None stands for the zeros before a sequence. Any t, cut anywhere.
    """

    def __init__(self, channels: int, taps: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = _positive("dilation", dilation)
        bound = _positive("taps", taps) ** -0.5
        self.weight = nn.Parameter(torch.empty(taps, _positive("channels", channels)).uniform_(-bound, bound))

    @property
    def reach(self) -> int:
        """How many inputs before its own an output sees."""
        return (len(self.weight) - 1) * self.dilation

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Raises ValueError where `x` or `state` has another shape."""
        channels, reach = self.weight.shape[1], self.reach
        if x.dim() != 3 or x.shape[2] != channels:
            raise ValueError(f"x: got shape {tuple(x.shape)}, want [b, t, {channels}]")
        if state is None:
            state = x.new_zeros(x.shape[0], reach, channels)
        if state.shape != (x.shape[0], reach, channels):
            raise ValueError(f"state: got shape {tuple(state.shape)}, want {[x.shape[0], reach, channels]}")
        padded = torch.cat([state.to(x.dtype), x], dim=1)
        # The copy lets go of the whole input, of which a slice would be a view.
        return _ShiftedSum.apply(padded, self.weight.to(x.dtype), self.dilation), padded[:, x.shape[1] :].clone()

    def packed(self, x: Tensor, packing: Packing) -> Tensor:
        """[1, t, channels] to [1, t, channels], each sequence as it is alone: no tap reaches over its first token.

        All are convolved as one; then the first `reach` of each, which alone look back over it, are done again.
        """
        y, _ = self(x)
        if self.reach == 0:
            return y
        heads = packing.heads(min(self.reach, int(packing.lengths.max())))
        again, _ = self(x[0, heads.sources])
        return y.index_copy_(1, heads.tokens, again.flatten(0, 1).index_select(0, heads.slots)[None])


class _ShiftedSum(torch.autograd.Function):
    """y[:, t] = sum_i weight[i] * padded[:, t + i dilation], a few passes over memory each way.

    Plain autograd over the same slices allocates a zero-padded gradient per tap. One CPU core without bfloat16
    arithmetic, 4 taps, forward and backward, milliseconds:

    |                         | this | autograd over slices | conv2d, channels last | conv1d |
    | [8, 1024, 384] float32  | 17   | 31 to 49             | 36 to 41              | 35 to 50 |
    | [1, 128, 128] float32   | 0.25 | 0.3                  | 0.5                   | 0.8 |
    | [8, 1024, 384] bfloat16 | 15   | 22                   | 421                   | |
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(padded, weight)
        ctx.dilation = dilation
        t = padded.shape[1] - (weight.shape[0] - 1) * dilation
        y = padded[:, :t] * weight[0]
        for i, tap in enumerate(weight[1:], start=1):
            y.addcmul_(padded[:, i * dilation : i * dilation + t], tap)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        padded, weight = ctx.saved_tensors
        t, grad_padded = grad.shape[1], torch.zeros_like(padded)
        places = [slice(i * ctx.dilation, i * ctx.dilation + t) for i in range(len(weight))]
        for place, tap in zip(places, weight, strict=True):
            grad_padded[:, place].addcmul_(grad, tap)
        taps = [(grad * padded[:, place]).sum(dim=(0, 1)) for place in places]
        return grad_padded, torch.stack(taps), None


def _unit_rms(x: Tensor) -> Tensor:
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.rms_norm(precise, x.shape[-1:], eps=EPS)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: got {value}, want at least 1")
    return value
