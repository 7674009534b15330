"""Bits per base of a model on a genome that it has not been trained on, beside interpolated Markov from its counts.

    python scripts/bits_elsewhere.py --model runs/chrX --fasta chr22.fa.gz

Scored are windows of 1,024 bases, one every --every bases, those that hold an N left out.
"""

from __future__ import annotations

import argparse

import torch

import titans_dna
from make_weights import interpolated
from titans_dna.genome.genome import open_genomes
from titans_dna.nn.model import TitansDNA
from titans_dna.train.loss import validate

WINDOW = 1024


def main() -> None:
    """Score, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--fasta", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=250_000)
    chosen = parser.parse_args()
    model, genome = titans_dna.load(chosen.model, TitansDNA), open_genomes(chosen.fasta)
    assert model.tokenizer is not None
    windows = [
        letters
        for name, bases in genome.contigs.items()
        for start in range(0, bases - WINDOW, chosen.every)
        if b"N" not in (letters := genome.fetch(name, start, start + WINDOW + 1).upper())
    ]
    batches = [{"ids": torch.as_tensor(model.tokenizer.encode(one))[None].long()} for one in windows]
    lengths = torch.as_tensor(model.tokenizer.lengths)
    print(f"{len(windows) * WINDOW:,} bases")
    print(f"model: {validate(model, batches, lengths, piece=WINDOW):.4f}")
    if model.counts is not None:
        print(f"interpolated Markov from its counts: {interpolated(model.counts, windows):.4f}")
        model.counts = None
        print(f"model without its counts: {validate(model, batches, lengths, piece=WINDOW):.4f}")


if __name__ == "__main__":
    main()
