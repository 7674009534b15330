"""From plans to batches: fetch the letters of each window, turn them into ids, pad, weigh; with or without worker processes.

Imports no Lightning: a spawned worker starts sooner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from titans_dna.genome.genome import Genome
from titans_dna.genome.sampler import Plan
from titans_dna.genome.stretches import Window
from titans_dna.tokens.nucleotide import NucleotideTokenizer
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import Tokenizer


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


def _pack(batch: WindowBatch, id_type: np.dtype) -> dict[str, Any]:
    return {**batch, "ids": batch["ids"].numpy().astype(id_type), "weight": batch["weight"].numpy()}
