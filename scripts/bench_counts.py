"""How fast `pretrain --counts` counts, and the memory that it takes at its highest.

    python scripts/bench_counts.py --fasta ecoli.fa.gz

Prints megabases a second (CPU time, one thread), bytes, and what is said of them before counting begins.
"""

from __future__ import annotations

import argparse
import time

from titans_dna.genome.genome import open_genomes
from titans_dna.nn.counts import Counts, counting_bytes
from titans_dna.run.device import process_peak


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", nargs="+", required=True)
    genome = open_genomes(parser.parse_args().fasta)
    sequences = [genome.fetch(name, 0, bases) for name, bases in genome.contigs.items()]
    bases, before, began = sum(map(len, sequences)), process_peak(), time.process_time()
    counts = Counts.fit(sequences, bases=bases)
    seconds = time.process_time() - began
    print(
        f"{bases / seconds / 1e6:.1f} Mb/s, {seconds:.2f} s; {counts.occurrences:,} occurrences; "
        f"{(process_peak() - before) / 1e6:,.0f} MB at the highest, {counting_bytes(bases) / 1e6:,.0f} MB said before; "
        f"{(counts.rest.nbytes + counts.places.nbytes) / 1e6:,.0f} MB kept"
    )


if __name__ == "__main__":
    main()
