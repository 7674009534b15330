"""A span of the chunk form in reverse: the reads of all chunks at once, then the recurrence from its last chunk back.

`d_x` is the gradient of the loss with respect to x. Every formula is the adjoint of a line of `chunked_forward.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .chunked_forward import Layer, ReadLayer, Shares, by_chunk, read_span, read_weights
from .state import dataless


class SpanGradient(NamedTuple):
    tokens: tuple[Tensor, Tensor, Tensor]
    """Of q, k, v, [n, r, c, ·]."""
    shares: Shares
    start: list[Tensor]
    """Of [W ‖ S] at the span's start, [r, 2, d_in, d_out] per layer."""
    anchor: list[Tensor]
    """Of the anchor, [r, d_in, d_out] per layer, where it was given apart from the memory."""


class _LayerGradient(NamedTuple):
    start: Tensor
    """[n, r, 2, d_in, d_out]: of the state before each chunk, begun by the reads, completed by the chunk itself."""
    a: Tensor
    delta: Tensor
    """[n, r, c, ·]."""


def reverse_span(
    q: Tensor, shares: Shares, layers: list[Layer], anchor: Sequence[Tensor] | None, d_y: Tensor, d_end: list[Tensor]
) -> SpanGradient:
    """d_y [n, r, c, e]; d_end: of [W ‖ S] after the span, per layer."""
    d_anchor = [] if anchor is None else [torch.zeros_like(w) for w in anchor]
    d_q, d_shares, d_layers = _reverse_reads(q, shares, layers, anchor, d_y, d_anchor)
    bends = [_bend(layer, above) for layer, above in pairwise(layers)]
    d_v = torch.empty_like(layers[-1].delta)
    chunks = list(zip(*([Layer(*x) for x in by_chunk(layer)] for layer in layers), strict=True))
    d_chunks = list(zip(*([_LayerGradient(*x) for x in by_chunk(layer)] for layer in d_layers), strict=True))
    each_share, each_d_share = (list(by_chunk((x.write, x.carry))) for x in (shares, d_shares))
    for i in range(len(chunks) - 1, -1, -1):
        chunk, d_chunk = chunks[i], d_chunks[i]
        for layer, d_layer, d_next in zip(chunk, d_chunk, d_end, strict=True):
            _reverse_write(layer, d_layer, d_next, *each_share[i], *each_d_share[i])
        d_weights = _reverse_surprise(
            chunk, d_chunk, [x[i] for x in bends], anchor or [x.start[:, 0] for x in chunk], d_v[i]
        )
        for d, d_weight in zip(d_anchor or [x.start[:, 0] for x in d_chunk], d_weights, strict=True):
            d += d_weight
        d_end = [x.start for x in d_chunk]
    return SpanGradient((d_q.view_as(q), d_layers[0].a, d_v), d_shares, d_end, d_anchor)


def _reverse_reads(
    q: Tensor, shares: Shares, layers: list[Layer], anchor: Sequence[Tensor] | None, d_y: Tensor, d_anchor: list[Tensor]
) -> tuple[Tensor, Shares, list[_LayerGradient]]:
    _, reads = read_span(q, shares, layers, anchor, output=False)
    d_shares = Shares(*(x.new_zeros(x.shape) for x in shares))
    d_layers: list[_LayerGradient] = []
    d_x = d_y.flatten(0, 1)
    for l in range(len(layers) - 1, -1, -1):
        layer, read, slope = layers[l], reads[l], reads[l].slope
        d_z = d_x if slope is None else d_x.mul_(slope)
        weights = read_weights(l, shares, layers, anchor)
        d_scaled = torch.bmm(d_z, weights.mT)
        if shares.read_anchor:
            d_x, d_layer = d_scaled, _LayerGradient(*(torch.zeros_like(x) for x in (layer.start, layer.a, layer.delta)))
            d_W = d_layer.start[:, :, 0].flatten(0, 1) if anchor is None else d_anchor[l]
            d_W.baddbmm_(read.x.mT, d_z)
        else:
            d_start = torch.bmm(read.scaled.mT, d_z).view_as(layer.start)
            d_x, d_a, d_delta = _reverse_scores(layer, read, shares, d_shares, d_z)
            _reverse_scaled(read, shares, d_shares, d_scaled, d_x)
            d_layer = _LayerGradient(d_start, d_a, d_delta)
        d_layers.insert(0, d_layer)
    return d_x, d_shares, d_layers


