"""Gates → the coefficients that unroll a chunk (β, f, G, m, H of kernels/README.md), shared by all paths.

Nothing here divides, so gates of exactly 0 and 1 are exact, in value and in gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Coefficients(NamedTuple):
    """Shares in the memory M_t and, at the chunk's last token, in the momentum S_c; c tokens a chunk."""

    beta: Tensor
    """[..., c]: share of the start memory in M_t."""
    f: Tensor
    """[..., c]: share of the start momentum in M_t."""
    G: Tensor
    """[..., c, c] lower triangular: share of the gradient of token j in M_t."""
    m_end: Tensor
    """[...]: share of the start momentum in S_c."""
    H_end: Tensor
    """[..., c]: share of the gradient of token j in S_c."""


def token_coefficients(alpha: Tensor, eta: Tensor, theta: Tensor) -> Coefficients:
    """Coefficients for one gate value per token.

    alpha, eta, theta: [..., c]. Blocks of 1, 2, 4, … tokens are joined in pairs: a token of the second block sees the
    gradients of the first through the memory and the momentum that the first ends with. Nothing divides.
    """
    c = alpha.shape[-1]
    padding = (0, (1 << (c - 1).bit_length()) - c)  # to a power of two, with tokens that change nothing
    keep, eta = (F.pad(x, padding, value=1.0)[..., None] for x in (1 - alpha, eta))
    theta = F.pad(theta, padding)[..., None]
    blocks = Coefficients(keep, eta, theta[..., None], eta, theta)
    while blocks.beta.shape[-2] > 1:
        blocks = _join(
            Coefficients(*(x[..., 0::2, *rest] for x, rest in zip(blocks, _INNER, strict=True))),
            Coefficients(*(x[..., 1::2, *rest] for x, rest in zip(blocks, _INNER, strict=True))),
        )
    beta, f, G, m, H = (x.squeeze(-1 - len(rest)) for x, rest in zip(blocks, _INNER, strict=True))
    whole = (beta[..., :c], f[..., :c], G[..., :c, :c], m[..., -1], H[..., :c])
    return Coefficients(*(_FlushSubnormal.apply(x) for x in whole))


_INNER = ((slice(None),), (slice(None),), (slice(None), slice(None)), (slice(None),), (slice(None),))
"""Axes that follow the axis of blocks in each of the coefficients; m has all its tokens until the end."""


def _join(first: Coefficients, second: Coefficients) -> Coefficients:
    beta, f, G, m, H = second
    memory, momentum = first.G[..., -1:, :], first.H_end[..., None, :]  # at the end of the first block
    corner = torch.addcmul(beta[..., None] * memory, f[..., None], momentum)
    last = [x[..., -1:] for x in (first.beta, first.f, first.m_end)]
    return Coefficients(
        torch.cat([first.beta, beta * last[0]], -1),
        torch.cat([first.f, beta * last[1] + f * last[2]], -1),
        torch.cat([F.pad(first.G, (0, G.shape[-1])), torch.cat([corner, G], -1)], -2),
        torch.cat([first.m_end, m * last[2]], -1),
        torch.cat([first.H_end * m[..., -1:], H], -1),
    )


def chunk_coefficients(alpha: Tensor, eta: Tensor, theta: Tensor, c: int) -> Coefficients:
    """Coefficients for one gate value per chunk of c tokens: powers of one number, and Toeplitz matrices.

    alpha, eta, theta: [...]. Equal to `token_coefficients` on repeated gates, at c instead of c² numbers a matrix.
    """
    power = torch.arange(c + 1, device=alpha.device)
    A = (1 - alpha)[..., None] ** power
    m = eta[..., None] ** power
    h = theta[..., None] * m[..., :-1]
    lower = _toeplitz(A[..., :-1])
    f = torch.einsum("...ti,...i->...t", lower, m[..., 1:])
    g = torch.einsum("...ti,...i->...t", lower, h)
    return Coefficients(A[..., 1:], f, _toeplitz(g), m[..., -1], h.flip(-1))


def _toeplitz(column: Tensor) -> Tensor:
    """[..., c] → [..., c, c] lower triangular with T[t, j] = column[t − j]."""
    c = column.shape[-1]
    return F.pad(column, (c - 1, 0)).unfold(-1, c, 1).flip(-1)


class _FlushSubnormal(torch.autograd.Function):
    """Subnormal products cost a CPU a hundred times the time of an ordinary number, and mean nothing.

    The gradient passes unchanged: a product of exactly zero has one.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return F.hardshrink(x, torch.finfo(x.dtype).tiny)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return grads[0]
