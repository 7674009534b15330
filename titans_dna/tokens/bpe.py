"""Tokens learned from sequence by byte-pair encoding, with the `tokenizers` library."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tokenizers import Tokenizer, models, trainers

from titans_dna.tokens import vocabulary as voc
from titans_dna.tokens.strands import reverse_complement


class BPETokenizer:
    """Byte-pair encoding: the twelve ids of NucleotideTokenizer, then one id per merge, in the order learned.

    A sequence is cut at every run of other letters than A, C, G, T (U), and each run of bases from its start into
    pieces of `chunk` bases, so that cost grows with length alone; no token crosses a cut, and ids depend on the
    sequence only. Each N is one N token, each letter that is no IUPAC code one [UNK]. Case is ignored.
    """

    pad_id = voc.PAD

    def __init__(self, merges: Iterable[tuple[str, str]], chunk: int = 1024) -> None:
        if type(chunk) is not int or chunk < 1:
            raise ValueError(f"chunk: got {chunk!r}, want an integer of at least 1")
        self.chunk = chunk
        self.merges = [(left, right) for left, right in merges]
        tokens = {token: i for i, token in enumerate((*voc.SPECIALS, *voc.LETTERS))}
        for left, right in self.merges:
            for part in (left, right):
                if part not in tokens or not set(part) <= set("ACGT"):
                    raise ValueError(f"merges: got a merge of {part!r:.60}, want earlier tokens over A, C, G, T")
            # Two merges may spell the same token: AA + A and A + AA.
            tokens.setdefault(left + right, len(tokens))
        self.tokens = list(tokens)
        self.vocab_size = len(tokens)
        self.name = f"bpe-{self.vocab_size}"
        spelled = [token if set(token) <= set("ACGT") else "" for token in self.tokens]
        self.lengths = np.array([len(token) for token in spelled], dtype=np.int64)
        self._widths = self.lengths.copy()
        self._widths[[voc.UNK, voc.SINGLES - 1]] = 1
        self._texts = [
            "" if i < voc.UNK else "N" if not width else text
            for i, (text, width) in enumerate(zip(spelled, self.lengths, strict=True))
        ]
        self._model = Tokenizer(models.BPE(vocab=tokens, merges=self.merges, unk_token="[UNK]", cache_capacity=0))

    @classmethod
    def train(cls, sequences: Iterable[bytes | str], vocab_size: int, chunk: int = 1024) -> BPETokenizer:
        """Learn merges from sequences; the same sequences give the same merges.

        vocab_size: ids wanted, the twelve fixed ones included; there are fewer where no pair of tokens is left that
            occurs twice.
        chunk: bases per piece, here and in `encode`.
        Raises ValueError where no sequence holds A, C, G or T.
        """
        if type(vocab_size) is not int or vocab_size < voc.SINGLES:
            raise ValueError(f"vocab_size: got {vocab_size!r}, want an integer of at least {voc.SINGLES}")
        checked = cls([], chunk)  # complains about chunk before any work
        words = (word for sequence in sequences for word in checked._pieces(sequence) if word[0] in "ACGT")
        first = next(words, None)
        if first is None:
            raise ValueError("sequences: got no A, C, G or T, want DNA to train on")
        model = Tokenizer(models.BPE())
        # The library's alphabet is A, C, G, T: four of the twelve ids that stand before the merges.
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - voc.SINGLES + 4,
            min_frequency=2,
            initial_alphabet=list("ACGT"),
            show_progress=False,
        )
        model.train_from_iterator(itertools.chain([first], words), trainer)
        return cls([tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]], chunk)

    def encode(self, sequence: bytes | str) -> np.ndarray:
        """Ids of the tokens, int32 [tokens]."""
        # One piece at a time: the batched call starts threads, which forked loader workers must not inherit.
        parts = [self._model.encode(piece).ids for piece in self._pieces(sequence)]
        return np.fromiter(itertools.chain.from_iterable(parts), dtype=np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """Letters of ids [n]; [UNK] reads as N, the other special ids as nothing."""
        return "".join(self._texts[i] for i in voc.as_ids(ids, self.vocab_size).tolist())

    def reverse_complement(self, ids: ArrayLike) -> np.ndarray:
        """Ids [n] of the other strand: decoded, complemented and encoded anew, as merges know one direction only.

        The number of tokens may change. Special ids other than [UNK] are a ValueError; [UNK] becomes N.
        """
        array = voc.as_ids(ids, self.vocab_size)
        voc.refuse_specials(array)
        return self.encode(reverse_complement(self.decode(array).encode()))

    def spans(self, sequence: bytes | str) -> np.ndarray:
        """Base coordinates of each token of `encode(sequence)`, int64 [n, 2], 0-based half-open."""
        return voc.spans_of(self._widths[self.encode(sequence)])

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes, as plain values."""
        return {"kind": "bpe", "chunk": self.chunk, "merges": [" ".join(pair) for pair in self.merges]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BPETokenizer:
        """The inverse of `to_dict`; a missing or wrong entry is a ValueError."""
        voc.check_keys(values, {"chunk": int, "merges": list})
        pairs = []
        for merge in values["merges"]:
            parts = merge.split(" ") if isinstance(merge, str) else []
            if len(parts) != 2:
                raise ValueError(f"merges: got {merge!r:.60}, want two tokens with a space between")
            pairs.append((parts[0], parts[1]))
        return cls(pairs, values["chunk"])

    def save(self, path: str | Path) -> None:
        """Write one JSON file; `tokenizer.load_tokenizer` reads it."""
        voc.save_tokenizer(path, self.to_dict())

    def _pieces(self, sequence: bytes | str) -> Iterator[str]:
        """The sequence in upper case over A, C, G, T, N and `?`, cut."""
        text = voc.as_bytes(sequence).translate(_CANONICAL).decode("ascii")
        bounds = f"{{1,{self.chunk}}}"
        return (match[0] for match in re.finditer(f"[ACGT]{bounds}|[^ACGT]{bounds}", text))


_CANONICAL = bytes(ord(voc.LETTERS[i - voc.BASE]) if i != voc.UNK else ord("?") for i in voc.LETTER_IDS)
