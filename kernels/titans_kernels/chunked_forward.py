"""A span of the chunk form, forward: the recurrence over its chunks, then the reads of all chunks at once.

r = b·h lanes lead each product; n chunks of c tokens. The state of a layer is one tensor [r, 2, d_in, d_out], W before
S, which the products see as [W ‖ S], [r, 2·d_in, d_out].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .coefficients import chunk_coefficients, token_coefficients
from .state import dataless, norms


class Shares(NamedTuple):
    """The coefficients of n chunks, laid out as the products take them."""

    read: Tensor
    """[n, r, c, 2]: β and f of the memory that each token reads; empty where reads see the anchor alone."""
    G: Tensor
    """[n, r, c, c]: share of the gradient of token j in the memory that token t reads; empty likewise."""
    write: Tensor
    """[n, r, c, 2]: G_c and H_c, shares of each token's gradient in the memory and the momentum after the chunk."""
    carry: Tensor
    """[n, r, 3]: β_c, f_c, m_c."""

    @property
    def read_anchor(self) -> bool:
        return self.G.ndim == 1


class Layer(NamedTuple):
    """What one layer of the memory MLP leaves behind on its way through a span; `pieces` gives that of each chunk."""

    start: Tensor
    end: Tensor
    """[n, r, 2, d_in, d_out]: W and S before and after each chunk; the two overlap, the end of one starts the next."""
    scale: Tensor
    """[n, r, 2, 1, 1]: what the bound multiplied W and S with."""
    a: Tensor
    """[n, r, c, d_in]: the keys at this layer's input."""
    scaled: Tensor
    """[n, r, c, 2, d_in]: G_c a and H_c a."""
    delta: Tensor
    """[n, r, c, d_out]: δ, the errors at its output."""
    sigma: Tensor
    slope: Tensor
    back: Tensor
    """[n, r, c, d_out], and for the last layer [n, 0]: σ(z), SiLU'(z), δ_{l+1} W_{l+1}ᵀ."""


class ReadLayer(NamedTuple):
    """What one layer leaves behind of the reads."""

    x: Tensor
    """[n·r, c, d_in]: the queries at this layer's input."""
    scaled: Tensor
    """[n·r, c, 2·d_in]: β x and f x; x itself where reads see the anchor alone."""
    scores: Tensor
    masked: Tensor
    """[n·r, c, c]: x aᵀ, and that times G; empty likewise."""
    slope: Tensor | None
    """[n·r, c, d_out]: SiLU'(z); not for the last layer."""


def span_shares(alpha: Tensor, eta: Tensor, theta: Tensor, n: int, c: int, read: str) -> Shares:
    """Gates [b, n·c, h], or [b, n, h] with one value for each chunk of c tokens. Differentiable by autograd."""
    gates = (alpha, eta, theta)
    if alpha.shape[1] == n and c > 1:
        alpha, eta, theta = (x.transpose(0, 1).flatten(1) for x in gates)
        share = chunk_coefficients(alpha, eta, theta, c)
    else:
        share = token_coefficients(*(torch.unflatten(x, 1, (n, c)).permute(1, 0, 3, 2).flatten(1, 2) for x in gates))
    write = torch.stack([share.G[..., -1, :], share.H_end], -1)
    carry = torch.stack([share.beta[..., -1], share.f[..., -1], share.m_end], -1)
    if read == "anchor":
        return Shares(write.new_empty(0), write.new_empty(0), write, carry)
    pair = torch.stack([share.beta, share.f], -1)
    if read == "after":
        return Shares(pair, share.G, write, carry)
    first = pair.new_tensor([1.0, 0.0]).expand(*pair.shape[:-2], 1, 2)
    shifted = F.pad(share.G[..., :-1, :], (0, 0, 1, 0))
    return Shares(torch.cat([first, pair[..., :-1, :]], -2), shifted, write, carry)


def write_span(
    k: Tensor, v: Tensor, shares: Shares, start: Sequence[Tensor], anchor: Sequence[Tensor] | None, max_norm: float | None
) -> list[Layer]:  # fmt: skip
    """k, v [n, r, c, ·]; start: [W ‖ S] of each layer. anchor: of the one chunk, or None where it is the memory's W."""
    layers = _allocate(k, start)
    chunks = zip(*([Layer(*x) for x in by_chunk(layer)] for layer in layers), strict=True)
    for i, chunk in enumerate(chunks):
        _surprise(v[i], chunk, anchor or [layer.start[:, 0] for layer in chunk])
        for layer in chunk:
            _write(shares.write[i], shares.carry[i], layer)
            if max_norm is not None:
                _bound(layer, max_norm)
    return layers


