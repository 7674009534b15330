"""Markov models of DNA: the yardstick that a language model must beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from titans_dna.tokens import vocabulary as voc
from titans_dna.tokens.kmers import kmer_codes

MAX_ORDER = 12
BLOCK = 1 << 22
"""Bases worked on at once; bounds the memory beside the counts."""


class MarkovRow(NamedTuple):
    """One line of `markov_table`."""

    order: int
    bits_per_base: float


class MarkovModel:
    """The next base given the `order` bases before it: (count + 1/2) / (count of the context + 2).

    Both strands are counted; case is ignored, U is T, and no context holds another letter or crosses the border of a
    sequence. Where fewer than `order` bases stand to the left, the longest context there is serves. Counts take 4 bytes
    for each of 4^(order + 1) words, and a third more for the shorter contexts: 0.4 GB at order 12, the highest.
    """

    def __init__(self, order: int) -> None:
        if type(order) is not int or not 0 <= order <= MAX_ORDER:
            raise ValueError(f"order: got {order!r}, want an integer from 0 to {MAX_ORDER}")
        self.order = order
        # Words of j + 1 bases on the strand given, [4^(j + 1)]; the other strand is counted by looking them up there.
        self._counts: list[np.ndarray] = []

    def fit(self, sequences: Iterable[bytes | str]) -> MarkovModel:
        """Count the sequences, in place of any counted before; returns itself.

        Raises ValueError where they hold no A, C, G or T.
        """
        self._counts = [np.zeros(4 ** (j + 1), dtype=_count_type(j)) for j in range(self.order + 1)]
        for digits, counted in _blocks(sequences, self.order, skip=0):
            left = np.where(counted, _left_bases(digits, self.order), -1)
            words = _words(digits, self.order)
            # Each base with its longest context only; the sum over the leftmost base then gives the shorter ones.
            for j, counts in enumerate(self._counts):
                found, times = np.unique(words[left == j] & 4 ** (j + 1) - 1, return_counts=True)
                counts[found] += times.astype(counts.dtype)
        for j in range(self.order, 0, -1):
            self._counts[j - 1] += self._counts[j].reshape(4, -1).sum(axis=0, dtype=_count_type(j - 1))
        if not self._counts[0].any():
            raise ValueError("sequences: got no A, C, G or T, want DNA to count")
        return self

    def bits(self, sequences: Iterable[bytes | str]) -> tuple[float, int]:
        """Total bits and the number of bases they are for, on the targets of a language model.

        Each sequence is a window of t + 1 letters, of which letters 1 to t are scored where they are A, C, G or T.
        """
        totals, bases = self.bits_by_order(sequences)
        return float(totals[-1]), bases

    def bits_by_order(self, sequences: Iterable[bytes | str]) -> tuple[np.ndarray, int]:
        """As `bits`, for every order from 0 to `order` in one pass: float64 [order + 1], and the number of bases."""
        if not self._counts:
            raise ValueError("model: got one without counts, want fit called first")
        totals, bases = np.zeros(self.order + 1), 0
        for digits, counted in _blocks(sequences, self.order, skip=1):
            left = np.where(counted, _left_bases(digits, self.order), -1)
            at = np.flatnonzero(left >= 0)
            bases += len(at)
            totals += self._bits_of_block(digits, at, left[at])
        return totals, bases

    def _bits_of_block(self, digits: np.ndarray, at: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Bits [order + 1] of the bases `at` [n], which have `left` [n] bases of context."""
        totals = np.zeros(self.order + 1)
        chance = np.full(len(at), 0.25)
        target = digits[at].astype(np.int64)
        context, mirrored = np.zeros_like(target), np.zeros_like(target)
        for j, counts in enumerate(self._counts):
            enough = left >= j
            if j:
                base = digits[at - j * enough].astype(np.int64) & 3
                context += base << 2 * (j - 1)
                mirrored = 4 * mirrored + 3 - base
            forward = counts.reshape(-1, 4)[context[enough]]
            # A word's other strand starts with the complement of its last base.
            backward = counts.reshape(4, -1)[::-1, mirrored[enough]].T
            seen = forward.astype(np.float64) + backward
            hit = seen[np.arange(len(seen)), target[enough]]
            chance[enough] = (hit + 0.5) / (seen.sum(axis=1) + 2)
            totals[j] = -np.log2(chance).sum()
        return totals


def markov_table(
    train: Iterable[bytes | str],
    valid: Iterable[bytes | str],
    orders: Iterable[int] = range(MAX_ORDER + 1),
) -> list[MarkovRow]:
    """Bits per base of `valid` (windows as in `MarkovModel.bits`) under each order, fitted on `train` once for all.

    Raises ValueError where either holds no base to count, or an order is not from 0 to 12.
    """
    wanted = list(orders)
    if not wanted:
        raise ValueError("orders: got none, want at least one")
    for order in wanted:
        MarkovModel(order)
    totals, bases = MarkovModel(max(wanted)).fit(train).bits_by_order(valid)
    if not bases:
        raise ValueError("valid: got no A, C, G or T after the first letter of a window, want bases to score")
    return [MarkovRow(order, float(totals[order] / bases)) for order in wanted]


def _count_type(order: int) -> type[np.unsignedinteger]:
    # A short word may occur more often than 32 bits count; 64 bits for long ones would double the memory.
    return np.uint64 if order < 8 else np.uint32


def _blocks(sequences: Iterable[bytes | str], order: int, skip: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sequences joined, and long ones cut, to about BLOCK bases.

    Yields digits uint8 [n] (A 0, C 1, G 2, T 3, else 4, and one 4 after each sequence) and a mask [n] that is False for
    the first `skip` letters of a sequence and for what is repeated from the block before as context.
    """
    parts: list[tuple[bytes | bytearray, int]] = []
    size = 0
    for sequence in sequences:
        data = voc.as_bytes(sequence)
        for start in range(0, len(data), BLOCK):
            first = max(0, start - order)
            parts.append((data[first : start + BLOCK], start - first if start else skip))
            size += len(parts[-1][0]) + 1
            if size >= BLOCK:
                yield _join(parts)
                parts, size = [], 0
    if parts:
        yield _join(parts)


def _join(parts: list[tuple[bytes | bytearray, int]]) -> tuple[np.ndarray, np.ndarray]:
    joined = b"".join(piece for data, _ in parts for piece in (data, b"N"))
    mask = np.ones(len(joined), dtype=bool)
    at = 0
    for data, skipped in parts:
        mask[at : at + skipped] = False
        at += len(data) + 1
    return voc.base_digits(joined), mask


def _left_bases(digits: np.ndarray, order: int) -> np.ndarray:
    """Number of bases that stand directly left of each base, at most `order`; -1 where there is no base. [n]"""
    places = np.arange(len(digits))
    last_gap = np.maximum.accumulate(np.where(digits > 3, places, -1))
    return np.minimum(places - last_gap - 1, order)


def _words(digits: np.ndarray, order: int) -> np.ndarray:
    """Each base and the `order` letters left of it as a number in base 4, the base itself last. [n]"""
    return kmer_codes(np.pad(digits & 3, (order, 0)), order + 1)
