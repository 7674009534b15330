"""Bases per second of the training batches: independent windows and lanes, several contexts, with and without workers.

    python scripts/bench_loader.py [--fasta FILE] [--seconds 2]

Without a FASTA file a random genome of 20 Mb is written to a temporary directory.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from titans_dna.genome.batches import GenomeDataModule
from titans_dna.genome.genome import Genome, open_genome
from titans_dna.genome.intervals import split_by_blocks
from titans_dna.tokens.vocabulary import NucleotideTokenizer

SHAPES = ((1_024, 64, 0), (8_192, 8, 0), (65_536, 2, 0), (8_192, 8, 65_536))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.fasta or random_genome(Path(folder) / "random.fa", 20_000_000)
        genome = open_genome(path, cache_dir=folder)
        print("  context  batch    lane  memory  soft-masked  workers    Mb/s")
        for (context, batch_size, lane), cached, soft, workers in itertools.product(
            SHAPES, (True, False), (1.0, 0.1), (0, 2)
        ):
            rate = measure(genome, context, batch_size, lane, cached, soft, workers, arguments.seconds)
            kept = "yes" if cached else "no"
            print(f"{context:9,} {batch_size:6} {lane:7,}  {kept:>6}  {soft:11}  {workers:7}  {rate / 1e6:6.1f}")


def measure(
    genome: Genome,
    context: int,
    batch_size: int,
    lane: int,
    cached: bool,
    soft_masked_weight: float,
    workers: int,
    seconds: float,
) -> float:
    """Bases per second, once the workers have started."""
    module = GenomeDataModule(
        genome,
        split_by_blocks(genome, valid_fraction=0.1, block=500_000, context=context),
        NucleotideTokenizer(),
        context=context,
        batch_size=batch_size,
        lane=lane,
        soft_masked_weight=soft_masked_weight,
        workers=workers,
        cache_bases=512_000_000 if cached else 0,
    )
    batches = iter(module.train_batches())
    for _ in range(20):
        next(batches)
    bases, begin = 0, time.perf_counter()
    while (took := time.perf_counter() - begin) < seconds:
        bases += next(batches)["bases"]
    return bases / took


def random_genome(path: Path, bases: int) -> Path:
    """A FASTA file of one random contig, in lines of 60 bases."""
    letters = np.frombuffer(b"ACGTacgt", np.uint8)[np.random.default_rng(0).integers(8, size=bases // 60 * 60)]
    lines = np.concatenate([letters.reshape(-1, 60), np.full((bases // 60, 1), ord("\n"), np.uint8)], axis=1)
    path.write_bytes(b">random\n" + lines.tobytes())
    return path


if __name__ == "__main__":
    main()
