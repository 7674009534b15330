"""Attention that streams: a sliding window, and MAC's segment, each with tokens that are always visible.

Everything is relative: rotary angles count from an origin near by, never from the start of the sequence, so a token at
sixteen million is treated with the same precision as the first. Keys of the prefix have no position at all: their
scores are taken with the query before it is rotated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.packing import Packing


class SlidingState(NamedTuple):
    """What a later call needs of the tokens before it.

    Keys and values of the last window - 1 tokens, not rotated, [b, s, h, d] (s is smaller near the start of the
    sequence), and those of the prefix, [b, p, h, d].
    """

    keys: Tensor
    values: Tensor
    prefix_keys: Tensor
    prefix_values: Tensor


class SlidingAttention(nn.Module):
    """Causal sliding-window attention with an always-visible prefix.

    Token i attends to the tokens j with i - window < j <= i and to every prefix token. Linear in t in time and memory;
    O(window) for a call of one token. `width` / `heads` must be even.
    """

    def __init__(self, width: int, heads: int, window: int, rope_base: float = 10000.0) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window: got {window}, want at least 1")
        self.window, self.rope_base = window, rope_base
        self.project = _Projections(width, heads)

    def forward(
        self, x: Tensor, state: SlidingState | None = None, prefix: Tensor | None = None
    ) -> tuple[Tensor, SlidingState]:
        """Attend from every token of `x` and return the state that continues the sequence.

        x: [b, t, width], t >= 1. state: what the call before returned; None starts a sequence.
        prefix: [b or 1, p, width], normalised like x; only at the start of a sequence, the state keeps it after that.
        Returns y [b, t, width] and the new state. Raises ValueError on a wrong shape, or a prefix given with a state.
        """
        self.project.check("x", x)
        if state is None:
            none = self.project.keys_values(x[:, :0])
            state = SlidingState(*none, *(none if prefix is None else self.project.prefix(prefix, len(x))))
        elif prefix is not None:
            raise ValueError(f"prefix: got {list(prefix.shape)} beside a state, want None: the state holds the prefix")
        if len(state.keys) != len(x) or state.keys.shape[1] >= self.window:
            raise ValueError(
                f"state: got {state.keys.shape[1]} tokens in {len(state.keys)} batch rows, "
                f"want at most {self.window - 1} (window {self.window}) in {len(x)}, as in x"
            )
        k, v = self.project.keys_values(x)
        keys, values = torch.cat([state.keys, k], dim=1), torch.cat([state.values, v], dim=1)
        y = self._attend(self.project.queries(x), keys, values, state)
        # The copies let go of the whole call's keys and values, of which slices would be views.
        kept = slice(max(0, keys.shape[1] - self.window + 1), None)
        return self.project.out(y), state._replace(keys=keys[:, kept].clone(), values=values[:, kept].clone())

    def packed(self, x: Tensor, prefix: Tensor, packing: Packing) -> Tensor:
        """x [1, t, width] → y [1, t, width], every sequence as if it were alone, in blocks of `window` tokens.

        prefix: [n or 1, p, width], of each sequence or of all. A block meets itself and the window before it.
        """
        blocks = packing.blocks(self.window)
        q, k, v = (blocks.fold(z) for z in (self.project.queries(x), *self.project.keys_values(x)))
        prefixes = [z.index_select(0, blocks.sequence) for z in self.project.prefix(prefix, len(packing))]
        past = [blocks.previous(z)[:, 1:] for z in (k, v)]
        n = blocks.counts[0]
        y = self._attend(q[:n], k[:n], v[:n], SlidingState(k[:n, :0], v[:n, :0], *(z[:n] for z in prefixes)))
        if len(q) > n:
            keys, values = (torch.cat([z, now[n:]], dim=1) for z, now in zip(past, (k, v), strict=True))
            y = torch.cat([y, self._attend(q[n:], keys, values, SlidingState(*past, *(z[n:] for z in prefixes)))])
        return self.project.out(blocks.unfold(y))

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, state: SlidingState) -> Tensor:
        """q [b, t, h, d] over keys [b, seen + t, h, d], in blocks of about `window` queries that all look alike.

        A block of c queries meets seen + c keys; positions count from the first of these, and rotate queries and keys.
        """
        t, window = q.shape[1], self.window
        seen, blocks = keys.shape[1] - t, max(1, t // window)
        if blocks > 1 and seen < window - 1:  # near the start the first block looks back less far than the others
            first = self._attend(q[:, :window], keys[:, : seen + window], values[:, : seen + window], state)
            rest = self._attend(q[:, window:], keys[:, seen + 1 :], values[:, seen + 1 :], state)
            return torch.cat([first, rest], dim=1)
        block = -(-t // blocks)
        past = (0, 0, 0, 0, 0, blocks * block - t)
        scores = torch.einsum("bthd,bphd->bthp", q, state.prefix_keys)
        q, scores = (F.pad(z, past).unflatten(1, (blocks, block)) for z in (q, scores))
        k, v = (F.pad(z, past).unfold(1, seen + block, block).movedim(-1, 2) for z in (keys, values))
        position = torch.arange(seen + block, device=q.device)
        age = position[seen:, None] - position
        y = _attend(
            apply_rope(q, position[seen:], self.rope_base),
            apply_rope(k, position, self.rope_base),
            v,
            (age >= 0) & (age < window),
            scores,
            state.prefix_values[:, None].expand(-1, blocks, -1, -1, -1),
        )
        return y.flatten(1, 2)[:, :t]


class SegmentState(NamedTuple):
    """Keys (rotated) and values of one segment so far, [b, s, 2, h, d]: of h_j and of x_j, for each token j."""

    keys: Tensor
    values: Tensor


class SegmentAttention(nn.Module):
    """Attention inside one segment of MAC, over [prefix, h, x] (arXiv 2501.00663, eqs. 22-23), queries from x only.

    h_j, what the memory returned for token j, is a function of token j, so token i sees h_j and x_j for j <= i, and all
    prefix tokens. h_j and x_j are both rotated by j, the position inside the segment. `width` / `heads` must be even.
    """

    def __init__(self, width: int, heads: int, segment: int, rope_base: float = 10000.0) -> None:
        super().__init__()
        if segment < 1:
            raise ValueError(f"segment: got {segment}, want at least 1")
        self.segment, self.rope_base = segment, rope_base
        self.project = _Projections(width, heads)

    def forward(
        self, x: Tensor, memory_tokens: Tensor, state: SegmentState | None = None, prefix: Tensor | None = None
    ) -> tuple[Tensor, SegmentState]:
        """Attend from tokens that all lie in one segment; the caller cuts at segment borders.

        x, memory_tokens: [b, t, width]. state: what the call before returned in this segment; None starts a segment.
        prefix: [b or 1, p, width], normalised like x, the same at every call.
        Returns y [b, t, width] and the state. Raises ValueError on a wrong shape or past the segment's end.
        """
        self.project.check("x", x)
        if memory_tokens.shape != x.shape:
            raise ValueError(f"memory_tokens: got shape {list(memory_tokens.shape)}, want {list(x.shape)} as x")
        if state is not None and len(state.keys) != len(x):
            raise ValueError(f"state: got {len(state.keys)} batch rows, want {len(x)} as in x")
        seen = 0 if state is None else state.keys.shape[1]
        end = seen + x.shape[1]
        if end > self.segment:
            raise ValueError(
                f"x: got {x.shape[1]} tokens after {seen} of the segment, want at most {self.segment} in all"
            )
        position = torch.arange(end, device=x.device)
        q = self.project.queries(x)
        keys, values = (
            torch.stack(pair, dim=2)
            for pair in zip(self.project.keys_values(memory_tokens), self.project.keys_values(x), strict=True)
        )
        keys = apply_rope(keys.flatten(2, 3), position[seen:], self.rope_base).unflatten(2, keys.shape[2:4])
        if state is not None:
            keys, values = torch.cat([state.keys, keys], dim=1), torch.cat([state.values, values], dim=1)
        prefix_keys, prefix_values = self.project.prefix(x[:1, :0] if prefix is None else prefix, len(x))
        y = _attend(
            apply_rope(q, position[seen:], self.rope_base),
            keys.flatten(1, 2),
            values.flatten(1, 2),
            position[seen:, None] >= position.repeat_interleave(2),
            torch.einsum("bthd,bphd->bthp", q, prefix_keys),
            prefix_values,
        )
        return self.project.out(y), SegmentState(keys, values)


def apply_rope(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate the pairs (x_0, x_1), (x_2, x_3), ... of each head by position * base^(-pair / pairs) (arXiv 2104.09864).

    x: [..., t, h, d], d even. positions: [t], any whole or real numbers. Returns [..., t, h, d] in x's dtype; products
    are taken in float32 (float64 for float64), angles in float64 where the device has it.
    """
    angle_dtype = torch.float32 if x.device.type == "mps" else torch.float64
    pairs = x.shape[-1] // 2
    frequency = base ** (-torch.arange(pairs, device=x.device, dtype=angle_dtype) / pairs)
    angle = positions.to(angle_dtype)[:, None, None] * frequency
    precise = torch.promote_types(x.dtype, torch.float32)
    turn = torch.polar(torch.ones_like(angle), angle).to(precise.to_complex())
    turned = torch.view_as_complex(x.to(precise).unflatten(-1, (pairs, 2))) * turn
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scores: Tensor, prefix_values: Tensor) -> Tensor:
    """One softmax over the prefix and the keys: [..., c, h, d] from q [..., c, h, d], k and v [..., s, h, d],
    visible [c, s], scores of the prefix [..., c, h, p] and its values [..., p, h, d].

    q and k are rotated and the prefix's scores are not, so the two cannot come from one product as they stand. The
    scores of the prefix ride along as p more features of the query, and the prefix's keys are one-hot vectors that each
    pick one out; then a single fused call does everything and no matrix of scores is stored. Features are added by
    eights, as GPU kernels want them, and to the values too, as the fused CPU kernel wants one width.
    """
    *batch, _, h, d = q.shape
    p = scores.shape[-1]
    more = -(-p // 8) * 8
    pick = F.pad(torch.eye(p, more, device=q.device, dtype=q.dtype), (d, 0))
    q = torch.cat([q, F.pad(scores, (0, more - p))], dim=-1)
    k = torch.cat([pick[:, None].expand(*batch, p, h, d + more), F.pad(k, (0, more))], dim=-3)
    v = F.pad(torch.cat([prefix_values, v], dim=-3), (0, more))
    q, k, v = (z.flatten(0, len(batch) - 1).transpose(1, 2) for z in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=F.pad(visible, (p, 0), value=True), scale=d**-0.5)
    return y.transpose(1, 2)[..., :d].unflatten(0, batch)


class _Projections(nn.Module):
    """Queries, keys and values in, heads out; no biases. Keys and values of every source share one projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width < 1 or width % (2 * heads):
            raise ValueError(f"heads: got {heads}, want an even head width out of width {width}")
        self.width, self.heads = width, heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def check(self, name: str, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[1] < 1 or x.shape[2] != self.width:
            raise ValueError(f"{name}: got shape {list(x.shape)}, want [b, t, {self.width}] with t at least 1")

    def queries(self, x: Tensor) -> Tensor:
        return self.query(x).unflatten(-1, (self.heads, -1))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.key_value(x).unflatten(-1, (2, self.heads, -1)).unbind(2)

    def prefix(self, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        if x.dim() != 3 or x.shape[0] not in (1, rows) or x.shape[2] != self.width:
            raise ValueError(f"prefix: got shape {list(x.shape)}, want [{rows} or 1, p, {self.width}]")
        k, v = self.keys_values(x)
        return k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)

    def out(self, y: Tensor) -> Tensor:
        return self.output(y.flatten(-2))
