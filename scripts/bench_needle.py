"""Needle in a genome: train small models to recall words planted in real sequence, and ask them 1,000 to 1,000,000 bases later.

python scripts/bench_needle.py --fasta genome.fa --models lmm mag --out runs/needle
"""

from __future__ import annotations

import jsonargparse

from needle.options import NeedleOptions, NeedleRunOptions, NeedleTaskOptions, NeedleTrainOptions
from needle.run import bench_needle
from titans_dna.flags import add_options, part

PARTS = (NeedleRunOptions, NeedleTaskOptions, NeedleTrainOptions)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark with these arguments, by default the process's."""
    parser = jsonargparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    for kind in PARTS:
        add_options(parser, kind, str(kind.__doc__))
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, given the same options")
    values = parser.parse_args(arguments)
    print(bench_needle(NeedleOptions(*(part(kind, values) for kind in PARTS)), resume=values.resume))


if __name__ == "__main__":
    main()
