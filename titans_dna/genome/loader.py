"""Batches from the dataset, with or without worker processes. Imports no Lightning: a spawned worker starts sooner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from titans_dna.genome.dataset import Batch, GenomeDataset
from titans_dna.genome.sampler import Plan


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

    def __iter__(self) -> Iterator[Batch]:
        return map(self._unpack, self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def _unpack(self, packed: dict[str, Any]) -> Batch:
        ids = torch.from_numpy(packed["ids"].astype(np.int64))
        weight = torch.from_numpy(packed["weight"])
        if self.pin_memory:
            ids, weight = ids.pin_memory(), weight.pin_memory()
        return cast(Batch, {**packed, "ids": ids, "weight": weight})


def _pack(batch: Batch, id_type: np.dtype) -> dict[str, Any]:
    return {**batch, "ids": batch["ids"].numpy().astype(id_type), "weight": batch["weight"].numpy()}
