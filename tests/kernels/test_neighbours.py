"""Beside other people's rules and other ways to differentiate: equal, or refused in words; never a wrong number in silence."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from tests.kernels.cases import inputs, random_state
from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_kernels import memory_scan

BACKENDS = ("reference", "chunked")


def tokens(t=23, d=6, h=2, seed=0):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, t, h, d, dtype=torch.float64) for _ in range(3))
    return q, k / k.norm(dim=-1, keepdim=True), v


def linear_memory(q, k, v, alpha, theta, **options):
    """A memory of one layer without momentum."""
    memory = [torch.zeros(q.shape[2], q.shape[3], v.shape[3], dtype=torch.float64)]
    eta = torch.zeros_like(alpha)
    return memory_scan(q, k, v, alpha=alpha, eta=eta, theta=theta, memory=memory, **options)[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_delta_rule(backend):
    """S ← S + β k (v − Sᵀk)ᵀ, y = Sᵀq (arXiv 2406.06484), with 2 θ = β: a chunk of one token."""
    q, k, v = tokens()
    beta = torch.rand(q.shape[:3], dtype=torch.float64)
    state, wanted = torch.zeros(2, 2, 6, 6, dtype=torch.float64), []
    for i in range(q.shape[1]):
        error = v[:, i] - torch.einsum("bhde,bhd->bhe", state, k[:, i])
        state = state + beta[:, i, :, None, None] * k[:, i, :, :, None] * error[:, :, None, :]
        wanted.append(torch.einsum("bhde,bhd->bhe", state, q[:, i]))
    got = linear_memory(q, k, v, torch.zeros_like(beta), beta / 2, chunk=1, backend=backend)
    assert torch.allclose(got, torch.stack(wanted, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gated_delta_rule(backend):
    """S ← e^g S + β k (v − e^g Sᵀk)ᵀ (arXiv 2412.06464): ours forgets the memory, and not what the gradient is taken at, so
    it is 1 − α = e^g, 2 θ = β e^g, and v / e^g for v."""
    q, k, v = tokens()
    beta, g = torch.rand(q.shape[:3], dtype=torch.float64), -torch.rand(q.shape[:3], dtype=torch.float64)
    state, wanted = torch.zeros(2, 2, 6, 6, dtype=torch.float64), []
    for i in range(q.shape[1]):
        state = state * g[:, i].exp()[..., None, None]
        error = v[:, i] - torch.einsum("bhde,bhd->bhe", state, k[:, i])
        state = state + beta[:, i, :, None, None] * k[:, i, :, :, None] * error[:, :, None, :]
        wanted.append(torch.einsum("bhde,bhd->bhe", state, q[:, i]))
    kept = g.exp()
    got = linear_memory(q, k, v / kept[..., None], 1 - kept, beta * kept / 2, chunk=1, backend=backend)
    assert torch.allclose(got, torch.stack(wanted, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 8])
def test_ttt_linear(backend, chunk):
    """Gradient descent on ‖f(k) − v‖² with all gradients of a batch of tokens taken at its start (arXiv 2407.04620)."""
    q, k, v = tokens()
    theta = torch.rand(q.shape[:3], dtype=torch.float64) / chunk
    wanted = torch.empty_like(v)
    for row in range(2):
        for head in range(2):
            weight = torch.zeros(6, 6, dtype=torch.float64)
            for first in range(0, q.shape[1], chunk):
                anchor = weight.clone().requires_grad_()
                for i in range(first, min(first + chunk, q.shape[1])):
                    loss = (k[row, i, head] @ anchor - v[row, i, head]).square().sum()
                    weight = weight - theta[row, i, head] * torch.autograd.grad(loss, anchor)[0]
                    wanted[row, i, head] = q[row, i, head] @ weight
    got = linear_memory(q, k, v, torch.zeros_like(theta), theta, chunk=chunk, backend=backend)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-13)


def loss_of(name, x, memory, backend, **options):
    def loss(value):
        y, state = memory_scan(**{**x, name: value}, memory=memory, chunk=4, backend=backend, **options)
        return y.sum() + sum(w.sum() for w in state.memory)

    return loss


NAMES = ("q", "k", "v", "alpha", "eta", "theta")


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_those_of_the_reference_or_refused(name):
    x, memory = inputs(1, 9, 1, 2)
    x = {one: value.detach() for one, value in x.items()}
    memory = [w.detach() for w in memory]
    value = x[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(name, x, memory, "reference")(value), value, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), value, allow_unused=True)
    if name not in ("q", "v"):
        assert second is not None
        assert second.abs().sum() > 0
    chunked = loss_of(name, x, memory, "chunked")
    refused = pytest.raises(
        NotImplementedError, match=re.escape("got create_graph=True, want first derivatives alone, or")
    )
    with refused:
        torch.autograd.grad(chunked(value), value, create_graph=True)
    with refused:
        chunked(value).backward(create_graph=True)
    with refused:
        torch.autograd.functional.hessian(chunked, x[name])


def test_second_derivatives_for_a_state_are_refused():
    x, memory = inputs(1, 9, 1, 2)
    state = random_state(1, 1, 2, 3)
    weight = state.memory[0].detach().requires_grad_()
    state = state._replace(memory=(weight, *state.memory[1:])) if hasattr(state, "_replace") else state.map(lambda w: w)
    y, _ = memory_scan(**x, memory=memory, state=state, chunk=4, backend="chunked")
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.autograd.grad(y.sum(), x["k"], create_graph=True)


def transforms():
    func = torch.func
    return {
        "grad": lambda f, x: func.grad(f)(x),
        "vjp": lambda f, x: func.vjp(f, x)[1](torch.ones((), dtype=x.dtype))[0],
        "jvp": lambda f, x: func.jvp(f, (x,), (torch.ones_like(x),))[1],
        "jacrev": lambda f, x: func.jacrev(f)(x),
        "hessian": lambda f, x: func.hessian(f)(x),
        "vmap": lambda f, x: func.vmap(f)(torch.stack([x, 2 * x])),
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("name", transforms())
def test_transforms_of_torch_func_are_refused_in_words(name):
    x, memory = inputs(1, 5, 1, 2)
    x = {one: value.detach() for one, value in x.items()}
    memory = [w.detach() for w in memory]
    with pytest.raises(NotImplementedError, match="want backend='reference'"):
        transforms()[name](loss_of("k", x, memory, "chunked"), x["k"])
    got = transforms()[name](loss_of("k", x, memory, "reference"), x["k"])
    assert torch.isfinite(got).all()
    value = x["k"].clone().requires_grad_()
    if name in ("grad", "vjp", "jacrev"):
        (wanted,) = torch.autograd.grad(loss_of("k", x, memory, "chunked")(value), value)
        assert torch.allclose(got, wanted, rtol=0, atol=1e-10)


def test_batched_and_forward_gradients_are_refused_in_words():
    x, memory = inputs(1, 5, 1, 2)
    y, _ = memory_scan(**x, memory=memory, chunk=4, backend="chunked")
    many = torch.eye(3, dtype=y.dtype)[:, 0].view(3, 1, 1, 1, 1).expand(3, *y.shape)
    with pytest.raises(NotImplementedError, match="batched gradients, want one at a time"):
        torch.autograd.grad(y, x["k"], many, is_grads_batched=True)
    with forward_ad.dual_level():
        k = forward_ad.make_dual(x["k"].detach(), torch.ones_like(x["k"]))
        with pytest.raises(NotImplementedError, match="forward-mode differentiation, want backend='reference'"):
            memory_scan(**{**x, "k": k}, memory=memory, chunk=4, backend="chunked")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("max_norm", [None, 1.5])
def test_tensors_without_data_give_such(backend, max_norm):
    x, memory = inputs(2, 13, 2, 2)
    y, after = memory_scan(**x, memory=memory, chunk=4, backend=backend, max_norm=max_norm)
    options = dict(chunk=4, backend=backend, max_norm=max_norm)
    meta = memory_scan(
        **{name: one.to("meta") for name, one in x.items()}, memory=[w.to("meta") for w in memory], **options
    )
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(one.detach()).requires_grad_() for name, one in x.items()}
        faked = memory_scan(**fake, memory=[mode.from_tensor(w.detach()) for w in memory], **options)
        faked[0].sum().backward()
        assert all(one.grad is not None and one.grad.shape == one.shape for one in fake.values())
    for got, state in (meta, faked):
        assert (got.shape, got.dtype) == (y.shape, y.dtype)
        assert [w.shape for w in state.memory] == [w.shape for w in after.memory]


@pytest.mark.parametrize("gates", ["token", "chunk"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_whole_model_without_data(variant, gates):
    config = TitansConfig.preset("tiny", variant=variant, gates=gates)
    ids = torch.randint(12, (2, 150))
    want = TitansDNA(config)(ids)
    with torch.device("meta"):
        out = TitansDNA(config)(ids.to("meta"))
    assert out.logits.shape == want.logits.shape
    assert out.logits.is_meta
    with FakeTensorMode():
        model = TitansDNA(config)
        out = model(torch.zeros(2, 150, dtype=torch.int64))
        out = model(torch.zeros(2, 70, dtype=torch.int64), out.state)
    assert out.logits.shape == (2, 70, config.vocab_size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_titans_pytorch(backend):
    """Its store, all surprises taken at the weights before: one chunk of ours, with θ its rate over the width."""
    package = pytest.importorskip("titans_pytorch", reason="needs the extra bench")
    from titans_pytorch.memory_models import MemoryMLP

    torch.manual_seed(0)
    theirs = package.NeuralMemory(
        dim=12, heads=2, dim_head=6, chunk_size=1, model=MemoryMLP(6, depth=1), mem_model_norm_add_residual=False
    ).double()  # fmt: skip
    x, q = torch.randn(2, 9, 12, dtype=torch.float64), torch.randn(2, 9, 2, 6, dtype=torch.float64)
    with torch.no_grad():
        stored, _ = theirs.store_memories(x, return_surprises=False)
        seen = theirs.store_norm(x)
        k, v = (theirs.split_kv_heads(project(seen)).transpose(1, 2) for project in (theirs.to_keys, theirs.to_values))
        rate = theirs.adaptive_step_transform(theirs.to_adaptive_step(seen))
        decay, momentum = theirs.to_decay_factor(seen).sigmoid(), theirs.to_momentum(seen).sigmoid()
        alpha, eta, theta = (one.reshape(2, 2, 9).transpose(1, 2) for one in (decay, momentum, rate))
        (weights,) = (stored[name] for name in stored.keys())  # noqa: SIM118 (no mapping)
        (start,) = (one for name, one in theirs.memory_model_parameter_dict.items())
        got, _ = memory_scan(q, k, v, alpha=alpha, eta=eta, theta=theta / 6, memory=[start], chunk=9, backend=backend)
        wanted = torch.einsum("bthd,bhtde->bthe", q, weights[:, 1:].unflatten(0, (2, 2)))
    assert torch.allclose(got, wanted, rtol=0, atol=1e-14)
