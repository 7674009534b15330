"""The other strand: of letters, and of the numbers that stand for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def reverse_complement(letters: bytes) -> bytes:
    """The other strand, read in its own direction: IUPAC letters and case kept; U reads as T; any other byte is its own."""
    return letters.translate(_COMPLEMENT)[::-1]


def either_strand(sequences: Sequence[bytes]) -> list[bytes]:
    """One of the two strands of each, the same one for a sequence and its reverse complement."""
    return [min(letters, reverse_complement(letters)) for letters in sequences]


def reverse_complement_ids(ids: np.ndarray, complements: np.ndarray) -> np.ndarray:
    """Ids [..., n] of the other strand: each one's complement, the last one first.

    complements: the complement of every id, [ids], whose dtype the result has.
    """
    return complements[ids[..., ::-1]]


_COMPLEMENT = bytes.maketrans(b"ACGTURYKMBVDHacgturykmbvdh", b"TGCAAYRMKVBHDtgcaayrmkvbhd")
