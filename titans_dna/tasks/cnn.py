"""The small convolutional network that GenomicBenchmarks publishes figures of.

Grešová, Martinek, Čechák, Šimeček, Alexiou: Genomic benchmarks, BMC Genomic Data 24, 25 (2023).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, RandomSampler

from titans_dna.labels.data import LabelledData, Rows
from titans_dna.tokens import vocabulary as voc
from titans_dna.train.learner import Learner
from titans_dna.train.loop import Loop, Machine, Settings

if TYPE_CHECKING:
    from lightning.fabric import Fabric

NARROWEST = 64
"""Tokens that three convolutions and poolings need, and a few more."""
LR = 1e-3

Batch = tuple[Tensor, Tensor]
"""ids uint8 [b, width], labels [b]"""


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
        learner = _Classifier(GenomicBenchmarksCNN(width, _outputs(data)), data, seed, batch_size)
        loop = Loop(
            learner,
            torch.optim.Adam(learner.parameters(), lr=LR),
            Settings(steps * epochs, lambda step: LR, valid_every=steps, patience=max(1, epochs // 3)),
            Machine(accelerator),
            validate=learner.validate,
            monitor=lambda found: -found["valid_loss"],
            title=f"cnn, seed {seed}",
        )
        done = loop.run(lambda step, fabric: learner.epochs())
    assert done.best is not None
    learner.model.load_state_dict(done.best.weights)
    return learner.scores(data.test)


class GenomicBenchmarksCNN(nn.Module):
    """Embedding of 100, three convolutions of 8 tokens (16, 8, 4 channels) with norm and pooling, two dense layers.

    width: tokens of every sequence, padding included. outputs: 1 for binary and regression.
    """

    def __init__(self, width: int, outputs: int, embedding: int = 100) -> None:
        super().__init__()
        self.width = width
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


class _Classifier(Learner):
    """The network as the loop trains it, on the rows of one data set."""

    repeatable = False  # pooling adds gradients up as they come

    def __init__(self, network: GenomicBenchmarksCNN, data: LabelledData, seed: int, batch_size: int) -> None:
        super().__init__(network, seed)
        self._data, self._batch_size = data, batch_size
        self._width = network.width
        # Of the labels of a regression: it learns them in units of their deviation.
        self._mean, self._deviation = float(data.train.labels.mean()), float(data.train.labels.std()) or 1.0

    def epochs(self) -> Iterator[list[Batch]]:
        """Every row of train in another order, epoch after epoch without end."""
        rows, generator = self._data.train, torch.Generator().manual_seed(self.seed)
        order = BatchSampler(RandomSampler(range(len(rows)), generator=generator), self._batch_size, drop_last=False)
        while True:
            # No further than the last batch: the sampler would draw once more.
            for numbers in itertools.islice(order, len(order)):
                yield [self._padded(rows, numbers)]

    @torch.inference_mode()
    def validate(self, fabric: Fabric) -> dict[str, float]:
        """The mean loss of the validation rows."""
        self.model.eval()
        batches = [fabric.to_device(one) for one in self._in_order(self._data.valid)]
        losses, rows = np.array([(float(self.loss(one)), len(one[0])) for one in batches]).T
        self.model.train()
        return {"valid_loss": float((losses * rows).sum() / rows.sum())}

    @torch.inference_mode()
    def scores(self, rows: Rows) -> np.ndarray:
        """[n, classes], for regression [n]."""
        self.model.eval()
        out = torch.cat([self.model(ids) for ids, _ in self._in_order(rows)]).double()
        task = self._data.task
        if task == "regression":
            return (out[:, 0] * self._deviation + self._mean).numpy()
        if task == "multiclass":
            return out.softmax(dim=1).numpy()
        likely = out.sigmoid()
        return (likely if task == "multilabel" else torch.cat([1 - likely, likely], dim=1)).numpy()

    def loss(self, part: Batch) -> Tensor:
        ids, labels = part
        out, task = self.model(ids), self._data.task
        if task == "regression":
            return F.mse_loss(out[:, 0], ((labels - self._mean) / self._deviation).to(out.dtype))
        if task == "multiclass":
            return F.cross_entropy(out, labels)
        wanted = labels if task == "multilabel" else labels[:, None]
        return F.binary_cross_entropy_with_logits(out, wanted.to(out.dtype))

    def _in_order(self, rows: Rows) -> Iterator[Batch]:
        for start in range(0, len(rows), self._batch_size):
            yield self._padded(rows, range(start, min(start + self._batch_size, len(rows))))

    def _padded(self, rows: Rows, numbers: Sequence[int]) -> Batch:
        ids = np.full((len(numbers), self._width), voc.PAD, dtype=np.uint8)
        for row, number in zip(ids, numbers, strict=True):
            letters = rows.sequences[number][: self._width - 2]
            row[0], row[1 + len(letters)] = voc.BOS, voc.SEP
            row[1 : 1 + len(letters)] = np.frombuffer(letters.translate(voc.LETTER_IDS), dtype=np.uint8)
        return torch.from_numpy(ids), torch.from_numpy(rows.labels[list(numbers)])


def _outputs(data: LabelledData) -> int:
    return len(data.classes) if data.task in ("multiclass", "multilabel") else 1
