"""Baselines of per-base labelling, held out by region, as Markdown: majority, k-mers, open reading frames (for CDS).

    python scripts/base_baselines.py --genome GENOME --annotation FILE [--features CDS ...] [--stranded]

Windows of `--context` bases; one block of `--block` bases in ten is for test, another one for validation.
"""

from __future__ import annotations

import argparse
import time

from titans_dna.baselines.bases import baselines, gather, kmers
from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import split_by_blocks
from titans_dna.labels.annotation import read_annotation
from titans_dna.labels.windows import LabelledGenome
from titans_dna.metrics import evaluate_bases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genome", required=True, help="FASTA or GenBank, gzipped or not")
    parser.add_argument("--annotation", required=True, help="BED, GFF3, GTF, GenBank or EMBL, gzipped or not")
    parser.add_argument("--features", nargs="+", help="types to keep, by default CDS; for BED all")
    parser.add_argument("--class-by", help="attribute that names the class, by default the type")
    parser.add_argument("--stranded", action="store_true", help="tell the strands apart")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--block", type=int, default=100_000)
    parser.add_argument("--sample", type=int, default=50_000, help="training bases that the k-mer regression sees")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        data = read(arguments)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    print(data.report().markdown())
    labels, known, windows = gather(data, data.test)
    names: list[str] = []
    for baseline in baselines(data):
        start = time.perf_counter()
        options = {"sample": arguments.sample} if baseline is kmers else {}
        scores = baseline(data, arguments.seed, **options)
        seconds = time.perf_counter() - start
        found = evaluate_bases(labels[known], scores[known], windows[known])
        if not names:
            names = list(found)
            print(f"| baseline | {' | '.join(names)} | s |\n|{'---|' * (len(names) + 2)}")
        cells = (f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for one in found.values())
        print(f"| {baseline.__name__} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def read(arguments: argparse.Namespace) -> LabelledGenome:
    """Genome, features and split as the options say."""
    genome = open_genome(arguments.genome)
    features = read_annotation(arguments.annotation, genome, features=arguments.features, class_by=arguments.class_by)
    split = split_by_blocks(
        genome, valid_fraction=0.1, test_fraction=0.1, block=arguments.block, context=arguments.context
    )
    return LabelledGenome(genome, features, split, context=arguments.context, stranded=arguments.stranded)


if __name__ == "__main__":
    main()
