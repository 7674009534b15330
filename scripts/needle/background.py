"""The real sequence that needles are planted in: one part to train on, another to test on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from titans_dna.genome.genome import open_genomes
from titans_dna.tokens.vocabulary import BASE, LETTER_IDS

MOST = 1 << 26
"""Bases read at most, from the first contig on."""
LEAST = 8192
READ = 1 << 22


class Background(NamedTuple):
    """Token ids of A, C, G and T, uint8: disjoint stretches of the same sequence."""

    train: np.ndarray
    """[n], the first half."""
    test: np.ndarray
    """[n], the second half."""


def read_background(fasta: Sequence[str] = ()) -> Background:
    """The contigs of some files end to end, without what is not A, C, G or T, cut in two; by default phage lambda.

    Raises what `open_genomes` raises, and ValueError for fewer than 8,192 such bases.
    """
    genome = open_genomes(list(fasta) or [str(resources.files("titans_dna") / "genomes" / "lambda.fa")])
    table = np.frombuffer(LETTER_IDS, dtype=np.uint8)
    parts, found = [], 0
    for contig, length in genome.contigs.items():
        for start in range(0, length, READ):
            if found >= MOST:
                break
            ids = table[np.frombuffer(genome.fetch(contig, start, min(start + READ, length)), dtype=np.uint8)]
            ids = ids[(ids >= BASE) & (ids < BASE + 4)]
            parts.append(ids)
            found += len(ids)
    if found < LEAST:
        raise ValueError(f"--fasta: got {found:,} bases A, C, G and T, want at least {LEAST:,}")
    ids = np.concatenate(parts)
    return Background(ids[: found // 2], ids[found // 2 :])


def stretches(ids: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """uint8 [rows, length] from each of `starts` [rows] on; past its end, the sequence begins again."""
    return ids[(starts[:, None] + np.arange(length)) % len(ids)]
