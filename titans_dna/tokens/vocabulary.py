"""What all tokenisers share: the first twelve ids, tables over bytes, input checks, the JSON file; and one token per base."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from titans_dna.tokens import vocabulary as voc
from titans_dna.tokens.strands import reverse_complement_ids

SPECIALS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]")
CLS, SEP, BOS, MASK, PAD, RESERVED, UNK = range(7)
LETTERS = "ACGTN"
"""Ids 7 to 11; with SPECIALS the vocabulary that HyenaDNA and Caduceus checkpoints share."""
BASE = len(SPECIALS)
"""Id of A; C, G, T and N follow."""
SINGLES = BASE + len(LETTERS)
"""Number of ids that mean the same thing in every tokeniser."""
FORMAT, VERSION = "titans-dna tokenizer", 1


def _letter_ids() -> bytes:
    table = bytearray([UNK]) * 256
    # U is RNA's T; the other IUPAC codes stand for two to four bases.
    groups = {"A": "A", "C": "C", "G": "G", "T": "TU", "N": "NRYSWKMBDHV"}
    for name, letters in groups.items():
        for letter in letters + letters.lower():
            table[ord(letter)] = BASE + LETTERS.index(name)
    return bytes(table)


LETTER_IDS = _letter_ids()
"""256-entry table for bytes.translate: letter to single-base id."""
DIGITS = bytes(i - BASE if BASE <= i < BASE + 4 else 4 for i in LETTER_IDS)
"""256-entry table for bytes.translate: A 0, C 1, G 2, T 3, all else 4."""
COMPLEMENT_IDS = np.array([*range(BASE), *(BASE + j for j in (3, 2, 1, 0, 4))], dtype=np.uint8)
"""Complement of the twelve single ids; special ids are their own."""


def as_bytes(sequence: bytes | bytearray | str) -> bytes | bytearray:
    """The sequence as bytes, one per letter; a letter outside ASCII becomes `?`, which no table knows."""
    if isinstance(sequence, str):
        return sequence.encode("ascii", "replace")
    if isinstance(sequence, (bytes, bytearray)):
        return sequence
    raise ValueError(f"sequence: got {type(sequence).__name__}, want bytes or str")


def base_digits(letters: bytes | bytearray) -> np.ndarray:
    """A, C, G, T (U) of either case as 0 to 3, any other letter as 4: uint8 [letters], read-only."""
    return np.frombuffer(letters.translate(DIGITS), dtype=np.uint8)


def as_ids(ids: ArrayLike, vocab_size: int, axes: int | None = 1) -> np.ndarray:
    """The ids as an integer array, each checked to be in 0..vocab_size - 1; `axes` None allows any number of axes."""
    array = np.asarray(ids)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"ids: got an array of {array.dtype}, want integers")
    if array.ndim == 0 or array.ndim != (axes or array.ndim):
        raise ValueError(f"ids: got {array.ndim} axes, want {axes or 'at least one'}")
    if array.size and (array.min() < 0 or array.max() >= vocab_size):
        raise ValueError(f"ids: got values from {array.min()} to {array.max()}, want 0 to {vocab_size - 1}")
    return array


def spans_of(widths: np.ndarray) -> np.ndarray:
    """Widths [n] of tokens laid end to end to [n, 2], 0-based half-open."""
    ends = np.cumsum(widths, dtype=np.int64)
    return np.stack([ends - widths, ends], axis=1)


def refuse_specials(ids: np.ndarray) -> None:
    """ValueError where an id is a special one other than [UNK], which stands for a letter."""
    special = ids[ids < UNK]
    if special.size:
        raise ValueError(f"ids: got {SPECIALS[special[0]]}, want no special ids where the sequence is encoded anew")


def save_tokenizer(path: str | Path, values: dict[str, Any]) -> None:
    """Write one JSON file, beside and then renamed, so that a killed process leaves the old file or the new one."""
    beside = Path(f"{path}.{os.getpid()}.part")
    text = json.dumps({"format": FORMAT, "version": VERSION, **values}, indent=None, separators=(",", ":"))
    try:
        beside.write_text(text + "\n")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_keys(values: dict[str, Any], wanted: dict[str, type]) -> None:
    """ValueError unless `values` has exactly the wanted keys, each of the wanted type, beside the file's own."""
    for key, kind in wanted.items():
        if type(values.get(key)) is not kind:
            raise ValueError(f"tokenizer: got {key} = {values.get(key)!r:.60}, want {kind.__name__}")
    for key in values:
        if key not in wanted and key not in ("format", "version", "kind"):
            raise ValueError(f"tokenizer: got unknown key {key!r}, want {', '.join(wanted) or 'kind'} only")


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
