"""Pairs of words, how they are written into a sequence, and sequences to train on.

A planted pair is the tokens [SEP] key [RESERVED] value, and a question is the same again: the model must give the value
after [SEP] key [RESERVED]. Both marks are ids that no genome holds, so that a model can tell a needle from background
and learn to write the one and not the other; the second says where a key of any length ends. The background holds every
key by chance, without marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from needle.background import stretches
from titans_dna.tokens.vocabulary import BASE, RESERVED, SEP

TRIES = 1000
FILLED, SHARE = 0.75, 0.25
"""Of a training sequence, what pairs and questions take at most; of the pairs, how many are followed by a distractor."""
MOST_PAIRS = 16
"""In a training sequence, distractors included; what is left of a long one is background and more questions."""


class Pair(NamedTuple):
    """Ids of A, C, G, T."""

    key: np.ndarray
    value: np.ndarray

    def tokens(self) -> np.ndarray:
        """As it stands in a sequence, [key + value + 2]."""
        return np.concatenate([[SEP], self.key, [RESERVED], self.value]).astype(np.uint8)


def draw_pairs(
    rng: np.random.Generator, key_lengths: ArrayLike, value_length: int, distractors: ArrayLike
) -> list[Pair]:
    """A pair for each of key_lengths [n], no key within one base of another's; where distractors [n] is true, another
    pair after it whose key differs from its key in one base, with a value that differs too.

    Raises ValueError where there are not so many keys.
    """
    keys: list[np.ndarray] = []
    pairs = []
    for length, distracted in zip(np.asarray(key_lengths).tolist(), np.asarray(distractors).tolist(), strict=True):
        key = _fresh(rng, length, keys)
        value = _word(rng, value_length)
        keys.append(key)
        pairs.append(Pair(key, value))
        if distracted:
            other, at = key.copy(), rng.integers(length)
            other[at] = BASE + (other[at] - BASE + rng.integers(1, 4)) % 4
            wrong = _word(rng, value_length)
            while np.array_equal(wrong, value):
                wrong = _word(rng, value_length)
            keys.append(other)
            pairs.append(Pair(other, wrong))
    return pairs


def training_rows(
    rng: np.random.Generator,
    background: np.ndarray,
    rows: int,
    length: int,
    key_lengths: Sequence[int],
    value_length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """ids uint8 [rows, length], and bool [rows, length]: the bases of values that were planted before in the row.

    Pairs stand at random places, some with a distractor, and each is planted the first time and asked the others.
    """
    ids = stretches(background, rng.integers(len(background), size=rows), length)
    asked = np.zeros(ids.shape, dtype=bool)
    for row in range(rows):
        _plant(rng, ids[row], asked[row], key_lengths, value_length)
    return ids, asked


def _plant(
    rng: np.random.Generator, ids: np.ndarray, asked: np.ndarray, key_lengths: Sequence[int], value_length: int
) -> None:
    # From one pair in silence to no room for more.
    most = max(2, int(len(ids) * FILLED) // (max(key_lengths) + value_length + 2))  # pairs and questions together
    count = int(rng.integers(2, most + 1))
    wanted = min(count // 2, MOST_PAIRS)
    pairs = draw_pairs(rng, rng.choice(key_lengths, size=wanted), value_length, rng.random(wanted) < SHARE)[:wanted]
    order = np.concatenate([np.arange(len(pairs)), rng.integers(len(pairs), size=count - len(pairs))])
    rng.shuffle(order)
    texts = [pairs[number].tokens() for number in order]
    # The gaps are what a random cut of all that is left gives.
    left = len(ids) - sum(map(len, texts))
    cuts = np.sort(rng.integers(left + 1, size=len(texts)))
    at, planted = 0, set()
    for number, text, gap in zip(order, texts, np.diff(cuts, prepend=0), strict=True):
        start = at + int(gap)
        at = start + len(text)
        ids[start:at] = text
        asked[at - value_length : at] = number in planted
        planted.add(number)


def _word(rng: np.random.Generator, length: int) -> np.ndarray:
    return rng.integers(BASE, BASE + 4, size=length).astype(np.uint8)


def _fresh(rng: np.random.Generator, length: int, keys: Sequence[np.ndarray]) -> np.ndarray:
    same = [one for one in keys if len(one) == length]
    for _ in range(TRIES):
        key = _word(rng, length)
        if all((key != one).sum() > 1 for one in same):
            return key
    raise ValueError(
        f"--needles: got more than fit beside one another in keys of {length} bases, want fewer of them or longer "
        "--key_lengths"
    )
