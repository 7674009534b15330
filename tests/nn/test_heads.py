"""Pools and heads: against sums by hand, in pieces, beside padding."""

import pytest
import torch

from titans_dna.nn.pools import PLAIN, POOLINGS, POOLS, BinPooling, PooledHead

WIDTH = 8


def by_hand(pool, hidden, widths):
    """One row, [t, width] and [t], token by token."""
    bases = [(h, int(w)) for h, w in zip(hidden, widths, strict=True) if w]
    each = torch.stack([h for h, w in bases for _ in range(w)])
    if isinstance(pool, POOLINGS["mean-max"]):
        return torch.cat([each.mean(0), each.amax(0)])
    if isinstance(pool, POOLINGS["mean"]):
        return each.mean(0)
    if isinstance(pool, POOLINGS["max"]):
        return each.amax(0)
    if isinstance(pool, BinPooling):
        bins = torch.zeros(pool.bins, WIDTH, dtype=hidden.dtype)
        place = torch.cat([torch.zeros(1, dtype=torch.long), widths.cumsum(0)[:-1]]) // pool.stretch
        for number in range(pool.bins):
            mine = [h for (h, w), p in zip(zip(hidden, widths, strict=True), place, strict=True)
                    for _ in range(int(w)) if min(int(p), pool.bins - 1) == number]  # fmt: skip
            if mine:
                bins[number] = torch.stack(mine).mean(0)
        return bins.flatten()
    if isinstance(pool, POOLINGS["last"]):
        return each[-1]
    weight = pool.score(each).softmax(0)  # [bases, parts]
    return (weight[..., None] * each.unflatten(-1, (pool.parts, -1))).sum(0).flatten()


def make(name, seed=0):
    torch.manual_seed(seed)
    pool = (BinPooling(16, 1) if name == "bins" else POOLINGS[name](WIDTH)).double()
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter)
    lengths = [22, 1, 4]
    widths = torch.zeros(3, 22, dtype=torch.long)
    for row, length in enumerate(lengths):
        widths[row, :length] = torch.randint(1, 4, (length,))
    return pool, torch.randn(3, 22, WIDTH, dtype=torch.float64), widths


@pytest.mark.parametrize("name", POOLS)
def test_pool_is_what_it_says_and_padding_is_nothing(name):
    pool, hidden, widths = make(name)
    hidden[widths == 0] = 1e6
    found, _ = pool(hidden, widths)
    for row in range(3):
        torch.testing.assert_close(found[row], by_hand(pool, hidden[row], widths[row]))


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("cuts", [[1], [3, 4], [1, 2, 3, 4, 5, 6]])
def test_pool_in_pieces_is_the_pool_of_all(name, cuts):
    pool, hidden, widths = make(name)
    hidden.requires_grad_()
    whole, _ = pool(hidden, widths)
    target = torch.randn_like(whole)
    (wanted,) = torch.autograd.grad((whole * target).sum(), hidden)
    state = None
    for start, stop in zip([0, *cuts], [*cuts, 22], strict=True):
        found, state = pool(hidden[:, start:stop], widths[:, start:stop], state)
    torch.testing.assert_close(found, whole)
    (got,) = torch.autograd.grad((found * target).sum(), hidden)
    torch.testing.assert_close(got, wanted)


def test_attention_starts_as_the_mean():
    _, hidden, widths = make("mean")
    mean, _ = POOLINGS["mean"](WIDTH)(hidden, widths)
    attention, _ = POOLINGS["attention"](WIDTH).double()(hidden, widths)
    torch.testing.assert_close(attention, mean)


@pytest.mark.parametrize("name", PLAIN)
def test_a_pool_is_as_precise_as_it_is_told(name):
    """Of float32 in a thousand pieces: sums in float64 are those of float64."""
    _, hidden, widths = make(name)
    hidden, states = hidden.float(), dict.fromkeys((torch.float32, torch.float64))
    for dtype in states:
        for _ in range(1000):
            found, states[dtype] = PLAIN[name](WIDTH, dtype)(hidden[:1], widths[:1], states[dtype])
        assert found.dtype == dtype
    exact, _ = PLAIN[name](WIDTH)(hidden[:1].double(), widths[:1])
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=1e-13)


def test_unknown_pool_is_named():
    with pytest.raises(ValueError, match="pool: got 'median', want one of mean, max, last, mean-max, attention, bins"):
        PooledHead(WIDTH, 2, "median")
