"""Full backpropagation through windows that do not fit: the window in pieces, each run again when its turn comes.

The model reads piece by piece with its state carried, without a graph, and of each piece the state at its start is all that is
kept. The backward goes over the pieces from the last to the first, runs each forward once more with a graph, and hands the
gradient of its state to the piece before. So memory is that of one piece and a state for each border; the gradient is that of
the whole window. (`torch.utils.checkpoint` around each piece does the same, but its memory grew with every base when it was
tried.)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from titans_dna.nn.model import map_state, tensors_of
from titans_dna.train.loss import LossSums
from titans_kernels.support import check_first_order

Loss = Callable[[Tensor, slice], LossSums]
"""(logits [b, p, vocabulary], the tokens of the window that they stand at) → sums over these tokens."""


def piecewise_loss(
    model: nn.Module, ids: Tensor, loss: Loss, piece: int, state: Any = None, own: Tensor | None = None
) -> tuple[LossSums, Any]:
    """Loss sums of a window and the state after it, as from one call of the model, read `piece` tokens at a time.

    model: `model(ids, state)` → `.logits`, `.state`. ids [b, t]: the inputs, t at least 1.
    loss: called for each piece; the sums are added up. Of them `weighted` alone carries a gradient, and the state does.
    piece: tokens a piece. With a gradient the model runs each piece forward twice and backward once.
    state: what the window goes on from; a gradient flows into its tensors where they want one. own [b, t]: as the model takes
        it, where it takes it.

    Raises ValueError for a piece below 1.
    """
    if piece < 1:
        raise ValueError(f"piece: got {piece}, want at least 1")
    pieces = [slice(start, min(start + piece, ids.shape[1])) for start in range(0, ids.shape[1], piece)]
    parameters = [one for one in model.parameters() if one.requires_grad]
    window = _Window(model, ids, loss, pieces, state, parameters, [], own)
    weighted, *after = _Piecewise.apply(window, *parameters, *tensors_of(state))
    sums, state = window.result[0]
    given = iter(after)
    return sums._replace(weighted=weighted), map_state(lambda x: next(given), state)


class _Window(NamedTuple):
    """A window on its way through `_Piecewise`."""

    model: nn.Module
    ids: Tensor
    loss: Loss
    pieces: list[slice]
    state: Any
    parameters: list[nn.Parameter]
    result: list[tuple[LossSums, Any]]
    """Filled by the forward: the sums and the state after the window."""
    own: Tensor | None

    def run(self, piece: slice, state: Any) -> tuple[LossSums, Any]:
        more = {} if self.own is None else {"own": self.own[:, piece]}
        out = self.model(self.ids[:, piece], state, **more)
        return self.loss(out.logits, piece), out.state


class _Piecewise(torch.autograd.Function):
    """(window, parameters, tensors of the state) → the weighted loss, and the tensors of the state after the window."""

    @staticmethod
    def forward(ctx: Any, window: _Window, *tensors: Tensor) -> tuple[Tensor, ...]:
        total, state, starts, store = None, window.state, [], _Store(len(window.pieces))
        for number, piece in enumerate(window.pieces):
            starts.append((state, _Surroundings(window.ids)))
            sums, state = window.run(piece, state)
            state = store.keep(state, number)
            total = sums if total is None else total.plus(sums)
        assert total is not None
        ctx.window, ctx.starts = window, starts
        window.result.append((total, state))
        # Copies: an output may not be an input, as the keys of a prefix are in every state.
        return total.weighted, *(x.clone() for x in tensors_of(state))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_first_order(*grads)
        window: _Window = ctx.window
        d_loss, d_state = grads[0], list(grads[1:])
        total: list[Tensor | None] = [None] * len(window.parameters)
        for piece, (before, surroundings) in zip(reversed(window.pieces), reversed(ctx.starts), strict=True):
            with torch.enable_grad(), surroundings.again():
                leaves = map_state(lambda x: x.detach().requires_grad_(), before)
                sums, after = window.run(piece, leaves)
            pairs = zip([sums.weighted, *tensors_of(after)], [d_loss, *d_state], strict=True)
            outputs, d_outputs = zip(*((x, d) for x, d in pairs if x.requires_grad and d is not None), strict=True)
            inputs = [*window.parameters, *tensors_of(leaves)]
            found = torch.autograd.grad(outputs, inputs, d_outputs, allow_unused=True)
            for i, gradient in enumerate(found[: len(total)]):
                mine = total[i]
                if gradient is not None:
                    total[i] = gradient.clone() if mine is None else mine.add_(gradient)
            d_state = list(found[len(total) :])
        return None, *total, *d_state


class _Store:
    """States side by side in one tensor, each on a row.

    Kept where they were made, between a piece's large tensors, they leave the C heap in shreds: ten times their size.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._store: Tensor | None = None

    def keep(self, state: Any, row: int) -> Any:
        """The same state, in this row; where it has another size than the first, as near a sequence's start, in a tensor of
        its own."""
        parts = tensors_of(state)
        if not parts:
            return state
        sizes = [-(-x.numel() * x.element_size() // 16) * 16 for x in parts]
        if self._store is None:
            self._store = torch.empty(self._rows, sum(sizes), dtype=torch.uint8, device=parts[0].device)
        alike = self._store.shape[1] == sum(sizes)
        room = self._store[row] if alike else self._store.new_empty(sum(sizes))
        places = iter(zip(room.split(sizes), parts, strict=True))

        def put(x: Tensor) -> Tensor:
            place, _ = next(places)
            return place[: x.numel() * x.element_size()].view(x.dtype).view(x.shape).copy_(x)

        return map_state(put, state)


class _Surroundings:
    """What a piece ran in: autocast, and the random state that dropout drew from."""

    def __init__(self, ids: Tensor) -> None:
        self.kind = ids.device.type
        self.autocast = torch.is_autocast_enabled(self.kind), torch.get_autocast_dtype(self.kind)
        self.random = torch.get_rng_state()
        self.devices, self.device_states = get_device_states(ids)

    @contextmanager
    def again(self) -> Any:
        """As it was, while it lasts."""
        enabled, dtype = self.autocast
        fork: AbstractContextManager[Any] = torch.random.fork_rng(self.devices)
        with fork, torch.autocast(self.kind, dtype=dtype, enabled=enabled):
            torch.set_rng_state(self.random)
            set_device_states(self.devices, self.device_states)
            yield
