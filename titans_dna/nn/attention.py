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

from titans_dna.nn.packing import Packing


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


class SegmentInputs(NamedTuple):
    """What attention needs of tokens before the memory is asked about them; d more features for the prefix."""

    queries: Tensor
    """[b, t, h, d + more]: rotated, then the scores of the prefix."""
    keys: Tensor
    values: Tensor
    """[b, t, h, d] of x, the keys rotated."""
    turn: Tensor
    """[t, 1, d / 2]: the rotation of each place in its segment."""


class SegmentPrefix(NamedTuple):
    """The prefix, the same for every segment."""

    keys: Tensor
    values: Tensor
    """[b, p, h, d + more]: one-hot vectors that pick a score out of a query's features; and its values."""
    visible: Tensor
    """[segment, p + 2 segment]: 0 where a token sees the prefix, h_j or x_j, else -inf."""


class SegmentAttention(nn.Module):
    """Attention inside the segments of MAC, over [prefix, h, x] (arXiv 2501.00663, eqs. 22-23), queries from x only.

    h_j, what the memory returned for token j, is a function of token j, so token i sees h_j and x_j for j <= i, and all
    prefix tokens. h_j and x_j are both rotated by j, the position inside the segment. `width` / `heads` must be even.

    h of a segment is known once the segment before has been read, all else at once: `prepare` does that for many segments,
    `attend` a piece that lies in one. `forward` is both for such a piece.
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
        if seen + x.shape[1] > self.segment:
            raise ValueError(
                f"x: got {x.shape[1]} tokens after {seen} of the segment, want at most {self.segment} in all"
            )
        inputs, shared = self.prepare(x, seen, prefix)
        return self.attend(inputs, shared, memory_tokens, state)

    def prepare(self, x: Tensor, seen: int, prefix: Tensor | None = None) -> tuple[SegmentInputs, SegmentPrefix]:
        """x [b, t, width], of any number of segments, the first token at place `seen` of its own."""
        prefix_keys, prefix_values = self.project.prefix(x[:1, :0] if prefix is None else prefix, len(x))
        position = (torch.arange(x.shape[1], device=x.device) + seen) % self.segment
        q, (k, v) = self.project.queries(x), self.project.keys_values(x)
        turn = rotation(position, q.shape[-1], self.rope_base)
        p = prefix_keys.shape[1]
        more = _further(p)
        scores = torch.einsum("bthd,bphd->bthp", q, prefix_keys)
        queries = torch.cat([rotate(q, turn), F.pad(scores, (0, more - p))], dim=-1)
        place = torch.arange(self.segment, device=x.device)
        hidden = F.pad(place[:, None] < place.repeat_interleave(2), (p, 0), value=False)
        visible = torch.zeros(hidden.shape, dtype=q.dtype, device=x.device).masked_fill_(hidden, -torch.inf)
        shared = SegmentPrefix(_picks(prefix_keys, more), F.pad(prefix_values, (0, more)), visible)
        return SegmentInputs(queries, rotate(k, turn), v, turn), shared

    def attend(
        self, inputs: SegmentInputs, shared: SegmentPrefix, memory_tokens: Tensor, state: SegmentState | None
    ) -> tuple[Tensor, SegmentState]:
        """Tokens of one segment, with what the memory returned for them, [b, t, width] → y [b, t, width] and the state."""
        more, d = inputs.queries.shape[-1] - inputs.keys.shape[-1], inputs.keys.shape[-1]
        recalled, values = self.project.keys_values(memory_tokens)
        keys = torch.stack([rotate(recalled, inputs.turn), inputs.keys], dim=2)
        values = torch.stack([values, inputs.values], dim=2)
        if state is not None:
            keys, values = torch.cat([state.keys, keys], dim=1), torch.cat([state.values, values], dim=1)
        end, p = keys.shape[1], shared.keys.shape[1]
        k, v = (
            torch.cat([fixed, F.pad(z.flatten(1, 2), (0, more))], dim=1).transpose(1, 2)
            for fixed, z in ((shared.keys, keys), (shared.values, values))
        )
        visible = shared.visible[end - inputs.queries.shape[1] : end, : p + 2 * end].to(k.dtype)
        q = inputs.queries.transpose(1, 2).to(k.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=d**-0.5)
        return self.project.out(y.transpose(1, 2)[..., :d]), SegmentState(keys, values)


def apply_rope(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate the pairs (x_0, x_1), (x_2, x_3), ... of each head by position * base^(-pair / pairs) (arXiv 2104.09864).

    x: [..., t, h, d], d even. positions: [t], any whole or real numbers. Returns [..., t, h, d] in x's dtype; products
    are taken in float32 (float64 for float64), angles in float64 where the device has it.
    """
    return rotate(x, rotation(positions, x.shape[-1], base))


def rotation(positions: Tensor, d: int, base: float) -> Tensor:
    """The rotations of `apply_rope` for heads of width d: complex numbers of modulus 1, [t, 1, d / 2]."""
    angle_dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    pairs = d // 2
    frequency = base ** (-torch.arange(pairs, device=positions.device, dtype=angle_dtype) / pairs)
    angle = positions.to(angle_dtype)[:, None, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """x [..., t, h, d] by what `rotation` gives, in x's dtype."""
    precise = torch.promote_types(x.dtype, torch.float32)
    turned = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2))) * turn.to(precise.to_complex())
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scores: Tensor, prefix_values: Tensor) -> Tensor:
    """One softmax over the prefix and the keys: [..., c, h, d] from q [..., c, h, d], k and v [..., s, h, d],
    visible [c, s], scores of the prefix [..., c, h, p] and its values [..., p, h, d].

    q and k are rotated and the prefix's scores are not, so the two cannot come from one product as they stand. The
    scores of the prefix ride along as p more features of the query, and the prefix's keys are one-hot vectors that each
    pick one out; then a single fused call does everything and no matrix of scores is stored. Features are added by
    eights, as GPU kernels want them, and to the values too, as the fused CPU kernel wants one width.
    """
    *batch, _, _, d = q.shape
    p = scores.shape[-1]
    more = _further(p)
    q = torch.cat([q, F.pad(scores, (0, more - p))], dim=-1)
    k = torch.cat([_picks(prefix_values, more), F.pad(k, (0, more))], dim=-3)
    v = F.pad(torch.cat([prefix_values, v], dim=-3), (0, more))
    q, k, v = (z.flatten(0, len(batch) - 1).transpose(1, 2) for z in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=F.pad(visible, (p, 0), value=True), scale=d**-0.5)
    return y.transpose(1, 2)[..., :d].unflatten(0, batch)


def _further(prefix: int) -> int:
    """Features that the scores of a prefix take."""
    return -(-prefix // 8) * 8


def _picks(prefix: Tensor, more: int) -> Tensor:
    """For a prefix [..., p, h, d], keys [..., p, h, d + more]: one-hot vectors that each pick a score out."""
    p, _, d = prefix.shape[-3:]
    pick = F.pad(torch.eye(p, more, device=prefix.device, dtype=prefix.dtype), (d, 0))
    return pick[:, None].expand(*prefix.shape[:-1], d + more)


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
