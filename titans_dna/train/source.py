"""From options to genome, tokeniser, split and batches; every complaint about the input comes from here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from titans_dna.genome.batches import GenomeDataModule, window_sequences
from titans_dna.genome.genome import Genome, open_genomes
from titans_dna.genome.intervals import (
    Interval,
    Split,
    merge,
    read_bed,
    split_by_bed,
    split_by_blocks,
    split_by_contig,
    want_split,
    whole_contigs,
)
from titans_dna.genome.sampler import LengthWarmup, Plan, Window, validation_plans
from titans_dna.run.progress import Progress
from titans_dna.tokens.bpe import BPETokenizer
from titans_dna.tokens.tokenizer import Tokenizer, make_tokenizer
from titans_dna.tokens.vocabulary import SINGLES
from titans_dna.train.options import EMBEDDED, DataOptions, PretrainOptions

LEARNT_AT_ONCE = 1 << 20
"""Bases that are read at a time while a tokenizer is learned."""


class Source(NamedTuple):
    """The data of a run."""

    genome: Genome
    tokenizer: Tokenizer
    split: Split
    module: GenomeDataModule
    valid_plans: list[Plan]
    """Windows of `context` bases, or of `lane` bases where lanes are trained."""

    @property
    def train_bases(self) -> int:
        """Bases to train on."""
        return sum(map(len, self.split.train))

    @property
    def valid_targets(self) -> int:
        """Bases that a validation scores, N included."""
        return sum(window.end - window.start - 1 for plan in self.valid_plans for window in plan.windows)

    def valid_batches(self) -> Iterator[dict[str, Any]]:
        """The validation batches, the same each time."""
        return (dict(self.module.dataset[plan]) for plan in self.valid_plans)

    def train_letters(self) -> Iterator[bytes]:
        """Each training interval's letters."""
        return (self.genome.fetch(one.contig, one.start, one.end) for one in self.split.train)

    def valid_letters(self) -> Iterator[bytes]:
        """Each validation window's letters, its first one no target."""
        return window_sequences(self.genome, self.valid_plans)

    def describe(self) -> dict[str, Any]:
        """Files, fingerprint and sizes, as `data.json` keeps them."""
        return {
            "files": [str(path) for path in self.genome.paths],
            "fingerprint": self.genome.fingerprint(),
            "contigs": len(self.genome.contigs),
            "bases": sum(self.genome.contigs.values()),
            **{
                f"{name}_{what}": value
                for name, part in self.split._asdict().items()
                for what, value in (("intervals", len(part)), ("bases", sum(map(len, part))))
            },
        }


