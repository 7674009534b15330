"""Counts of k-mers in sequences, as a sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from titans_dna.tokens.vocabulary import DIGITS

BLOCK = 1 << 22
"""Bases that are counted at a time."""


def kmer_counts(sequences: Sequence[bytes], k: int, *, both_strands: bool = False) -> sparse.csr_array:
    """How often each k-mer stands in each sequence, float32 [n, 4^k], columns in the order of the alphabet.

    A k-mer that holds anything but A, C, G, T counts nowhere. both_strands: plus the counts in the reverse complement.
    """
    blocks = [_count(part, k) for part in _parts(sequences)]
    counts = sparse.csr_array(sparse.vstack(blocks, format="csr", dtype=np.float32))
    return sparse.csr_array(counts + counts[:, _other_strand(k)]) if both_strands else counts


def _parts(sequences: Sequence[bytes]):
    """Consecutive sequences, about BLOCK bases together."""
    part: list[bytes] = []
    bases = 0
    for letters in sequences:
        part.append(letters)
        bases += len(letters)
        if bases >= BLOCK:
            yield part
            part, bases = [], 0
    if part or not sequences:
        yield part


def _count(sequences: list[bytes], k: int) -> sparse.csr_array:
    # One separator after each sequence, whose digit 4 keeps a k-mer from running over the border.
    digits = np.frombuffer((b"-".join(sequences) + b"-").translate(DIGITS), dtype=np.uint8).astype(np.int64)
    row = np.repeat(np.arange(len(sequences)), [len(letters) + 1 for letters in sequences] or 0)
    windows = max(0, len(digits) - k + 1)
    code, bad = np.zeros(windows, dtype=np.int64), np.zeros(windows, dtype=bool)
    for i in range(k):
        one = digits[i : i + windows]
        code, bad = code * 4 + one, bad | (one == 4)
    keys, counts = np.unique(row[:windows][~bad] * 4**k + code[~bad], return_counts=True)
    found = (counts.astype(np.float32), (keys // 4**k, keys % 4**k))
    return sparse.coo_array(found, shape=(len(sequences), 4**k)).tocsr()


def _other_strand(k: int) -> np.ndarray:
    """Number of each k-mer's reverse complement, [4^k]."""
    left, other = np.arange(4**k), np.zeros(4**k, dtype=np.int64)
    for _ in range(k):
        other, left = other * 4 + (3 - left % 4), left // 4
    return other
