"""One token per base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from titans_dna.tokens import vocabulary as voc
from titans_dna.tokens.strands import reverse_complement_ids


class NucleotideTokenizer:
    """The twelve-id vocabulary: seven special ids, then A 7, C 8, G 9, T 10, N 11.

    Upper and lower case are equal, U reads as T, IUPAC ambiguity codes as N, any other letter as [UNK].
    """

    name = "nucleotide"
    vocab_size = voc.SINGLES
    pad_id = voc.PAD

    def __init__(self) -> None:
        self.lengths = np.zeros(self.vocab_size, dtype=np.int64)
        self.lengths[voc.BASE : voc.BASE + 4] = 1

    def encode(self, sequence: bytes | str) -> np.ndarray:
        """Ids of every letter, uint8 [letters]."""
        # translate beats take and indexing over a 256-entry array; the copy makes the array writable.
        return np.frombuffer(voc.as_bytes(sequence).translate(voc.LETTER_IDS), dtype=np.uint8).copy()

    def decode(self, ids: ArrayLike) -> str:
        """Letters of ids [n]; [UNK] reads as N, the other special ids as nothing."""
        array = voc.as_ids(ids, self.vocab_size).astype(np.uint8)
        return array.tobytes().translate(_ID_LETTERS, bytes(range(voc.UNK))).decode("ascii")

    def reverse_complement(self, ids: ArrayLike) -> np.ndarray:
        """Ids [..., n] of the other strand, same dtype; special ids keep their value and are mirrored too."""
        array = voc.as_ids(ids, self.vocab_size, axes=None)
        return reverse_complement_ids(array, voc.COMPLEMENT_IDS).astype(array.dtype)

    def spans(self, sequence: bytes | str) -> np.ndarray:
        """Base coordinates of each token of `encode(sequence)`, int64 [n, 2], 0-based half-open."""
        return voc.spans_of(np.ones(len(voc.as_bytes(sequence)), dtype=np.int64))

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes, as plain values."""
        return {"kind": "nucleotide"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NucleotideTokenizer:
        """The inverse of `to_dict`."""
        voc.check_keys(values, {})
        return cls()

    def save(self, path: str | Path) -> None:
        """Write one JSON file; `tokenizer.load_tokenizer` reads it."""
        voc.save_tokenizer(path, self.to_dict())


_ID_LETTERS = bytes(ord(voc.LETTERS[i - voc.BASE]) if voc.BASE <= i < voc.SINGLES else ord("N") for i in range(256))
