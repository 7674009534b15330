"""From plans to batches: fetch the letters of each window, turn them into ids, pad, weigh; with or without worker processes.

Imports no Lightning, so that a spawned worker starts sooner.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from titans_dna.genome.genome import Genome
from titans_dna.genome.intervals import Split
from titans_dna.genome.sampler import LaneSampler, LengthWarmup, Plan, Window, WindowSampler, find_gaps
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import Tokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer


class WindowBatch(TypedDict):
    """Rows r of one batch; ids[:, :-1] are inputs, ids[:, 1:] their targets.

    ids: int64 [b, t + 1], right-padded with PAD. weight: float32 [b, t + 1], the loss weight of each token as a
    target, 0 on PAD. reset: the model starts from a fresh state. bases: letters in the batch, PAD not counted.
    batch: the batch's number.
    """

    ids: torch.Tensor
    weight: torch.Tensor
    reset: bool
    bases: int
    batch: int


class GenomeDataset(Dataset[WindowBatch]):
    """A map-style dataset over whole batches: `dataset[plan]` is the batch that a sampler's plan describes.

    For a DataLoader with `sampler=` one of the samplers (or a list of plans) and `batch_size=None`.

    soft_masked_weight: loss weight of lower-case letters; that of a token of several bases is their mean.
    cache_bases: a genome of at most this many bases is kept in memory, one byte a base, which forked workers share.

    t is the plan's context for a tokeniser of one token per base. Other tokenisers make fewer tokens of a window's
    context + 1 bases, and the batch is as wide as its longest row.
    Raises ValueError for a negative soft_masked_weight.
    """

    def __init__(
        self,
        genome: Genome,
        tokenizer: Tokenizer,
        *,
        soft_masked_weight: float = 1.0,
        cache_bases: int = 512_000_000,
    ) -> None:
        if not 0 <= soft_masked_weight < float("inf"):
            raise ValueError(f"soft_masked_weight: got {soft_masked_weight}, want at least 0")
        self.genome = genome
        self.tokenizer = tokenizer
        self.soft_masked_weight = soft_masked_weight
        self.cache_bases = cache_bases
        self._cache = self._read_all()

    def __getitem__(self, plan: Plan) -> WindowBatch:
        rows = [self._row(self._letters(window)) for window in plan.windows]
        one_each = isinstance(self.tokenizer, NucleotideTokenizer)
        width = plan.context + 1 if one_each else max(len(tokens) for tokens, _ in rows)
        ids = np.full((len(rows), width), self.tokenizer.pad_id, np.int64)
        weight = np.zeros((len(rows), width), np.float32)
        for row, (tokens, weights) in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            weight[row, : len(tokens)] = weights
        return {
            "ids": torch.from_numpy(ids),
            "weight": torch.from_numpy(weight),
            "reset": plan.reset,
            "bases": sum(window.end - window.start for window in plan.windows),
            "batch": plan.batch,
        }

    def _letters(self, window: Window) -> bytes:
        contig = self._cache.get(window.contig)
        if contig is None:
            return read_window(self.genome, window)
        letters = contig[window.start : window.end]
        return reverse_complement(letters) if window.reverse else letters

    def _row(self, letters: bytes) -> tuple[np.ndarray, np.ndarray | float]:
        tokens = self.tokenizer.encode(letters)
        if self.soft_masked_weight == 1:
            return tokens, 1.0
        lower = np.frombuffer(letters, np.uint8) >= ord("a")
        weights = np.where(lower, np.float32(self.soft_masked_weight), np.float32(1))
        if not isinstance(self.tokenizer, NucleotideTokenizer):
            start, end = self.tokenizer.spans(letters).T
            upto = np.append(0.0, np.cumsum(weights, dtype=np.float64))
            weights = (upto[end] - upto[start]) / (end - start)
        return tokens, weights

    def _read_all(self) -> dict[str, bytes]:
        contigs = self.genome.contigs
        if sum(contigs.values()) > self.cache_bases:
            return {}
        return {name: self.genome.fetch(name, 0, bases) for name, bases in contigs.items()}

    # A spawned worker reads the genome itself: quicker than taking it through a pipe.
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._cache = self._read_all()


def window_sequences(genome: Genome, plans: Iterable[Plan]) -> Iterator[bytes]:
    """The letters of every window of the plans, in order, as the dataset reads them; empty windows left out.

    A model that scores each of them from its second base on has the very targets of the language model.
    """
    for plan in plans:
        for window in plan.windows:
            if window.start < window.end:
                yield read_window(genome, window)


def read_window(genome: Genome, window: Window) -> bytes:
    """Letters of one window on its own strand, case kept."""
    letters = genome.fetch(window.contig, window.start, window.end)
    return reverse_complement(letters) if window.reverse else letters


class BatchLoader:
    """Iterable over batches around a DataLoader.

    Not a DataLoader itself on purpose: in those Lightning replaces the sampler when there are several ranks, and
    warns of few workers. `len()` is that of the sampler, TypeError where it is endless.

    Workers send small arrays through their pipe: 12 bytes a base in shared memory cost them most of their time.
    """

    def __init__(
        self, dataset: GenomeDataset, plans: Iterable[Plan], *, workers: int, start_method: str | None, pin_memory: bool
    ) -> None:
        self.pin_memory = pin_memory
        self.loader = DataLoader(
            dataset,
            sampler=plans,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context=start_method if workers else None,
            collate_fn=cast(Any, partial(_pack, id_type=np.min_scalar_type(dataset.tokenizer.vocab_size))),
        )

    def __iter__(self) -> Iterator[WindowBatch]:
        return map(self._unpack, self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def _unpack(self, packed: dict[str, Any]) -> WindowBatch:
        ids = torch.from_numpy(packed["ids"].astype(np.int64))
        weight = torch.from_numpy(packed["weight"])
        if self.pin_memory:
            ids, weight = ids.pin_memory(), weight.pin_memory()
        return cast(WindowBatch, {**packed, "ids": ids, "weight": weight})


class GenomeDataModule:
    """Batches (see `WindowBatch`) for training, without end. A batch depends on (seed, number, rank) alone.

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


def _pack(batch: WindowBatch, id_type: np.dtype) -> dict[str, Any]:
    return {**batch, "ids": batch["ids"].numpy().astype(id_type), "weight": batch["weight"].numpy()}


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
