"""Open reading frames: the oldest guess at what codes for protein."""

from __future__ import annotations

import numpy as np

from titans_dna.baselines.base_kmers import kmer_codes

STARTS = (b"ATG", b"GTG", b"TTG")
"""Codons that begin a coding sequence in bacteria (most of table 11's)."""
STOPS = (b"TAA", b"TAG", b"TGA")


def orf_lengths(bases: bytes) -> np.ndarray:
    """Bases of the longest open reading frame that covers each base as the sequence reads: int64 [n], 0 for none.

    One reaches from the first start codon after a stop codon to the next stop codon, which it includes; or from the
    sequence's beginning, or to its end, since what lies beyond is not known. A codon with an unknown letter is neither
    start nor stop.
    """
    codes = kmer_codes(bases, 3)
    longest = np.zeros(len(bases), np.int64)
    for frame in range(3):
        codons = codes[frame::3]
        lengths = np.repeat(_frame(codons), 3)
        covered = longest[frame : frame + len(lengths)]
        np.maximum(covered, lengths, out=covered)
    return longest


def _frame(codons: np.ndarray) -> np.ndarray:
    """Bases of the frame that each codon is in, [codons]."""
    if not len(codons):
        return codons
    is_start, is_stop = (np.isin(codons, [kmer_codes(one, 3)[0] for one in some]) for some in (STARTS, STOPS))
    segment = np.cumsum(is_stop) - is_stop  # a stop codon ends its segment
    first = np.flatnonzero(np.diff(segment, prepend=-1))
    places = np.arange(len(codons))
    begins = np.minimum.reduceat(np.where(is_start & ~is_stop, places, len(codons)), first)
    begins[0] = 0
    ends = np.append(first[1:], len(codons))
    # Without a start codon a segment begins after its end, and no codon of it is in a frame.
    return np.where(places >= begins[segment], 3 * (ends - begins)[segment], 0)