def _reverse_scores(
    layer: Layer, read: ReadLayer, shares: Shares, d_shares: Shares, d_z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """−((x aᵀ) ⊙ G) δ: gradients of x, a, δ, and of G."""
    a, delta, G = layer.a.flatten(0, 1), layer.delta.flatten(0, 1), shares.G.flatten(0, 1)
    d_masked = torch.bmm(d_z, delta.mT)  # but for the sign
    d_delta = torch.bmm(read.masked.mT, d_z).neg_()
    d_shares.G.flatten(0, 1).addcmul_(d_masked, read.scores, value=-1)
    d_scores = d_masked.mul_(G).neg_()
    d_a = torch.bmm(d_scores.mT, read.x)
    return torch.bmm(d_scores, a), d_a.view_as(layer.a), d_delta.view_as(layer.delta)


def _reverse_scaled(read: ReadLayer, shares: Shares, d_shares: Shares, d_scaled: Tensor, d_x: Tensor) -> None:
    """β x and f x: gradients of x, added to d_x, and of β, f."""
    share = shares.read.flatten(0, 1)
    d_scaled = torch.unflatten(d_scaled, -1, (2, -1))
    for j in range(2):
        d_x.addcmul_(d_scaled[:, :, j], share[..., j, None])
    d_shares.read.flatten(0, 1).add_(d_scaled.mul_(read.x[:, :, None]).sum(-1))


def _reverse_write(
    layer: Layer, d_layer: _LayerGradient, d_end: Tensor, write: Tensor, carry: Tensor, d_write: Tensor, d_carry: Tensor
) -> None:
    if dataless(layer.scale) or bool((layer.scale < 1).any()):
        d_end = _reverse_bound(layer, d_end)
    flat = d_end.flatten(1, 2)
    d_layer.delta.baddbmm_(layer.scaled.flatten(-2), flat, alpha=-1)
    d_scaled = torch.bmm(layer.delta, flat.mT).view_as(layer.scaled)  # but for the sign
    for d, share in zip(d_scaled.unbind(2), write[..., None].unbind(2), strict=True):
        d_layer.a.addcmul_(d, share, value=-1)
    d_write -= d_scaled.mul_(layer.a[:, :, None]).sum(-1)

    beta, f, m = carry[..., None, None].unbind(1)
    (d_W, d_S), (d_new_W, d_new_S) = d_layer.start.unbind(1), d_end.unbind(1)
    d_W.addcmul_(d_new_W, beta)
    d_S.addcmul_(d_new_W, f).addcmul_(d_new_S, m)
    products = torch.bmm(d_end.flatten(2), layer.start.flatten(2).mT).flatten(1)  # of d_W', d_S' with W, S
    d_carry += products[:, (0, 1, 3)]


def _reverse_bound(layer: Layer, d_end: Tensor) -> Tensor:
    """w' = w · max/‖w‖ where over: the gradient loses its part along w'."""
    w, across = layer.end, (-2, -1)
    along = (d_end * w).sum(across, keepdim=True) / w.square().sum(across, keepdim=True)
    return torch.addcmul(d_end, w, torch.where(layer.scale < 1, -along, 0)).mul_(layer.scale)


def _bend(layer: Layer, above: Layer) -> Tensor:
    """∂δ_l/∂z_l at fixed δ_{l+1} W_{l+1}ᵀ: that times SiLU''(z) = (1 − σ)(2 SiLU'(z) − SiLU(z)). Spoils σ."""
    return torch.sub(above.a, layer.slope, alpha=2).mul_(layer.back).mul_(layer.sigma.sub_(1))


def _reverse_surprise(
    chunk: Sequence[Layer], d_chunk: Sequence[_LayerGradient], bends: Sequence[Tensor], weights: Sequence[Tensor], d_v: Tensor
) -> list[Tensor]:  # fmt: skip
    """From the gradients of a_l and δ_l to those of k (in the place of a_1's), v and, returned, the anchor."""
    d_z: list[Tensor] = []
    d_weights: list[Tensor] = []
    for l, bend in enumerate(bends):
        d_z.append(d_chunk[l].delta * bend)
        d_back = d_chunk[l].delta.mul_(chunk[l].slope)
        d_chunk[l + 1].delta.baddbmm_(d_back, weights[l + 1])
        d_weights.append(torch.bmm(d_back.mT, chunk[l + 1].delta))
    d_z.append(d_chunk[-1].delta.mul_(2))
    torch.neg(d_z[-1], out=d_v)
    for l in range(len(chunk) - 1, 0, -1):
        d_weights[l - 1].baddbmm_(chunk[l].a.mT, d_z[l])
        d_a = d_chunk[l].a.baddbmm_(d_z[l], weights[l].mT)
        d_z[l - 1].addcmul_(d_a, chunk[l - 1].slope)
    d_chunk[0].a.baddbmm_(d_z[0], weights[0].mT)
    return [torch.bmm(chunk[0].a.mT, d_z[0]), *d_weights]