def open_source(options: PretrainOptions) -> Source:
    """Open, check and split the data.

    Raises ValueError or OSError for anything wrong with the files, the BED or the lengths asked for.
    """
    data, optimiser = options.data, options.optimiser
    with ExitStack() as stack:
        genome = open_genomes([_path(name, stack) for name in data.fasta])
    longest = max(genome.contigs.values())
    if data.context > longest:
        raise ValueError(f"--context: got {data.context} bases, want at most {longest}, the longest contig")
    learned = re.fullmatch(r"bpe-(\d+)", data.tokenizer)
    tokenizer = None if learned else make_tokenizer(data.tokenizer)
    split = make_split(genome, data)
    tokenizer = tokenizer or learn_tokenizer(genome, split.train, int(data.tokenizer.removeprefix("bpe-")))
    warmup = None
    if optimiser.length_warmup:
        doublings = optimiser.length_warmup
        stage = max(optimiser.steps // 2 // doublings, 1) * optimiser.accumulate
        warmup = LengthWarmup(data.context >> doublings, stage)
    module = GenomeDataModule(
        genome,
        split,
        tokenizer,
        context=data.context,
        batch_size=optimiser.batch_size,
        lane=data.lane,
        seed=optimiser.seed,
        reverse_complement=data.rc_augment,
        max_n=data.max_n,
        soft_masked_weight=data.soft_masked_weight,
        warmup=warmup,
        workers=options.run.workers,
    )
    plans = validation_plans(
        split.valid,
        context=data.lane or data.context,
        batch_size=optimiser.batch_size,
        max_bases=data.valid_bases or None,
        wanted=lambda window: _holds_base(genome, window),
    )
    if not any(_holds_base(genome, window) for plan in plans for window in plan.windows):
        raise ValueError("--split: got held-out sequence without any A, C, G or T, want some to score")
    return Source(genome, tokenizer, split, module, plans)


def learn_tokenizer(genome: Genome, intervals: Sequence[Interval], size: int) -> Tokenizer:
    """Byte-pair encoding with so many ids, from the bases of the intervals; the same ones give the same tokenizer."""

    def pieces() -> Iterator[bytes]:
        with Progress(f"learning bpe-{size}: reading", float(sum(map(len, intervals)))) as progress:
            for one in intervals:
                for start in range(one.start, one.end, LEARNT_AT_ONCE):
                    end = min(start + LEARNT_AT_ONCE, one.end)
                    yield genome.fetch(one.contig, start, end)
                    progress.add(end - start)

    if size <= SINGLES:
        raise ValueError(f"--tokenizer: got bpe-{size}, want more than {SINGLES} ids, such as bpe-4096")
    return BPETokenizer.train(pieces(), size)


def describe_plan(options: PretrainOptions, source: Source, parameters: int) -> list[str]:
    """Lines on data, model and steps."""
    data, optimiser = options.data, options.optimiser
    per_step = optimiser.batch_size * optimiser.accumulate * options.run.devices * data.context
    total = per_step * optimiser.steps
    genome = source.genome
    lines = [
        f"data: {len(genome.contigs):,} contig(s), {sum(genome.contigs.values()):,} bases; {source.train_bases:,} to "
        f"train on, {sum(map(len, source.split.valid)):,} held out, of which {source.valid_targets:,} are scored",
        f"model: {options.model.preset}, {options.config.architecture}, {parameters:,} parameters, "
        f"tokenizer {source.tokenizer.name}",
        f"plan: {optimiser.steps:,} steps of {per_step:,} bases, {total:,} in all: {total / source.train_bases:.2f} "
        "times the training bases",
    ]
    if optimiser.warmup >= optimiser.steps:
        reached = optimiser.lr * optimiser.steps / optimiser.warmup
        lines.append(
            f"warm-up: {optimiser.warmup:,} steps, and the run ends in it, at a learning rate of {reached:.2g}"
        )
    if data.bed and (lost := _given_way(source, data)):
        lines.append(
            f"split: {lost:,} training bases of {data.bed} are left out: held-out ones, or within a context of one"
        )
    longest = max(map(len, source.split.train))
    if data.lane > longest:
        lines.append(f"lanes: --lane of {data.lane:,} bases is longer than the longest training interval, {longest:,}")
    if data.lane:
        lines.append(f"lanes: the state is carried over {data.lane:,} bases, {data.context:,} at a time")
    if source.module.warmup is not None:
        stage = source.module.warmup.stage_batches // optimiser.accumulate
        contexts = source.module.warmup.stages(data.context)
        first = [f"{context:,} bases for {stage:,} steps" for context in contexts[:-1]]
        lines.append(f"length warm-up: {', '.join(first)}, then {contexts[-1]:,} bases")
    return lines


def _given_way(source: Source, data: DataOptions) -> int:
    """Bases of the BED file's training rows that are not trained on."""
    rows = read_bed(str(data.bed), source.genome)
    asked = merge([row.interval for row in rows if row.split == "train"])
    return sum(map(len, asked)) - source.train_bases if asked else 0


def make_split(genome: Genome, data: DataOptions) -> Split:
    """Training and held-out intervals, as `--split`, `--bed` and the options beside them say."""
    rows = read_bed(data.bed, genome) if data.bed else []
    if data.split == "contig":
        split = split_by_contig(genome, valid=data.valid_contigs, context=data.context)
        return split
    regions = [row.interval for row in rows] if rows else whole_contigs(genome)
    block = data.block or default_block(regions)
    if rows and data.bed:
        want_split(data.bed, rows, every=data.split == "bed" or any(row.split for row in rows))
        return split_by_bed(rows, context=data.context, valid_fraction=data.valid_fraction, block=block)
    return split_by_blocks(genome, valid_fraction=data.valid_fraction, block=block, context=data.context)


def default_block(regions: list[Interval]) -> int:
    """A fortieth of all bases, at most 100 kb: four held-out places in the smallest genome."""
    return min(max(sum(map(len, regions)) // 40, 1), 100_000)


def _holds_base(genome: Genome, window: Window) -> bool:
    """Whether anything in a window is scored: not in a gap of N, nor where the first letter alone is a base."""
    return bool(_BASE.search(genome.fetch(window.contig, window.start + 1, window.end)))


_BASE = re.compile(rb"[ACGTUacgtu]")


def _path(name: str, stack: ExitStack) -> Path:
    if name in EMBEDDED:
        return stack.enter_context(resources.as_file(resources.files("titans_dna") / "genomes" / f"{name}.fa"))
    return Path(name)
