"""Each baseline finds what it can find and nothing else; none looks at a test label."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from titans_dna.baselines.sequences import kmer_counts, kmers, length, majority
from titans_dna.labels.data import LabelledData, Rows
from titans_dna.metrics import evaluate
from titans_dna.tasks.cnn import GenomicBenchmarksCNN, cnn
from titans_dna.tokens.strands import reverse_complement

BASELINES = (majority, length, kmers, cnn)


def made_up(task, seed=0, n=120, rich=True):
    """Class 1 is rich in G; where not `rich`, it is longer instead. A third class has no A."""
    rng = np.random.default_rng(seed)
    classes = 3 if task == "multiclass" else 2
    numbers = np.arange(n) % classes
    shares = {0: [0.25] * 4, 1: [0.1, 0.2, 0.6, 0.1], 2: [0.01, 0.33, 0.33, 0.33]}
    sequences = []
    for number in numbers:
        letters = rng.choice(list("ACGT"), rng.integers(30, 50) + (0 if rich else 30 * number), p=shares[number * rich])
        sequences.append("".join(letters).encode())
    labels = {
        "binary": numbers,
        "multiclass": numbers,
        "multilabel": np.stack([numbers, 1 - numbers, np.ones_like(numbers)], axis=1).astype(np.uint8),
        "regression": np.array([letters.count(b"G") / len(letters) for letters in sequences]),
    }[task]
    rows = Rows(tuple(map(str, range(n))), tuple(sequences), labels)
    names = {"binary": ("a", "b"), "multiclass": ("a", "b", "c"), "multilabel": ("p", "q", "r"), "regression": ()}
    part = n // 3
    splits = [rows.take(np.arange(start, start + part)) for start in (0, part, 2 * part)]
    return LabelledData("made-up", task, names[task], *splits)


def test_kmer_counts():
    sequences = [b"ACGTN", b"AC", b"", b"GATTACAGATTACA", b"ACG-ACG"]
    for k, both in ((1, False), (2, False), (3, True)):
        counts = kmer_counts(sequences, k, both_strands=both).toarray()
        assert counts.shape == (5, 4**k)
        for row, letters in zip(counts, sequences, strict=True):
            strands = [letters, reverse_complement(letters)] if both else [letters]
            for code, found in enumerate(row):
                word = bytes(b"ACGT"[code // 4**i % 4] for i in reversed(range(k)))
                windows = [one[i : i + k] for one in strands for i in range(len(one))]
                assert windows.count(word) == found, (letters, word)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_shapes_and_blindness(baseline, task):
    data = made_up(task)
    options = {kmers: {"sizes": (2, 3)}, cnn: {"epochs": 1}}.get(baseline, {})
    scores = baseline(data, 0, **options)
    wanted = (40,) if task == "regression" else (40, len(data.classes))
    assert scores.shape == wanted
    if task in ("binary", "multiclass"):
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-9)
    hidden = Rows(data.test.names, data.test.sequences, np.zeros_like(data.test.labels))
    blind = dataclasses.replace(data, test=hidden)
    np.testing.assert_array_equal(baseline(blind, 0, **options), scores)


def score(baseline, data, **options):
    found = evaluate(data.task, data.test.labels, baseline(data, 0, **options), resamples=0)
    return found["pearson" if data.task == "regression" else "auroc"].value


def test_what_each_can_find():
    rich, long = made_up("binary", n=300), made_up("binary", n=300, rich=False)
    assert score(kmers, rich) > 0.95
    assert score(cnn, rich, epochs=8, batch_size=16) > 0.9
    assert score(length, long) > 0.95
    assert score(length, rich) < 0.7
    assert score(majority, rich) == 0.5
    assert score(kmers, made_up("multiclass", n=300), sizes=(2,)) > 0.9
    assert score(kmers, made_up("regression", n=300), sizes=(1,)) > 0.9


def test_majority():
    data = made_up("binary")
    uneven = dataclasses.replace(data, train=data.train.take([0, 2, 4, 1]))
    np.testing.assert_allclose(majority(uneven, 0), np.tile([0.75, 0.25], (40, 1)))


def test_lengths_all_equal():
    data = made_up("binary")
    cut = [
        Rows(rows.names, tuple(letters[:30] for letters in rows.sequences), rows.labels) for _, rows in data.splits()
    ]
    np.testing.assert_array_equal(
        length(dataclasses.replace(data, train=cut[0], valid=cut[1], test=cut[2]), 0)[0], [0.5, 0.5]
    )


def test_no_test_rows():
    data = made_up("binary")
    for baseline in BASELINES:
        with pytest.raises(ValueError, match="made-up: no test rows"):
            baseline(dataclasses.replace(data, test=data.test.take([])), 0)


def test_cnn_is_that_of_genomic_benchmarks():
    """The network as it is described, layer by layer: an embedding, then convolutions of its output."""
    torch.manual_seed(0)
    network = GenomicBenchmarksCNN(width=202, outputs=1).eval()
    ids = torch.randint(0, 12, (3, 202))
    x = network.embedding(ids).transpose(1, 2)
    for convolution, norm in zip(network.convolutions, network.norms, strict=True):
        x = nn.MaxPool1d(2)(nn.ReLU()(norm(convolution(x))))
    torch.testing.assert_close(network(ids), network.dense(x))
    assert [tuple(one.weight.shape) for one in network.convolutions] == [(16, 100, 8), (8, 16, 8), (4, 8, 8)]
    # embedding, convolutions, norms, 4 channels of 19 positions into 512, 512 into 1
    wanted = 12 * 100 + (16 * 801 + 8 * 129 + 4 * 65) + 2 * 28 + (76 * 512 + 512) + 513
    assert sum(one.numel() for one in network.parameters()) == wanted


def test_cnn_seeds_and_long_test_rows():
    data = made_up("binary", n=60)
    longer = tuple(letters * 3 for letters in data.test.sequences)
    long = dataclasses.replace(data, test=Rows(data.test.names, longer, data.test.labels))
    before = torch.get_rng_state()
    one, again, other = (cnn(long, seed, epochs=1) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
