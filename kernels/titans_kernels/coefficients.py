"""Gates → the coefficients that unroll a chunk (β, f, G, m, H of kernels/README.md), shared by all paths.

Nothing here divides, so gates of exactly 0 and 1 are exact, in value and in gradient.
"""

# torch types nothing that autograd functions return:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .support import check_first_order


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
    """Coefficients for one gate value per token. alpha, eta, theta: [..., c]."""
    return Coefficients(*_TokenCoefficients.apply(alpha, eta, theta))


class _TokenCoefficients(torch.autograd.Function):
    """With A[t, j] and E[t, j] the products of 1 − α and of η after token j up to token t (j = 0 is before the first):

        β = A[·, 0];  m = E[·, 0];  H = E diag(θ);  f = A m;  G = A H

    A product's derivative for one of its factors is the product of the others, those before it times those after it, both
    of which stand in the same matrix: nothing divides on the way back either.
    """

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, eta: Tensor, theta: Tensor) -> tuple[Tensor, ...]:
        kept, decayed = (flush_subnormal(x) for x in _products(torch.stack([1 - alpha, eta])))
        A, m, H = kept[..., 1:], decayed[..., 0], decayed[..., 1:] * theta[..., None, :]
        ctx.save_for_backward(kept, decayed, theta)
        f, G = (A @ m[..., None])[..., 0], A @ H
        return tuple(flush_subnormal(x) for x in (kept[..., 0], f, G, m[..., -1], H[..., -1, :]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_first_order(*grads)
        d_beta, d_f, d_G, d_m_end, d_H_end = grads
        kept, decayed, theta = ctx.saved_tensors
        A, E = kept[..., 1:], decayed[..., 1:]
        d_H, d_m = A.mT @ d_G, (A.mT @ d_f[..., None])[..., 0]
        d_H[..., -1, :] += d_H_end
        d_m[..., -1] += d_m_end
        d_A = d_G @ (E * theta[..., None, :]).mT + d_f[..., None] * decayed[..., None, :, 0]
        d_alpha = _reverse_products(kept, torch.cat([d_beta[..., None], d_A], -1)).neg_()
        d_eta = _reverse_products(decayed, torch.cat([d_m[..., None], d_H * theta[..., None, :]], -1))
        return d_alpha, d_eta, (d_H * E).sum(-2)


def _products(gates: Tensor) -> Tensor:
    """[..., c] → [..., c, c + 1]: at (t, j) the product of gates j … t, counted from 0; 1 at (t, t + 1), 0 after that.

    Blocks on the diagonal of 1, 2, 4, … tokens are joined in pairs: below the first block and left of the second stands
    what the second's tokens multiply the first's last row with.
    """
    c = gates.shape[-1]
    size = 1 << (c - 1).bit_length()
    out = gates.new_zeros(*gates.shape[:-1], size, size + 1)
    out.diagonal(1, -2, -1).fill_(1)
    out.diagonal(0, -2, -1)[..., :c].copy_(gates)
    square, half = out[..., :size], 1
    while half < size:
        cut = (size // (2 * half), 2 * half)
        blocks = torch.unflatten(torch.unflatten(square, -1, cut), -3, cut).diagonal(
            0, -4, -2
        )  # [..., 2 half, 2 half, blocks]
        first, second = blocks[..., half - 1 : half, :half, :], blocks[..., half:, half : half + 1, :]
        torch.mul(second, first, out=blocks[..., half:, :half, :])
        half *= 2
    return out[..., :c, : c + 1]


def _reverse_products(products: Tensor, d_products: Tensor) -> Tensor:
    """The adjoint of `_products`, [..., c, c + 1] → [..., c]; above the diagonal the gradient may be anything."""
    after = products[..., 1:].mT @ d_products  # times the gates after i, and summed over t
    before = F.pad(products[..., :-1, :], (0, 0, 1, 0))
    before[..., 0, 0] = 1
    return (after * before).sum(-1)


def flush_subnormal(x: Tensor) -> Tensor:
    """Subnormal products cost a CPU a hundred times the time of an ordinary number, and mean nothing."""
    return F.hardshrink(x, torch.finfo(x.dtype).tiny)


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
