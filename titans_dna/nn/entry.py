"""What stands beside the blocks: a convolutional stem, and what the last k bases say, learned or counted, into the blocks and
around them.

The look-ups are of whole numbers: exact at any cut, none at a start or behind what is no base.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import MIXED, TitansConfig, table_rows
from titans_dna.nn.counts import Counts, leave_out
from titans_dna.nn.layers import CausalConv
from titans_dna.nn.packing import Packing
from titans_dna.tokens.vocabulary import BASE

NO_BASE = 4
WITHOUT = 0.1
"""Share of the rows in training that learn without counts, so that the model is of use without their file too."""
_FACTOR = 0x2545F4914F6CDD1D
"""An odd number whose multiples scatter (a product of it with a code, upper bits first, is its place in a small table)."""


class EntryState(NamedTuple):
    """The stem's last inputs, and the last letters."""

    convolution: Tensor | None
    letters: Tensor
    """uint8 [b, longest k - 1]: A 0, C 1, G 2, T 3, what is no base, or stands before the start, 4."""


class Looked(NamedTuple):
    """What was looked up for ids [b, t]."""

    letters: Tensor
    """Those before them, and theirs: int64 [b, reach + t]."""
    counted: Tensor | None
    """What `CountFeatures` makes of the counts, [b, t, orders, 5]; None where the model has no counts."""
    packing: Packing | None


class Entry(nn.Module):
    """From ids and their embedding to what the first block takes: x + Σ look-ups, then x + convolution."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.reach = max(*config.kmers, *config.counts, 1, 1) - 1
        self.orders = config.counts
        self.tables = nn.ModuleList(KmerTable(k, config.kmer_slots, config.kmer_width) for k in config.kmers)
        self.up = nn.Linear(config.kmer_width * len(self.tables), config.width, bias=False) if self.tables else None
        self.counted = CountFeatures(len(self.orders)) if self.orders else None
        self.counted_up = nn.Linear(5 * len(self.orders), config.width, bias=False) if self.orders else None
        self.stem = CausalConv(config.width, config.stem) if config.stem else None
        self.counts: Counts | None = None
        """What `config.counts` asks; without it nothing was ever seen."""

    def initialise(self) -> None:
        """Vectors that are small beside the embedding's."""
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02)

    def look(
        self, ids: Tensor, state: EntryState | None, packing: Packing | None = None, own: Tensor | None = None
    ) -> Looked:
        """own [b, t]: the id that follows each and was counted, which is left out."""
        letters = letters_of(ids)
        before = letters.new_full((len(ids), self.reach), NO_BASE) if state is None else state.letters
        if before.shape != (len(ids), self.reach):
            raise ValueError(f"state: got letters {list(before.shape)}, want {[len(ids), self.reach]}")
        letters = torch.cat([before.to(ids.device, torch.int64), letters], dim=1)
        if self.counted is None:
            return Looked(letters, None, packing)
        counts = ids.new_zeros(*ids.shape, len(self.orders), 4)
        if self.counts is not None:
            self.counts = self.counts.to(ids.device)
            counts = self.counts.look(letters, self.orders, ids.shape[1], None if packing is None else packing.place)
            counts = counts if own is None else leave_out(counts, letters_of(own))
            if self.training and own is not None:
                kept = torch.rand(len(ids), device=ids.device) >= WITHOUT
                counts = counts * kept[:, None, None, None]
        return Looked(letters, self.counted(counts), packing)

    def forward(self, looked: Looked, x: Tensor, state: EntryState | None) -> tuple[Tensor, EntryState]:
        """x [b, t, width], the embedding → [b, t, width] and the state after it."""
        letters, counted, packing = looked
        if self.up is not None:
            found = [table(letters, x.shape[1], packing) for table in self.tables]
            x = x + self.up(torch.cat(found, dim=-1).to(x.dtype))
        if self.counted_up is not None and counted is not None:
            x = x + self.counted_up(counted.flatten(-2).to(x.dtype))
        last = letters[:, letters.shape[1] - self.reach :].to(torch.uint8)
        if self.stem is None:
            return x, EntryState(None, last)
        if packing is not None:
            return x + self.stem.packed(x, packing), EntryState(None, last)
        y, convolution = self.stem(x, None if state is None else state.convolution)
        return x + y, EntryState(convolution, last)


