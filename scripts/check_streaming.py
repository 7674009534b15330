"""A long sequence in one call and in pieces, float32: the largest difference between what they say. For docs/long_context.md.

    python scripts/check_streaming.py [--fasta genome.fa] [--bases 1048576] [--pieces 8192 9973] [--variants lmm mac mag mal]

The difference is that of the logits, in units of the largest logit of the one call; beside it the difference of bits per base.
One call over a million bases needs about 8 GB. Exits 1 where a difference is over 1e-4.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import torch
import torch.nn.functional as F

from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.genome.genome import open_genome
from titans_dna.nn.model import TitansDNA, tensors_of
from titans_dna.tokens.vocabulary import NucleotideTokenizer

LIMIT = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", help="sequence file, its first contig; by default random bases")
    parser.add_argument("--bases", type=int, default=1 << 20)
    parser.add_argument("--pieces", type=int, nargs="+", default=[8192, 9973])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--preset", default="small-0.1.0")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    ids = read(options)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {options.preset}, {ids.shape[1]:,} bases\n")
    print(
        "| variant | piece | logits | state | bits per base, one call | in pieces | seconds |\n|---|---|---|---|---|---|---|"
    )
    worst = max(compare(variant, ids, options) for variant in options.variants)
    print(f"\nlargest difference {worst:.1e}, wanted at most {LIMIT:.0e}")
    sys.exit(int(worst > LIMIT))


def read(options: argparse.Namespace) -> torch.Tensor:
    if options.fasta is None:
        return torch.randint(7, 11, (1, options.bases), generator=torch.Generator().manual_seed(0))
    genome = open_genome(options.fasta)
    name, length = next(iter(genome.contigs.items()))
    letters = genome.fetch(name, 0, min(options.bases, length))
    return torch.from_numpy(NucleotideTokenizer().encode(letters)).long()[None]


@torch.inference_mode()
def compare(variant: str, ids: torch.Tensor, options: argparse.Namespace) -> float:
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig.preset(options.preset, variant=variant)).eval()
    one, worst = model(ids), 0.0
    largest = float(one.logits.abs().max())
    for piece in options.pieces:
        state, apart, nats, start = None, 0.0, 0.0, time.perf_counter()
        for first in range(0, ids.shape[1], piece):
            out = model(ids[:, first : first + piece], state)
            state, whole = out.state, one.logits[:, first : first + piece]
            apart = max(apart, float((out.logits - whole).abs().max()))
            nats += cost(out.logits, ids, first)
        seconds = time.perf_counter() - start
        pairs = list(zip(tensors_of(state), tensors_of(one.state), strict=True))
        of_state = max(float((a - b).abs().max()) for a, b in pairs) / max(float(b.abs().max()) for _, b in pairs)
        worst = max(worst, apart / largest, of_state)
        bits = [x / math.log(2) / (ids.shape[1] - 1) for x in (cost(one.logits, ids, 0), nats)]
        print(
            f"| {variant} | {piece:,} | {apart / largest:.1e} | {of_state:.1e} | {bits[0]:.6f} | {bits[1]:.6f} | "
            f"{seconds:.0f} |",
            flush=True,
        )
    return worst


def cost(logits: torch.Tensor, ids: torch.Tensor, first: int) -> float:
    """Nats of the targets of logits that start at token `first`."""
    targets = ids[0, first + 1 : first + 1 + logits.shape[1]]
    return float(F.cross_entropy(logits[0, : len(targets)], targets, reduction="none").double().sum())


if __name__ == "__main__":
    main()