def by_chunk(fields: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """The same fields, chunk by chunk."""
    return zip(*(x.unbind(0) for x in fields), strict=True)


def _allocate(k: Tensor, start: Sequence[Tensor]) -> list[Layer]:
    layers: list[Layer] = []
    a, (n, r) = k, k.shape[:2]
    for l, state in enumerate(start):
        states = state.new_empty(n + 1, *state.shape)
        states[0] = state
        delta = k.new_empty(*k.shape[:-1], state.shape[-1])
        hidden = [k.new_empty(n, 0) if l == len(start) - 1 else torch.empty_like(delta) for _ in range(4)]
        scaled = a.new_empty(*a.shape[:-1], 2, a.shape[-1])
        layers.append(Layer(states[:-1], states[1:], state.new_ones(n, r, 2, 1, 1), a, scaled, delta, *hidden[:3]))
        a = hidden[3]
    return layers


def _surprise(v: Tensor, chunk: Sequence[Layer], anchor: Sequence[Tensor]) -> None:
    """Inputs a_l and errors δ_l of a chunk; the gradient of token j is the outer product a_j δ_jᵀ, never formed."""
    for (layer, above), W in zip(pairwise(chunk), anchor, strict=False):
        activate(torch.bmm(layer.a, W), layer.sigma, above.a, layer.slope)
    torch.bmm(chunk[-1].a, anchor[-1], out=chunk[-1].delta).sub_(v).mul_(2)
    for l in range(len(chunk) - 2, -1, -1):
        torch.bmm(chunk[l + 1].delta, anchor[l + 1].mT, out=chunk[l].back)
        torch.mul(chunk[l].back, chunk[l].slope, out=chunk[l].delta)


def activate(z: Tensor, sigma: Tensor, activated: Tensor, slope: Tensor) -> None:
    """σ(z); SiLU(z) = z σ; SiLU'(z) = σ + SiLU(z) (1 − σ), into the last three."""
    torch.sigmoid(z, out=sigma)
    torch.mul(z, sigma, out=activated)
    torch.add(sigma, activated, out=slope).addcmul_(sigma, activated, value=-1)


def _write(write: Tensor, carry: Tensor, layer: Layer) -> None:
    """W ← β_c W + f_c S − (G_c a)ᵀ δ and S ← m_c S − (H_c a)ᵀ δ, the two products as one."""
    beta, f, m = carry[..., None, None].unbind(1)
    (W, S), (new_W, new_S) = layer.start.unbind(1), layer.end.unbind(1)
    torch.mul(W, beta, out=new_W).addcmul_(S, f)
    torch.mul(S, m, out=new_S)
    torch.mul(layer.a[:, :, None], write[..., None], out=layer.scaled)
    layer.end.flatten(1, 2).baddbmm_(layer.scaled.flatten(-2).mT, layer.delta, alpha=-1)


def _bound(layer: Layer, max_norm: float) -> None:
    """`state.bound`, in place."""
    norm = norms(layer.end)
    if dataless(norm) or bool((norm > max_norm).any()):
        torch.div(max_norm, norm.clamp_(min=max_norm), out=layer.scale)
        layer.end.mul_(layer.scale)


def read_span(
    q: Tensor, shares: Shares, layers: list[Layer], anchor: Sequence[Tensor] | None, output: bool = True
) -> tuple[Tensor, list[ReadLayer]]:
    """Every token through its own memory, layer by layer, without forming it; all chunks at once.

    q [n, r, c, d]. Returns y [n·r, c, e], empty unless `output` is wanted, and what the reverse needs.
    """
    x = q.flatten(0, 1)
    reads: list[ReadLayer] = []
    for l, layer in enumerate(layers):
        last = l == len(layers) - 1
        scaled, scores, masked = x, x.new_empty(0), x.new_empty(0)
        if not shares.read_anchor:
            scaled = (x[..., None, :] * shares.read.flatten(0, 1)[..., None]).flatten(-2)
            scores = torch.bmm(x, layer.a.flatten(0, 1).mT)
            masked = scores * shares.G.flatten(0, 1)
        if last and not output:
            return x.new_empty(0), [*reads, ReadLayer(x, scaled, scores, masked, None)]
        z = torch.bmm(scaled, read_weights(l, shares, layers, anchor))
        if not shares.read_anchor:
            z.baddbmm_(masked, layer.delta.flatten(0, 1), alpha=-1)
        if last:
            return z, [*reads, ReadLayer(x, scaled, scores, masked, None)]
        sigma, activated, slope = (torch.empty_like(z) for _ in range(3))
        activate(z, sigma, activated, slope)
        reads.append(ReadLayer(x, scaled, scores, masked, slope))
        x = activated
    raise AssertionError("a memory has at least one layer")


def read_weights(l: int, shares: Shares, layers: list[Layer], anchor: Sequence[Tensor] | None) -> Tensor:
    """[W ‖ S] that the chunks began with, [n·r, 2·d_in, d_out]; or just the anchor, [n·r, d_in, d_out]."""
    start = layers[l].start.flatten(0, 1)
    if not shares.read_anchor:
        return start.flatten(1, 2)
    return start[:, 0] if anchor is None else anchor[l]
