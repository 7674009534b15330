"""Training batches of a genome."""

from __future__ import annotations

import multiprocessing
import os
import sys
from functools import partial

import torch

from titans_dna.genome.batches import BatchLoader, GenomeDataset
from titans_dna.genome.genome import Genome
from titans_dna.genome.intervals import Split
from titans_dna.genome.sampler import LaneSampler, LengthWarmup, WindowSampler
from titans_dna.genome.stretches import find_gaps
from titans_dna.tokens.nucleotide import NucleotideTokenizer
from titans_dna.tokens.tokenizer import Tokenizer


class GenomeDataModule:
    """Batches (see `Batch`) for training, without end. A batch depends on (seed, number, rank) alone.

    context, batch_size: bases of a window, and windows per batch and rank.
    lane: 0 for independent windows, else the bases over which the state is carried, a multiple of `context`.
    max_n: largest share of letters other than A, C, G, T in a training window (or lane).
    warmup: shorter windows first; not with lanes.
    workers: processes that load; at most one for each core is started.
    start_method: fork, spawn or forkserver; None is fork on Linux, spawn elsewhere.

    Raises ValueError naming the argument, the value got and the value wanted.
    """

    def __init__(
        self,
        genome: Genome,
        split: Split,
        tokenizer: Tokenizer,
        *,
        context: int,
        batch_size: int,
        lane: int = 0,
        seed: int = 0,
        reverse_complement: bool = True,
        max_n: float = 0.5,
        soft_masked_weight: float = 1.0,
        warmup: LengthWarmup | None = None,
        workers: int = 0,
        start_method: str | None = None,
        cache_bases: int = 512_000_000,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers: got {workers}, want at least 0")
        if start_method not in (None, *multiprocessing.get_all_start_methods()):
            known = ", ".join(multiprocessing.get_all_start_methods())
            raise ValueError(f"start_method: got {start_method!r}, want one of {known}")
        if lane and not isinstance(tokenizer, NucleotideTokenizer):
            raise ValueError(f"lane: got {lane} with the tokenizer {tokenizer.name}, want one of single nucleotides")
        if lane and warmup is not None:
            raise ValueError(f"lane: got {lane} together with a warm-up of the context, want one of them")
        self.split = split
        self.context, self.batch_size, self.lane, self.seed = context, batch_size, lane, seed
        self.reverse_complement, self.max_n, self.warmup = reverse_complement, max_n, warmup
        self.workers, self.start_method = workers, start_method
        self.dataset = GenomeDataset(genome, tokenizer, soft_masked_weight=soft_masked_weight, cache_bases=cache_bases)
        self._gaps = find_gaps(genome, split.train) if max_n < 1 else None
        self.sampler()  # complains about the arguments now rather than when training starts

    def sampler(self, *, start: int = 0, rank: int = 0, world_size: int = 1) -> WindowSampler | LaneSampler:
        """The sampler of the training batches of one rank, from batch number `start` on."""
        kind = partial(LaneSampler, lane=self.lane) if self.lane else partial(WindowSampler, warmup=self.warmup)
        return kind(
            self.split.train,
            context=self.context,
            batch_size=self.batch_size,
            seed=self.seed,
            reverse_complement=self.reverse_complement,
            max_n=self.max_n,
            gaps=self._gaps,
            start=start,
            rank=rank,
            world_size=world_size,
        )

    def train_batches(self, start: int = 0, *, rank: int = 0, ranks: int = 1) -> BatchLoader:
        """Batches `start`, `start` + 1, … of one rank of several, without end."""
        method = self.start_method or ("fork" if sys.platform == "linux" else "spawn")
        return BatchLoader(
            self.dataset,
            self.sampler(start=start, rank=rank, world_size=ranks),
            workers=min(self.workers, max(_cores() // ranks, 1)),
            start_method=method,
            pin_memory=torch.cuda.is_available(),
        )


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
