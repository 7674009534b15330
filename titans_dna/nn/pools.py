"""From the vectors of bases to an answer: pools that read piece by piece, and the heads on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]


class Pooling(nn.Module):
    """A pool without weights of its own."""

    def __init__(self, width: int, precision: torch.dtype = torch.float32) -> None:
        """precision: of what is carried and given, at least; that of the hidden states where it is higher."""
        super().__init__()
        self.precision = precision

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """hidden [b, t, width]; widths: bases that each token adds, [b, t], 0 in the padding → [b, width] and state."""
        raise AssertionError("a pool defines forward")


class MeanPooling(Pooling):
    """The mean over the bases: a token counts as often as it adds bases."""

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        hidden = _precise(hidden, self.precision)
        total, bases = torch.einsum("btd,bt->bd", hidden, widths.to(hidden.dtype)), widths.sum(1).to(hidden.dtype)
        if state is not None:
            total, bases = total + state[0], bases + state[1]
        return total / bases.clamp(min=1)[:, None], (total, bases)


class MaxPooling(Pooling):
    """The largest value of each feature."""

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        most = _precise(hidden, self.precision).masked_fill(widths[..., None] == 0, -torch.inf).amax(1)
        if state is not None:
            most = torch.maximum(most, state[0])
        return most, (most,)


class MeanMaxPooling(Pooling):
    """Mean and largest value, side by side: [b, 2 width]."""

    def __init__(self, width: int, precision: torch.dtype = torch.float32) -> None:
        super().__init__(width, precision)
        self.each = MeanPooling(width, precision), MaxPooling(width, precision)

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`, but for the vector."""
        mean, sums = self.each[0](hidden, widths, None if state is None else state[:2])
        most, kept = self.each[1](hidden, widths, None if state is None else state[2:])
        return torch.cat([mean, most], dim=1), (*sums, *kept)


class LastPooling(Pooling):
    """The state after the last base: what the model knows once it has read everything."""

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        place = torch.arange(1, widths.shape[1] + 1, device=widths.device)
        last = ((widths > 0) * place).amax(1)  # 0 where all is padding
        each = torch.arange(len(hidden), device=hidden.device)
        found = _precise(hidden[each, (last - 1).clamp(min=0)], self.precision)
        if state is not None:
            found = torch.where(last[:, None] > 0, found, state[0])
        return found, (found,)


class AttentionPooling(nn.Module):
    """A weighted mean over the bases; the weights are learned, a softmax of one score for each part of the features.

    It starts as the mean. The softmax runs on over pieces: what is kept is its largest score, its sum and the weighted sum.
    """

    def __init__(self, width: int, parts: int = 4) -> None:
        super().__init__()
        self.parts = parts if width % parts == 0 else 1
        self.score = nn.Linear(width, self.parts, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`."""
        bases = widths[..., None].to(torch.promote_types(hidden.dtype, torch.float32))
        score = self.score(hidden).to(bases.dtype).masked_fill(bases == 0, -torch.inf)
        # A row may be all padding in this piece, and was not in an earlier one.
        most = score.detach().amax(1).clamp(min=torch.finfo(score.dtype).min)
        if state is not None:
            most = torch.maximum(most, state[0])
        weight = (score - most[:, None]).exp() * bases
        values = _precise(hidden).unflatten(-1, (self.parts, -1))
        total, norm = torch.einsum("btp,btpd->bpd", weight, values), weight.sum(1)
        if state is not None:
            faded = (state[0] - most).exp()
            total, norm = total + state[1] * faded[..., None], norm + state[2] * faded
        smallest = torch.finfo(norm.dtype).tiny
        return (total / norm.clamp(min=smallest)[..., None]).flatten(1), (most, total, norm)


class BinPooling(nn.Module):
    """The mean over each of some stretches of equal length, side by side, for signals that stand at a place of the sequence.

    Stretches are counted from the start; the last one also has all that comes after it.
    """

    def __init__(self, bins: int, stretch: int) -> None:
        """bins: number of stretches. stretch: bases of each."""
        super().__init__()
        self.bins, self.stretch = bins, stretch

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `Pooling.forward`, but for the vector, [b, bins * width]."""
        hidden = _precise(hidden)
        ends = widths.cumsum(1) if state is None else widths.cumsum(1) + state[2][:, None]
        place = ((ends - widths) // self.stretch).clamp(max=self.bins - 1)
        within = nn.functional.one_hot(place, self.bins).to(hidden.dtype) * widths[..., None]
        total, bases = torch.einsum("btd,btn->bnd", hidden, within), within.sum(1)
        if state is not None:
            total, bases = total + state[0], bases + state[1]
        return (total / bases.clamp(min=1)[..., None]).flatten(1), (total, bases, ends[:, -1])


PLAIN: dict[str, type[Pooling]] = {"mean": MeanPooling, "max": MaxPooling, "last": LastPooling}
"""Without learned weights."""
POOLINGS: dict[str, type[Pooling | AttentionPooling]] = {
    **PLAIN,
    "mean-max": MeanMaxPooling,
    "attention": AttentionPooling,
}
POOLS = (*POOLINGS, "bins")


class PooledHead(nn.Module):
    """One answer a sequence: pool, (linear, GELU,) dropout, linear."""

    def __init__(
        self,
        width: int,
        outputs: int,
        pool: str = "mean",
        dropout: float = 0.0,
        bins: int = 1,
        stretch: int = 1,
        hidden: int = 0,
    ) -> None:
        """bins, stretch: number of stretches of the pool "bins", and bases of each. hidden: width of the layer between, 0:
        none. Raises ValueError for an unknown pool."""
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool: got {pool!r}, want one of {', '.join(POOLS)}")
        self.pool = BinPooling(bins, stretch) if pool == "bins" else POOLINGS[pool](width)
        pooled = width * {"bins": bins, "mean-max": 2}.get(pool, 1)
        self.between = nn.Sequential(nn.Linear(pooled, hidden), nn.GELU()) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden or pooled, outputs)
        _start(self.output)

    def forward(self, hidden: Tensor, widths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """hidden [b, t, width], widths [b, t] → what all pieces so far say, [b, outputs], and the pool's state."""
        pooled, after = self.pool(hidden, widths, state)
        pooled = pooled.to(self.output.weight.dtype)
        return self.output(self.dropout(pooled if self.between is None else self.between(pooled))), after


class TokenHead(nn.Module):
    """One answer a token: dropout, linear."""

    def __init__(self, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, outputs)
        _start(self.output)

    def forward(self, hidden: Tensor) -> Tensor:
        """[b, t, width] → [b, t, outputs]"""
        return self.output(self.dropout(hidden))


def _start(linear: nn.Linear) -> None:
    """Near zero, so that the first loss is that of knowing nothing."""
    nn.init.normal_(linear.weight, std=0.1 * linear.in_features**-0.5)
    nn.init.zeros_(linear.bias)


def _precise(x: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    return x.to(torch.promote_types(x.dtype, precision))
