"""K-mers: the numbers that stand for them, and tokens of k bases, side by side or one per base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from titans_dna.tokens import vocabulary as voc
from titans_dna.tokens.strands import reverse_complement, reverse_complement_ids

MAX_K = 8


def kmer_codes(digits: np.ndarray, k: int, *, stride: int = 1, dtype: Any = np.int64) -> np.ndarray:
    """Number of the k-mer that begins at each base, or at every `stride`-th, in the order of the alphabet (AA..A is 0).

    digits: of `vocabulary.base_digits`, uint8 [n]. Returns dtype [max(0, (n - k) // stride + 1)]; 4^k, which the dtype must
    hold, where the k-mer has a letter other than A, C, G, T. With int64 k may be up to 31.
    """
    count = max(0, (len(digits) - k) // stride + 1)
    codes, seen = np.zeros(count, dtype), np.zeros(count, np.uint8)
    for j in range(k if count else 0):
        column = digits[j : j + (count - 1) * stride + 1 : stride]
        codes *= 4
        codes += column
        seen |= column
    codes[seen > 3] = 4**k
    return codes


def complementary_kmers(k: int) -> np.ndarray:
    """Number of each k-mer's reverse complement, int64 [4^k]."""
    left, other = np.arange(4**k), np.zeros(4**k, dtype=np.int64)
    for _ in range(k):
        other, left = other * 4 + (3 - left % 4), left // 4
    return other


class KmerTokenizer:
    """K-mers with stride k, or with stride 1 (`overlapping`); k from 1 to 8.

    Ids: the twelve of NucleotideTokenizer, then the 4^k k-mers in the order of the alphabet (AA..A is 12), then one id
    for any k-mer that holds a letter other than A, C, G, T, U. Case is ignored.

    Stride k: the last `n mod k` letters become single-base tokens, so every A/C/G/T sequence survives the round trip.
    Overlapping: n - k + 1 tokens, each but the first adding one base; a sequence shorter than k becomes single-base
    tokens. Here `lengths` is 1 for a k-mer, as a next-token loss never counts a sequence's first token; the first
    k-mer after an N tells k new bases and counts for one.
    """

    pad_id = voc.PAD

    def __init__(self, k: int, overlapping: bool = False) -> None:
        if type(k) is not int or not 1 <= k <= MAX_K:
            raise ValueError(f"k: got {k!r}, want an integer from 1 to {MAX_K}")
        self.k = k
        self.overlapping = overlapping
        self.name = f"kmer-{k}-overlapping" if overlapping else f"kmer-{k}"
        self.unknown_id = voc.SINGLES + 4**k
        self.vocab_size = self.unknown_id + 1
        self.lengths = np.zeros(self.vocab_size, dtype=np.int64)
        self.lengths[voc.BASE : voc.BASE + 4] = 1
        self.lengths[voc.SINGLES : self.unknown_id] = 1 if overlapping else k
        self._widths = np.full(self.vocab_size, k)
        self._widths[: voc.SINGLES] = [0] * voc.UNK + [1] * (voc.SINGLES - voc.UNK)
        self._letters = _letters(k)
        self._complements = _complements(k)

    def encode(self, sequence: bytes | str) -> np.ndarray:
        """Ids of the tokens, int32 [tokens]."""
        data = voc.as_bytes(sequence)
        stride = 1 if self.overlapping else self.k
        ids = kmer_codes(voc.base_digits(data), self.k, stride=stride, dtype=np.int32)
        ids += voc.SINGLES
        done = len(data) if self.overlapping and len(ids) else len(ids) * self.k
        tail = np.frombuffer(data[done:].translate(voc.LETTER_IDS), dtype=np.uint8)
        return np.concatenate([ids, tail.astype(np.int32)]) if len(tail) else ids

    def decode(self, ids: ArrayLike) -> str:
        """Letters of ids [n]; special ids read as nothing, and the k-mer that holds an N as k times N.

        Overlapping: a base that any A/C/G/T k-mer covers is known, and where k-mers disagree, as a model's may, the one
        that ends there decides.
        """
        array = voc.as_ids(ids, self.vocab_size)
        array = array[self._widths[array] > 0]
        letters, widths = self._letters[array], self._widths[array]
        if not self.overlapping:
            return letters[np.arange(self.k) >= self.k - widths[:, None]].tobytes().decode("ascii")
        if not len(array):
            return ""
        ends = widths[0] + np.arange(len(array))
        out = np.full(ends[-1], ord("N"), dtype=np.uint8)
        for back in range(self.k - 1, -1, -1):
            at = ends - 1 - back
            told = (back < widths) & (at >= 0) & (self.lengths[array] > 0)
            out[at[told]] = letters[told, self.k - 1 - back]
        return out.tobytes().decode("ascii")

    def reverse_complement(self, ids: ArrayLike) -> np.ndarray:
        """Ids of the other strand: `reverse_complement(encode(s))` is `encode` of the other strand of s.

        Overlapping: ids [..., n], a table and a mirror; special ids keep their value. Stride k: ids [n]; a table and a
        mirror where the length is a multiple of k, else the k-mers have other borders on the other strand, so the
        sequence is decoded and encoded anew (special ids are then a ValueError, and a k-mer with an N is all N).
        """
        array = voc.as_ids(ids, self.vocab_size, axes=None if self.overlapping else 1)
        if not self.overlapping and np.any((array >= voc.UNK) & (array < voc.SINGLES)):
            voc.refuse_specials(array)
            return self.encode(reverse_complement(self.decode(array).encode()))
        return reverse_complement_ids(array, self._complements)

    def spans(self, sequence: bytes | str) -> np.ndarray:
        """Base coordinates of each token of `encode(sequence)`, int64 [n, 2], 0-based half-open."""
        length = len(voc.as_bytes(sequence))
        if not self.overlapping:
            return voc.spans_of(np.array([self.k] * (length // self.k) + [1] * (length % self.k), dtype=np.int64))
        width = self.k if length >= self.k else 1
        starts = np.arange(max(0, length - width + 1), dtype=np.int64)
        return np.stack([starts, starts + width], axis=1)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes, as plain values."""
        return {"kind": "kmer", "k": self.k, "overlapping": self.overlapping}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> KmerTokenizer:
        """The inverse of `to_dict`; a missing or wrong entry is a ValueError."""
        voc.check_keys(values, {"k": int, "overlapping": bool})
        return cls(values["k"], values["overlapping"])

    def save(self, path: str | Path) -> None:
        """Write one JSON file; `tokenizer.load_tokenizer` reads it."""
        voc.save_tokenizer(path, self.to_dict())


def _digits(k: int) -> np.ndarray:
    """Base digits of every k-mer, [4^k, k]."""
    return np.arange(4**k)[:, None] >> 2 * np.arange(k - 1, -1, -1) & 3


def _letters(k: int) -> np.ndarray:
    """Letters of every id, right-aligned, uint8 [vocabulary, k]; N where there is none."""
    table = np.full((voc.SINGLES + 4**k + 1, k), ord("N"), dtype=np.uint8)
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)
    table[voc.BASE : voc.BASE + 4, -1] = bases
    table[voc.SINGLES : -1] = bases[_digits(k)]
    return table


def _complements(k: int) -> np.ndarray:
    """Id of every id on the other strand, int32 [vocabulary]."""
    table = np.arange(voc.SINGLES + 4**k + 1, dtype=np.int32)
    table[: voc.SINGLES] = voc.COMPLEMENT_IDS
    table[voc.SINGLES : -1] = voc.SINGLES + complementary_kmers(k)
    return table
