"""Sequence to token ids and back: the interface, and how to get a tokeniser by name or from its file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from titans_dna.tokens.bpe import BPETokenizer
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.vocabulary import FORMAT, VERSION, NucleotideTokenizer

__all__ = [
    "BPETokenizer",
    "KmerTokenizer",
    "NucleotideTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "make_tokenizer",
    "tokenizer_from_dict",
]


@runtime_checkable
class Tokenizer(Protocol):
    """What every tokeniser offers; instances can be pickled, and never change once made.

    In all of them ids 0 to 11 are [CLS] [SEP] [BOS] [MASK] [PAD] [RESERVED] [UNK] A C G T N; `encode` adds no special
    ids of its own.
    """

    name: str
    """`make_tokenizer` takes it, except for BPE."""
    vocab_size: int
    """Ids are 0 to vocab_size - 1."""
    pad_id: int
    """Id that fills up a batch."""
    lengths: np.ndarray
    """int64 [vocab_size]: bases (A, C, G, T) that a token adds; 0 for special ids and any token that holds an N.
    A loss counts the targets whose length is above 0."""

    def encode(self, sequence: bytes | str) -> np.ndarray:
        """Ids [n], uint8 (nucleotide) or int32; the empty sequence gives none."""
        ...

    def decode(self, ids: ArrayLike) -> str:
        """Letters A, C, G, T, N of ids [n]."""
        ...

    def reverse_complement(self, ids: ArrayLike) -> np.ndarray:
        """Ids of the other strand."""
        ...

    def spans(self, sequence: bytes | str) -> np.ndarray:
        """Base coordinates of each token of `encode(sequence)`, int64 [n, 2], 0-based half-open."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes, as plain values; `tokenizer_from_dict` takes it."""
        ...

    def save(self, path: str | Path) -> None:
        """Write one JSON file; `load_tokenizer` reads it."""
        ...


def make_tokenizer(spec: str) -> Tokenizer:
    """A tokeniser by name: `nucleotide`, `kmer-6`, `kmer-6-overlapping`, or the path of a saved one."""
    if spec == "nucleotide":
        return NucleotideTokenizer()
    if match := re.fullmatch(r"kmer-(\d+)(-overlapping)?", str(spec)):
        return KmerTokenizer(int(match[1]), overlapping=match[2] is not None)
    if not isinstance(spec, (str, Path)) or not Path(spec).is_file():
        raise ValueError(f"tokenizer: got {spec!r}, want nucleotide, kmer-K, kmer-K-overlapping or a tokenizer file")
    return load_tokenizer(spec)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read what `save` wrote.

    Raises FileNotFoundError, or ValueError naming the file where it is damaged or something else.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: got no valid JSON, want a file that a tokenizer's save wrote") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{path}: got some other JSON, want a file that a tokenizer's save wrote")
    if values.get("version") != VERSION:
        raise ValueError(f"{path}: got tokenizer version {values.get('version')!r:.60}, want {VERSION}")
    try:
        return tokenizer_from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def tokenizer_from_dict(values: dict[str, Any]) -> Tokenizer:
    """The inverse of a tokeniser's `to_dict`; a wrong entry is a ValueError."""
    kind = values.get("kind") if isinstance(values, dict) else values
    if kind == "nucleotide":
        return NucleotideTokenizer.from_dict(values)
    if kind == "kmer":
        return KmerTokenizer.from_dict(values)
    if kind == "bpe":
        return BPETokenizer.from_dict(values)
    raise ValueError(f"tokenizer: got kind {kind!r:.60}, want nucleotide, kmer or bpe")
