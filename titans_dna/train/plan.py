"""What a run is going to do, in words, before it does it."""

from __future__ import annotations

from titans_dna.train.options import PretrainOptions
from titans_dna.train.source import Source


def describe_plan(options: PretrainOptions, source: Source, parameters: int) -> list[str]:
    """Lines on data, model and steps."""
    data, optimiser = options.data, options.optimiser
    per_step = optimiser.batch_size * optimiser.accumulate * options.run.devices * data.context
    total = per_step * optimiser.steps
    genome = source.genome
    lines = [
        f"data: {len(genome.contigs):,} contig(s), {sum(genome.contigs.values()):,} bases; {source.train_bases:,} to "
        f"train on, {sum(map(len, source.split.valid)):,} held out, of which {source.valid_targets:,} are scored",
        f"model: {options.model.preset}, {options.config.variant}, {parameters:,} parameters, "
        f"tokenizer {source.tokenizer.name}",
        f"plan: {optimiser.steps:,} steps of {per_step:,} bases, {total:,} in all: {total / source.train_bases:.2f} "
        "times the training bases",
    ]
    if data.lane:
        lines.append(f"lanes: the state is carried over {data.lane:,} bases, {data.context:,} at a time")
    if source.module.warmup is not None:
        stage = source.module.warmup.stage_batches // optimiser.accumulate
        contexts = source.module.warmup.stages(data.context)
        first = [f"{context:,} bases for {stage:,} steps" for context in contexts[:-1]]
        lines.append(f"length warm-up: {', '.join(first)}, then {contexts[-1]:,} bases")
    return lines
