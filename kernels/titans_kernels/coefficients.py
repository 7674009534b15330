"""Gates → the coefficients that unroll a chunk (β, f, G, m, H of kernels/README.md), shared by all paths.

Nothing here divides, so gates of exactly 0 and 1 are exact, in value and in gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


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

    alpha, eta, theta: [..., c].
    """
    keep = 1 - alpha
    A, P = _DecayProducts.apply(keep), _DecayProducts.apply(eta)
    beta = A[..., :, 0] * keep[..., :1]
    m = P[..., :, 0] * eta[..., :1]
    H = P * theta[..., None, :]
    f, G = torch.einsum("...ti,...i->...t", A, m), A @ H
    return Coefficients(beta, f, G, m[..., -1], H[..., -1, :])


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


class _DecayProducts(torch.autograd.Function):
    """gate [..., c] → P [..., c, c] lower triangular, P[t, j] = Π_{j<i≤t} gate_i, with ones on the diagonal.

    As P[t, j] = P[t, i] · gate_i · P[i−1, j] for j < i ≤ t, the gradient is a matrix product and needs no quotient.
    """

    @staticmethod
    def forward(ctx, gate: Tensor) -> Tensor:
        c = gate.shape[-1]
        below = torch.ones(c, c, dtype=torch.bool, device=gate.device).tril(-1)
        P = torch.where(below, gate[..., :, None], 1).cumprod(-2).tril_()
        # Subnormal products cost a CPU a hundred times the time of an ordinary number, and mean nothing.
        P.masked_fill_(P.abs() < torch.finfo(P.dtype).tiny, 0)
        ctx.save_for_backward(P)
        return P

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (P,) = ctx.saved_tensors
        before = F.pad(P[..., :-1, :], (0, 0, 1, 0))
        return torch.einsum("...ij,...ij->...i", before, P.mT @ grad.tril())
