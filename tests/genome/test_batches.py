"""Loaders: the same batches however many workers, from any number on, and by rank."""

import itertools
import random

import pytest
import torch

from titans_dna.genome.batches import GenomeDataModule
from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import Interval, Split
from titans_dna.genome.sampler import LengthWarmup
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

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
    monkeypatch.setattr("titans_dna.genome.batches._cores", lambda: 2)
    alone, helped = module(genome, **changes), module(genome, workers=2, start_method=start_method, **changes)
    plans = itertools.islice(alone.sampler(), 3, 13)
    batches = zip(plans, itertools.islice(alone.train_batches(), 3, 13), helped.train_batches(3), strict=False)
    for number, (plan, one, other) in enumerate(batches, start=3):
        assert one["batch"] == number
        assert same(one, alone.dataset[plan])
        assert same(one, other)
        assert one["ids"].dtype == other["ids"].dtype == torch.int64
    assert number == 12


@pytest.mark.parametrize("lane", [0, 128])
def test_ranks(genome, lane):
    """Two ranks of four rows are one of eight."""
    whole = module(genome, batch_size=8, lane=lane).train_batches()
    apart = [module(genome, lane=lane, batch_size=4).train_batches(rank=rank, ranks=2) for rank in range(2)]
    for one, *two in itertools.islice(zip(whole, *apart, strict=False), 6):
        assert torch.equal(one["ids"], torch.cat([two[0]["ids"], two[1]["ids"]]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_never_more_workers_than_cores(genome, monkeypatch):
    monkeypatch.setattr("titans_dna.genome.batches._cores", lambda: 2)
    assert module(genome, workers=64).train_batches().loader.num_workers == 2


def test_training_windows_keep_to_the_n_limit(genome):
    for batch in itertools.islice(module(genome, max_n=0.0).train_batches(), 200):
        assert not (batch["ids"] == 11).any()
    assert any((batch["ids"] == 11).any() for batch in itertools.islice(module(genome).train_batches(), 200))


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
