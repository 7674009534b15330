"""Loaders: the same batches however many workers, under Lightning, resumed, and by rank."""

import itertools
import random

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from titans_dna.genome.batches import window_sequences
from titans_dna.genome.datamodule import GenomeDataModule
from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import Interval, Split
from titans_dna.genome.sampler import LengthWarmup
from titans_dna.tokens.tokenizer import KmerTokenizer, NucleotideTokenizer

SPLIT = Split((Interval("a", 0, 3000), Interval("a", 3600, 5000)), (Interval("a", 3100, 3501),))


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    bases = "".join(random.Random(2).choices("ACGTacgt", k=2000)) + "N" * 300
    (folder / "one.fa").write_text(f">a\n{bases}{''.join(random.Random(3).choices('ACGT', k=2700))}\n")
    return open_genome(folder / "one.fa", cache_dir=folder / "cache")


def module(genome, **changes):
    arguments = {"split": SPLIT, "tokenizer": NucleotideTokenizer(), "context": 64, "batch_size": 4, "seed": 5}
    return GenomeDataModule(genome, **{**arguments, **changes})


def same(first, second):
    return all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])) for key in first | second)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and up
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize(
    ("start_method", "changes"),
    [
        ("fork", {"lane": 256, "cache_bases": 0}),
        ("fork", {"soft_masked_weight": 0.5, "tokenizer": KmerTokenizer(6)}),  # ids above 255
        ("spawn", {"warmup": LengthWarmup(16, 4), "cache_bases": 0}),
    ],
)
def test_workers_change_nothing(genome, monkeypatch, start_method, changes):
    monkeypatch.setattr("titans_dna.genome.datamodule._cores", lambda: 2)
    alone, helped = module(genome, **changes), module(genome, workers=2, start_method=start_method, **changes)
    helped.start_batch = 3
    plans = itertools.islice(alone.sampler(), 3, 13)
    batches = zip(plans, itertools.islice(alone.train_dataloader(), 3, 13), helped.train_dataloader(), strict=False)
    for number, (plan, one, other) in enumerate(batches, start=3):
        assert one["batch"] == number
        assert same(one, alone.dataset[plan])
        assert same(one, other)
        assert one["ids"].dtype == other["ids"].dtype == torch.int64
    assert number == 12


def test_validation_is_the_plans(genome):
    data = module(genome, valid_bases=10_000)
    batches = list(data.val_dataloader())
    assert len(batches) == len(data.val_dataloader()) == len(data.valid_plans) == 2
    assert sum(int((batch["ids"][:, 1:] != 4).sum()) for batch in batches) == 400
    assert len(b"".join(window_sequences(genome, data.valid_plans))) == 400 + 7
    assert len(module(genome, valid_bases=64).valid_plans[0].windows) == 1


@pytest.mark.parametrize("lane", [0, 128])
def test_ranks(genome, lane):
    """Two ranks of four rows are one of eight; each validates half of the plans."""
    whole = module(genome, batch_size=8, lane=lane).train_dataloader()
    apart, scored = [], []
    for rank in range(2):
        data = module(genome, lane=lane, batch_size=4)
        data.trainer = type("FakeTrainer", (), {"global_rank": rank, "world_size": 2, "num_devices": 2})()
        apart.append(data.train_dataloader())
        scored += [batch["batch"] for batch in data.val_dataloader()]
    for one, *two in itertools.islice(zip(whole, *apart, strict=False), 6):
        assert torch.equal(one["ids"], torch.cat([two[0]["ids"], two[1]["ids"]]))
    assert sorted(scored) == [plan.batch for plan in module(genome).valid_plans]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_never_more_workers_than_cores(genome, monkeypatch):
    monkeypatch.setattr("titans_dna.genome.datamodule._cores", lambda: 2)
    assert module(genome, workers=64).train_dataloader().loader.num_workers == 2


def test_training_windows_keep_to_the_n_limit(genome):
    for batch in itertools.islice(module(genome, max_n=0.0).train_dataloader(), 200):
        assert not (batch["ids"] == 11).any()
    assert any((batch["ids"] == 11).any() for batch in itertools.islice(module(genome).train_dataloader(), 200))


class Recorder(LightningModule):
    """A model that only notes which batches it saw."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(12))
        self.seen, self.scored = [], []

    def training_step(self, batch):
        self.seen.append(batch["batch"])
        self.log("bases", batch["bases"], batch_size=1)
        return -self.bias.log_softmax(0)[batch["ids"]].mean()

    def validation_step(self, batch):
        self.scored.append(batch["batch"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # Lightning 2.6.6 with torch 2.13
def test_fit(genome, tmp_path, workers):
    """Any warning here is an error; with accumulation a step takes two batches."""
    data, model = module(genome, workers=workers), Recorder()
    data.start_batch = 40
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        accumulate_grad_batches=2,
        val_check_interval=8,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=data)
    assert model.seen == list(range(40, 52))
    assert model.scored == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": -1}, "workers: got -1"),
        ({"context": 5000}, "context: got 5000, want at most 3000"),
        ({"lane": 100}, "lane: got 100, want a multiple of the context, 64"),
        ({"lane": 128, "tokenizer": KmerTokenizer(3)}, "lane: got 128 with the tokenizer kmer-3"),
        ({"lane": 128, "warmup": LengthWarmup(16, 4)}, "lane: got 128 together with a warm-up"),
        ({"split": Split((Interval("a", 2000, 2300),), SPLIT.valid)}, "max_n: got 0.5, but no stretch of 65"),
        ({"start_method": "thread"}, "start_method: got 'thread'"),
    ],
)
def test_wrong_arguments(genome, changes, message):
    with pytest.raises(ValueError, match=message):
        module(genome, **changes)
