"""The small convolutional network that GenomicBenchmarks publishes figures of.

Grešová, Martinek, Čechák, Šimeček, Alexiou: Genomic benchmarks, BMC Genomic Data 24, 25 (2023).
"""

from __future__ import annotations

import itertools
import logging
import math
import signal
import threading
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from lightning import pytorch as pl
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from titans_dna.labels.data import LabelledData, Rows, Task
from titans_dna.tokens import vocabulary as voc

NARROWEST = 64
"""Tokens that three convolutions and poolings need, and a few more."""


def cnn(
    data: LabelledData, seed: int, *, epochs: int | None = None, batch_size: int = 64, accelerator: str = "auto"
) -> np.ndarray:
    """Train the network, and give its scores for `data.test`: [n, classes], for regression [n].

    Adam with a learning rate of 1e-3; the weights of the epoch with the least validation loss count, and a third of the
    epochs without a lesser one ends the training. Sequences are padded to the longest of train, as upstream does, and
    test sequences longer than that lose their end.

    epochs: by default 10, or as many as make 1,000 steps where that is more.
    """
    data.want_test()
    width = max(NARROWEST, int(data.train.lengths().max()) + 2)
    steps = math.ceil(len(data.train) / batch_size)
    epochs = epochs or max(10, math.ceil(1000 / steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _Training(GenomicBenchmarksCNN(width, _outputs(data)), data)
    shuffled = RandomSampler(range(len(data.train)), generator=torch.Generator().manual_seed(seed))
    train = _loader(data.train, width, BatchSampler(shuffled, batch_size, drop_last=False))
    _fit(module, train, _in_order(data.valid, width, batch_size), epochs, accelerator)
    return module.scores(_in_order(data.test, width, batch_size))


class GenomicBenchmarksCNN(nn.Module):
    """Embedding of 100, three convolutions of 8 tokens (16, 8, 4 channels) with norm and pooling, two dense layers.

    width: tokens of every sequence, padding included. outputs: 1 for binary and regression.
    """

    def __init__(self, width: int, outputs: int, embedding: int = 100) -> None:
        super().__init__()
        self.embedding = nn.Embedding(voc.SINGLES, embedding)
        channels = (embedding, 16, 8, 4)
        self.convolutions = [nn.Conv1d(i, o, 8) for i, o in itertools.pairwise(channels)]
        self.norms = [nn.BatchNorm1d(o) for o in channels[1:]]
        self.layers = nn.ModuleList([*self.convolutions, *self.norms])
        for _ in self.norms:
            width = (width - 7) // 2
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(4 * width, 512), nn.Linear(512, outputs))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [b, width] → [b, outputs]"""
        x = F.one_hot(ids.long(), voc.SINGLES).to(self.embedding.weight.dtype).transpose(1, 2)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            weight = convolution.weight
            if i == 0:
                # Embedding, then convolution, as one convolution of the one-hot ids: the same function at a tenth of the
                # cost, since there are fewer ids than embedding channels.
                weight = torch.einsum("vc,ock->ovk", self.embedding.weight, weight)
            x = F.max_pool1d(F.relu(norm(F.conv1d(x, weight, convolution.bias))), 2)
        return self.dense(x)


class _Training(pl.LightningModule):
    """Loss, optimiser, and the weights of the best epoch."""

    def __init__(self, network: GenomicBenchmarksCNN, data: LabelledData) -> None:
        super().__init__()
        self.network = network
        self._task: Task = data.task
        # Of the labels of a regression: it learns them in units of their deviation.
        self._mean, self._deviation = float(data.train.labels.mean()), float(data.train.labels.std()) or 1.0
        self._losses: list[tuple[float, int]] = []
        self._best = math.inf
        self._best_weights: dict[str, Tensor] = {}
        self._since = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        return self._loss(*batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        self._losses.append((float(self._loss(*batch)), len(batch[0])))

    def on_validation_epoch_end(self) -> None:
        losses, rows = np.array(self._losses).T
        loss = float((losses * rows).sum() / rows.sum())
        self._losses.clear()
        self._since += 1
        if loss < self._best or not self._best_weights:
            self._best, self._since = loss, 0
            self._best_weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        elif self._since >= max(1, (self.trainer.max_epochs or 1) // 3):
            self.trainer.should_stop = True

    @torch.inference_mode()
    def scores(self, batches: DataLoader) -> np.ndarray:
        """With the weights of the best epoch."""
        self.network.load_state_dict(self._best_weights)
        self.network.eval()
        out = torch.cat([self.network(ids.to(self.device)) for ids, _ in batches]).double().cpu()
        if self._task == "regression":
            return (out[:, 0] * self._deviation + self._mean).numpy()
        if self._task == "multiclass":
            return out.softmax(dim=1).numpy()
        likely = out.sigmoid()
        return (likely if self._task == "multilabel" else torch.cat([1 - likely, likely], dim=1)).numpy()

    def _loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        out = self.network(ids)
        if self._task == "regression":
            return F.mse_loss(out[:, 0], ((labels - self._mean) / self._deviation).to(out.dtype))
        if self._task == "multiclass":
            return F.cross_entropy(out, labels)
        wanted = labels if self._task == "multilabel" else labels[:, None]
        return F.binary_cross_entropy_with_logits(out, wanted.to(out.dtype))


class _Padded(Dataset[tuple[Tensor, Tensor]]):
    """Row numbers of a batch → ids uint8 [b, width] and labels."""

    def __init__(self, rows: Rows, width: int) -> None:
        self._rows, self._width = rows, width

    def __getitem__(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        ids = np.full((len(numbers), self._width), voc.PAD, dtype=np.uint8)
        for row, number in zip(ids, numbers, strict=True):
            letters = self._rows.sequences[number][: self._width - 2]
            row[0], row[1 + len(letters)] = voc.BOS, voc.SEP
            row[1 : 1 + len(letters)] = np.frombuffer(letters.translate(voc.LETTER_IDS), dtype=np.uint8)
        return torch.from_numpy(ids), torch.from_numpy(self._rows.labels[list(numbers)])

    def __len__(self) -> int:
        return len(self._rows)


def _outputs(data: LabelledData) -> int:
    return len(data.classes) if data.task in ("multiclass", "multilabel") else 1


def _in_order(rows: Rows, width: int, batch_size: int) -> DataLoader:
    return _loader(rows, width, BatchSampler(SequentialSampler(range(len(rows))), batch_size, drop_last=False))


def _loader(rows: Rows, width: int, batches: BatchSampler) -> DataLoader:
    # Its own generator: the default one would draw from the global random numbers.
    return DataLoader(_Padded(rows, width), sampler=batches, batch_size=None, generator=torch.Generator())


def _fit(module: _Training, train: DataLoader, valid: DataLoader, epochs: int, accelerator: str) -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    outside = _Signals()
    trainer = pl.Trainer(
        accelerator=accelerator, devices=1, max_epochs=epochs, logger=False, enable_checkpointing=False, callbacks=[outside],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)  # advice on workers and on batch sizes
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
        try:
            trainer.fit(module, train, valid)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise outside.stopped or KeyboardInterrupt from None


class _Signals(pl.Callback):
    """Signals end the training as they would end anything else of the caller's, not in Lightning's ways."""

    def __init__(self) -> None:
        self._terminate = signal.getsignal(signal.SIGTERM)
        self.stopped: BaseException | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.stopped = exception
