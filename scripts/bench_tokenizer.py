"""Speed of every tokeniser on one core: million bases per second to encode, decode and mirror.

    python scripts/bench_tokenizer.py [--fasta FILE] [--megabases 10] [--bpe-vocab 4096]

Without a FASTA file the sequence is random, which is the hardest case for BPE.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from titans_dna.genome.genome import open_genome
from titans_dna.tokens.bpe import BPETokenizer
from titans_dna.tokens.tokenizer import Tokenizer, make_tokenizer

REPEATS = 5
SPECS = ("nucleotide", "kmer-3", "kmer-6", "kmer-8", "kmer-3-overlapping", "kmer-6-overlapping", "kmer-8-overlapping")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", help="take the sequence from this file's first records; default: random bases")
    parser.add_argument("--megabases", type=float, default=10.0, help="length of the sequence in 10^6 bases")
    parser.add_argument("--bpe-vocab", type=int, default=4096, help="ids of the BPE, trained on the first 10^6 bases")
    options = parser.parse_args()
    sequence = read_sequence(options.fasta, int(options.megabases * 1e6))

    start = time.perf_counter()
    bpe = BPETokenizer.train([sequence[:1_000_000]], options.bpe_vocab)
    print(f"{len(sequence) / 1e6:.2f} Mb; BPE trained in {time.perf_counter() - start:.1f} s; best of {REPEATS}, Mb/s")
    print(f"{'':20s}{'encode':>10s}{'decode':>10s}{'mirror':>10s}{'bases/token':>14s}")
    for spec in SPECS:
        report(make_tokenizer(spec), sequence)
    # One megabase is enough where a call takes a second.
    report(bpe, sequence[:1_000_000])


def read_sequence(fasta: str | None, length: int) -> bytes:
    if fasta is None:
        return np.random.default_rng(0).choice(np.frombuffer(b"ACGTacgt", dtype=np.uint8), length).tobytes()
    genome = open_genome(fasta)
    parts, missing = [], length
    for contig, bases in genome.contigs.items():
        parts.append(genome.fetch(contig, 0, min(bases, missing)))
        missing -= len(parts[-1])
        if not missing:
            break
    return b"".join(parts)


def report(tokenizer: Tokenizer, sequence: bytes) -> None:
    ids = tokenizer.encode(sequence)
    calls: list[Callable[[], object]] = [
        lambda: tokenizer.encode(sequence),
        lambda: tokenizer.decode(ids),
        lambda: tokenizer.reverse_complement(ids),
    ]
    speeds = "".join(f"{len(sequence) / 1e6 / best_seconds(call):10.1f}" for call in calls)
    print(f"{tokenizer.name:20s}{speeds}{len(sequence) / len(ids):14.2f}")


def best_seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
