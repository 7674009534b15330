"""Which bases the sequence before them repeats, and how far back: most recent earlier k-mers, on the same strand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from titans_dna.tokens import vocabulary as voc

NEVER = np.iinfo(np.int64).max


class Recurrence(NamedTuple):
    """Of the last `target` bases of a sequence, int64 [target] each; NEVER where there is no earlier occurrence, -1 where
    the k-mer holds an unknown base or would begin before the sequence."""

    distance: np.ndarray
    """Bases from the end of the most recent earlier occurrence to that of the k-mer."""
    reach: np.ndarray
    """Bases before the target that have to be read for that occurrence to be read whole; 0: it lies in the target."""

    def back(self, bases: int) -> Recurrence:
        """Without the first `bases` of the target."""
        return Recurrence(self.distance[bases:], self.reach[bases:])


def recurrence(letters: bytes, target: int, k: int) -> tuple[Recurrence, Recurrence]:
    """Of the k-mers that end with each of the last `target` letters, and of those that end just before each.

    The first says what a base repeats, itself included: it is chosen by the answer, which flatters whoever copies. The
    second is known before the answer. Case counts for nothing.
    """
    codes, known = kmer_codes(letters, k)
    before = previous(codes, known)
    start = len(letters) - target
    ends = np.arange(len(letters))
    distance = np.where(before >= 0, ends - before, NEVER)
    reach = np.where(before >= 0, np.maximum(start - (before - k + 1), 0), NEVER)
    distance[~known], reach[~known] = -1, -1
    last = slice(start - 1, len(letters) - 1)
    return Recurrence(distance[start:], reach[start:]), Recurrence(distance[last], reach[last])


def kmer_codes(letters: bytes, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k-mer that ends with each letter as 2 bits a base, uint64 [letters], k at most 31; and whether it is whole."""
    digits = np.frombuffer(letters.translate(voc.DIGITS), np.uint8)
    n = len(digits)
    unknown = np.cumsum(digits > 3)
    known = np.zeros(n, bool)
    known[k - 1 :] = unknown[k - 1 :] == np.concatenate([[0], unknown[: n - k]]) if n >= k else False
    codes = np.zeros(n, np.uint64)
    values = (digits & 3).astype(np.uint64)
    for i in range(min(k, n)):  # the letter i before the end
        codes[i:] |= values[: n - i] << np.uint64(2 * i)
    return codes, known


def previous(codes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Index of the most recent earlier equal code among the known ones, int64 [n]; -1 where there is none."""
    index = np.flatnonzero(known)
    order = index[np.argsort(codes[index], kind="stable")]
    equal = codes[order[1:]] == codes[order[:-1]]
    before = np.full(len(codes), -1, np.int64)
    before[order[1:][equal]] = order[:-1][equal]
    return before
