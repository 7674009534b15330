"""Norms, feed-forward and causal convolution against their formulas; the convolution cut anywhere."""

import pytest
import torch
import torch.nn.functional as F

from titans_dna.nn.layers import CausalConv, HeadNorm, RMSNorm, SwiGLU

PRECISION = [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def close(got, want, tolerance):
    torch.testing.assert_close(got.double(), want.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
def test_norms_are_the_formula_in_the_dtype_of_the_input(dtype, tolerance):
    x = torch.randn(2, 5, 3, 8).to(dtype)
    per_head, flat = HeadNorm(3, 8), RMSNorm(8)
    with torch.no_grad():
        per_head.weight.normal_()
        flat.weight.normal_()
    unit = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert per_head(x).dtype == flat(x).dtype == dtype
    close(flat(x), unit * flat.weight.double(), tolerance)
    for h in range(3):
        close(per_head(x)[:, :, h], unit[:, :, h] * per_head.weight[h].double(), tolerance)


def test_norm_of_low_precision_is_computed_in_float32():
    x = torch.full((1, 4096), 1 + 2**-7).to(torch.bfloat16)  # 4096 squares summed in bfloat16 would stop at 256
    assert torch.equal(RMSNorm(4096)(x), torch.ones_like(x))


def test_zero_input_has_finite_gradients():
    x = torch.zeros(1, 3, 8, requires_grad=True)
    RMSNorm(8)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_swiglu_is_the_formula():
    layer, x = SwiGLU(6, 10).double(), torch.randn(2, 3, 6).double()
    gate, up = layer.gate_up.weight[:10], layer.gate_up.weight[10:]
    close(layer(x), (F.silu(x @ gate.T) * (x @ up.T)) @ layer.down.weight.T, 1e-12)
    assert sum(p.numel() for p in layer.parameters()) == 3 * 6 * 10


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize(("t", "taps"), [(1, 4), (2, 4), (3, 4), (9, 4), (9, 1), (5, 2)])
def test_convolution_is_torch_conv1d_after_zeros(dtype, tolerance, t, taps):
    layer, x = CausalConv(6, taps), torch.randn(2, t, 6).to(dtype)
    padded = F.pad(x.double().transpose(1, 2), (taps - 1, 0))
    want = F.conv1d(padded, layer.weight.double().T[:, None], groups=6).transpose(1, 2)
    y, state = layer(x)
    assert y.dtype == dtype
    close(y, want, tolerance)
    assert torch.equal(state, padded.transpose(1, 2)[:, t:].to(dtype))


@pytest.mark.parametrize("cuts", [[1], [2], [3], [4], [8], [3, 4], list(range(1, 9))])
def test_convolution_cut_anywhere_is_the_whole_with_its_gradients(cuts):
    layer, x = CausalConv(5, 4).double(), torch.randn(2, 9, 5).double().requires_grad_()
    whole, last = layer(x)
    pieces, state = [], None
    for piece in x.tensor_split(cuts, dim=1):
        y, state = layer(piece, state)
        pieces.append(y)
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert torch.equal(state, last)
    seed = torch.randn_like(whole)
    wanted = torch.autograd.grad(whole, [x, layer.weight], seed)
    for got, want in zip(torch.autograd.grad(torch.cat(pieces, 1), [x, layer.weight], seed), wanted, strict=True):
        close(got, want, 1e-12)


def test_convolution_gradients_of_both_orders():
    inputs = [torch.randn(*shape).double().requires_grad_() for shape in [(2, 3, 2), (2, 2, 2), (3, 2)]]

    def run(x, state, weight):
        return torch.func.functional_call(CausalConv(2, 3), {"weight": weight}, (x, state))

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_convolution_under_autocast_keeps_weight_gradients_in_float32():
    layer, x = CausalConv(4, 4), torch.randn(1, 6, 4)
    y, state = layer(x.bfloat16())
    y.float().sum().backward()
    assert y.dtype == state.dtype == torch.bfloat16
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_convolution_state_does_not_hold_the_whole_input():
    state = CausalConv(4, 4)(torch.randn(1, 1000, 4))[1]
    assert state.untyped_storage().nbytes() == 3 * 4 * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CausalConv(4, 0), "taps: got 0, want at least 1"),
        (lambda: RMSNorm(0), "width: got 0, want at least 1"),
        (lambda: CausalConv(4, 3)(torch.zeros(2, 5, 3)), r"x: got shape .*, want \[b, t, 4\]"),
        (lambda: CausalConv(4, 3)(torch.zeros(2, 5, 4), torch.zeros(1, 2, 4)), r"state: got .*, want \[2, 2, 4\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