class KmerHead(nn.Module):
    """Votes for A, C, G and T: learned ones of k-mers, gated by the hidden state, and counted ones, gated by it and by all
    counts."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.tables = nn.ModuleList(KmerTable(k, config.kmer_slots, 4) for k in config.kmers)
        self.gate = nn.Linear(config.width, len(self.tables)) if self.tables else None
        orders = len(config.counts)
        self.mix = nn.Linear(config.width + 5 * orders, MIXED) if orders else None
        self.mixed = nn.Linear(MIXED, orders) if orders else None

    def initialise(self) -> None:
        """No learned vote, and every gate of them half open, at 1; those of counted ones nearly closed."""
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.zeros_(table.weight)
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        if self.mixed is not None:
            nn.init.zeros_(self.mixed.weight)
            nn.init.constant_(self.mixed.bias, -3.0)

    def forward(self, hidden: Tensor, looked: Looked) -> Tensor:
        """hidden [b, n, width] of the last n of those looked up → logits [b, n, 4]."""
        n = hidden.shape[1]
        total = hidden.new_zeros(*hidden.shape[:2], 4)
        if self.gate is not None:
            gates = 2 * torch.sigmoid(self.gate(hidden))
            for table, gate in zip(self.tables, gates.unbind(-1), strict=True):
                total = total + gate[..., None] * table(looked.letters, n, looked.packing).to(hidden.dtype)
        if self.mix is not None and self.mixed is not None and looked.counted is not None:
            counted = looked.counted[:, -n:].to(hidden.dtype)
            gates = self.mixed(F.silu(self.mix(torch.cat([hidden, counted.flatten(-2)], dim=-1))))
            gates = 2 * torch.sigmoid(gates)
            total = total + torch.einsum("bto,btoi->bti", gates, counted[..., :4])
        return total


class CountFeatures(nn.Module):
    """Counts int64 [b, t, orders, 4] → [b, t, orders, 5]: the logarithm of each base's share over 1/4, and of how many were
    seen; all 0 where nothing was. What is added to each count is learned."""

    def __init__(self, orders: int) -> None:
        super().__init__()
        self.log_prior = nn.Parameter(torch.full((orders,), math.log(1 / 8)))

    def forward(self, counts: Tensor) -> Tensor:
        prior = self.log_prior.to(torch.promote_types(self.log_prior.dtype, torch.float32)).exp()[:, None]
        counted = counts.to(prior.dtype)
        total = counted.sum(-1, keepdim=True)
        share = ((counted + prior) / (total + 4 * prior)).log() + math.log(4)
        return torch.cat([share, torch.log2(1 + total) / 8], dim=-1)


class KmerTable(nn.Module):
    """A learned vector for each k-mer, or for each of `slots` rows that longer ones share by a hash; one for none."""

    def __init__(self, k: int, slots: int, width: int) -> None:
        super().__init__()
        self.k, self.rows = k, table_rows(k, slots)
        # Sparse: a step changes the rows that it met, and costs what these cost.
        self.vectors = nn.Embedding(self.rows + 1, width, sparse=True)

    def forward(self, letters: Tensor, count: int, packing: Packing | None = None) -> Tensor:
        """letters [b, at least count + k - 1] → [b, count, width]: of the k letters that end at each of the last `count`."""
        return self.vectors(self.places(letters, count, packing))

    def places(self, letters: Tensor, count: int, packing: Packing | None = None) -> Tensor:
        """The row of each, [b, count]; the last one where fewer than k bases stand there."""
        codes, known = kmer_codes(letters, self.k, count)
        if self.rows < 4**self.k:
            codes = (codes * _FACTOR >> 16) & (self.rows - 1)
        if packing is not None:
            known = known & (packing.place[:, -count:] >= self.k - 1)
        return torch.where(known, codes, self.rows)


def kmer_codes(letters: Tensor, k: int, count: int) -> tuple[Tensor, Tensor]:
    """letters [b, at least count + k - 1] → of the k letters that end at each of the last `count`: their code in base 4, the
    oldest first, int64 [b, count], anything where one is no base; and whether all are bases, bool [b, count]."""
    code, known = torch.zeros_like(letters[:, :count]), torch.ones_like(letters[:, :count], dtype=torch.bool)
    for start in range(letters.shape[1] - count - k + 1, letters.shape[1] - count + 1):
        column = letters[:, start : start + count]
        code, known = (code << 2) | (column & 3), known & (column < NO_BASE)
    return code, known


def letters_of(ids: Tensor) -> Tensor:
    """A 0, C 1, G 2, T 3, all else `NO_BASE`; int64."""
    return torch.where((ids >= BASE) & (ids < BASE + NO_BASE), ids.long() - BASE, NO_BASE)
