"""What stands beside the blocks: a convolutional stem, and learned look-ups of the last k bases, into the blocks and around
them.

The look-ups are of whole numbers: exact at any cut, none at a start or behind what is no base.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_dna.config import TitansConfig, table_rows
from titans_dna.nn.layers import CausalConv
from titans_dna.nn.packing import Packing
from titans_dna.tokens.vocabulary import BASE

NO_BASE = 4
_FACTOR = 0x2545F4914F6CDD1D
"""An odd number whose multiples scatter (a product of it with a code, upper bits first, is its place in a small table)."""


class EntryState(NamedTuple):
    """The stem's last inputs, and the last letters."""

    convolution: Tensor | None
    letters: Tensor
    """uint8 [b, longest k - 1]: A 0, C 1, G 2, T 3, what is no base, or stands before the start, 4."""


class Entry(nn.Module):
    """From ids and their embedding to what the first block takes: x + Σ look-ups, then x + convolution."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.recent = Recent(config)
        self.tables = nn.ModuleList(KmerTable(k, config.kmer_slots, config.kmer_width) for k in config.kmers)
        self.up = nn.Linear(config.kmer_width * len(self.tables), config.width, bias=False) if self.tables else None
        self.stem = CausalConv(config.width, config.stem) if config.stem else None

    def initialise(self) -> None:
        """Vectors that are small beside the embedding's."""
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02)

    def forward(
        self, ids: Tensor, x: Tensor, state: EntryState | None, packing: Packing | None = None
    ) -> tuple[Tensor, EntryState]:
        """ids [b, t] and their embedding x [b, t, width] → [b, t, width] and the state after them."""
        letters, last = self.recent(ids, None if state is None else state.letters)
        if self.up is not None:
            found = [table(letters, ids.shape[1], packing) for table in self.tables]
            x = x + self.up(torch.cat(found, dim=-1).to(x.dtype))
        convolution = None
        if self.stem is None:
            return x, EntryState(None, last)
        if packing is not None:
            return x + self.stem.packed(x, packing), EntryState(None, last)
        y, convolution = self.stem(x, None if state is None else state.convolution)
        return x + y, EntryState(convolution, last)


class KmerHead(nn.Module):
    """Look-ups that go to the logits of A, C, G and T, each gated by the hidden state."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.recent = Recent(config)
        self.tables = nn.ModuleList(KmerTable(k, config.kmer_slots, 4) for k in config.kmers)
        self.gate = nn.Linear(config.width, len(self.tables))

    def initialise(self) -> None:
        """No vote, and every gate half open, at 1."""
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.zeros_(table.weight)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, hidden: Tensor, ids: Tensor, state: EntryState | None, packing: Packing | None = None) -> Tensor:
        """hidden [b, n, width] of the last n of ids [b, t]; state: before them → logits [b, n, 4]."""
        letters, _ = self.recent(ids, None if state is None else state.letters)
        n = hidden.shape[1]
        gates = 2 * torch.sigmoid(self.gate(hidden))
        total = hidden.new_zeros(*hidden.shape[:2], 4)
        for table, gate in zip(self.tables, gates.unbind(-1), strict=True):
            total = total + gate[..., None] * table(letters, n, packing).to(hidden.dtype)
        return total


class Recent(nn.Module):
    """The letters of ids, behind the last ones before them."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.reach = max(config.kmers, default=1) - 1

    def forward(self, ids: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """ids [b, t] → letters int64 [b, reach + t], and the last `reach` of them, uint8."""
        letters = torch.where((ids >= BASE) & (ids < BASE + NO_BASE), ids.long() - BASE, NO_BASE)
        if before is None:
            before = letters.new_full((len(ids), self.reach), NO_BASE)
        if before.shape != (len(ids), self.reach):
            raise ValueError(f"state: got letters {list(before.shape)}, want {[len(ids), self.reach]}")
        letters = torch.cat([before.to(ids.device, torch.int64), letters], dim=1)
        return letters, letters[:, letters.shape[1] - self.reach :].to(torch.uint8)


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
            known = known & packing.from_place(self.k - 1)[:, -count:]
        return torch.where(known, codes, self.rows)


def kmer_codes(letters: Tensor, k: int, count: int) -> tuple[Tensor, Tensor]:
    """letters [b, at least count + k - 1] → of the k letters that end at each of the last `count`: their code in base 4, the
    oldest first, int64 [b, count], anything where one is no base; and whether all are bases, bool [b, count]."""
    letters = letters[:, letters.shape[1] - count - k + 1 :]
    power, size, taken = letters & 3, 1, 0  # power[:, j]: of the `size` letters from j on
    code = torch.zeros_like(letters[:, :count])
    while True:
        if k & size:
            code = (code << 2 * size) | power[:, taken : taken + count]
            taken += size
        if taken == k:
            break
        power = (power[:, :-size] << 2 * size) | power[:, size:]
        size *= 2
    bad = F.pad((letters >= NO_BASE).cumsum(1), (1, 0))
    return code, bad[:, k:] == bad[:, :-k]
