"""Batches of letters: against slices of the sequences themselves, and Biopython for the other strand."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from Bio.Seq import Seq

from titans_dna.genome.batches import GenomeDataset, window_sequences
from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import Interval
from titans_dna.genome.sampler import LaneSampler, Plan, Window, WindowSampler, validation_plans
from titans_dna.tokens.bpe import BPETokenizer
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

RANDOM = np.random.default_rng(5)
CONTIGS = {
    "a": "".join(RANDOM.choice(list("ACGTacgtNnRYUu"), 1200)),
    "b": "".join(RANDOM.choice(list("ACGTacgt"), 37)),
}
INTERVALS = [Interval("a", 100, 700), Interval("b", 0, 37), Interval("a", 900, 1200)]
TOKENIZER = NucleotideTokenizer()
PAD = TOKENIZER.pad_id


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    (folder / "two.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in CONTIGS.items()))
    return open_genome(folder / "two.fa", cache_dir=folder / "cache")


@pytest.fixture(params=[0, 512_000_000], ids=["from file", "in memory"])
def dataset(request, genome):
    return GenomeDataset(genome, TOKENIZER, cache_bases=request.param)


def letters(window):
    """The window's letters in upper case, N for any that is not A, C, G, T."""
    bases = Seq(CONTIGS[window.contig][window.start : window.end])
    bases = str(bases.reverse_complement() if window.reverse else bases).upper().replace("U", "T")
    return "".join(base if base in "ACGT" else "N" for base in bases)


def test_batches_hold_the_letters_of_their_windows(dataset):
    for plan in itertools.islice(WindowSampler(INTERVALS, context=50, batch_size=5, seed=1), 60):
        batch = dataset[plan]
        assert batch["ids"].shape == batch["weight"].shape == (5, 51)
        assert (batch["ids"].dtype, batch["weight"].dtype) == (torch.int64, torch.float32)
        rows = [TOKENIZER.decode(row[row != PAD]) for row in batch["ids"].numpy()]
        assert rows == [letters(window) for window in plan.windows]
        assert torch.equal(batch["weight"], (batch["ids"] != PAD).float())
        assert (batch["reset"], batch["batch"], batch["bases"]) == (True, plan.batch, sum(map(len, rows)))
        for row in batch["ids"]:
            assert not (row[:-1] == PAD).logical_and(row[1:] != PAD).any(), "padding is on the right"


def test_reverse_rows_are_the_reverse_complement_of_the_ids(dataset):
    forward = tuple(Window("a", start, start + 51, False) for start in (0, 333, 1149))
    both = [dataset[Plan(0, 50, True, rows)]["ids"] for rows in (forward, [w._replace(reverse=True) for w in forward])]
    np.testing.assert_array_equal(both[1], TOKENIZER.reverse_complement(both[0].numpy()))


def test_lanes_spell_out_their_stretch(dataset):
    """Rows without the shared base, put end to end, are one stretch of the contig or of its other strand."""
    sampler = LaneSampler(INTERVALS, context=50, lane=200, batch_size=8, seed=3)
    seen = set()
    for _, tour in itertools.groupby(itertools.islice(sampler, 320), lambda plan: plan.batch // 4):
        tour = list(tour)
        ids = [dataset[plan]["ids"] for plan in tour]
        walks = torch.cat([ids[0], *(one[:, 1:] for one in ids[1:])], dim=1)
        assert all(
            torch.equal(here[:, -1], there[:, 0]) or PAD in there[:, 0] for here, there in itertools.pairwise(ids)
        )
        for row, window in zip(walks.numpy(), tour[0].windows, strict=True):
            text = TOKENIZER.decode(row[row != PAD])
            strand = letters(Window(window.contig, 0, len(CONTIGS[window.contig]), window.reverse))
            assert len(text) == (37 if window.contig == "b" else 201)
            first = len(CONTIGS[window.contig]) - window.end if window.reverse else window.start
            assert strand[first : first + len(text)] == text
            seen.add((window.contig, window.reverse))
    assert len(seen) == 4


def test_an_ended_lane_is_all_pad(dataset):
    plan = Plan(3, 10, False, (Window("a", 5, 5, True), Window("a", 5, 12, False)))
    batch = dataset[plan]
    assert (batch["ids"][0] == PAD).all()
    assert not batch["weight"][0].any()
    assert batch["weight"][1].tolist() == [1.0] * 7 + [0.0] * 4
    assert batch["bases"] == 7


@pytest.mark.parametrize("reverse", [False, True])
def test_soft_masked_letters_weigh_less(genome, reverse):
    batch = GenomeDataset(genome, TOKENIZER, soft_masked_weight=0.25)[Plan(0, 40, True, (Window("b", 0, 37, reverse),))]
    wanted = [0.25 if base.islower() else 1.0 for base in CONTIGS["b"][:: -1 if reverse else 1]]
    assert batch["weight"][0].tolist() == wanted + [0.0] * 4


@pytest.mark.parametrize(
    "tokenizer",
    [KmerTokenizer(3), KmerTokenizer(3, overlapping=True), BPETokenizer.train([CONTIGS["a"]], 40)],
    ids=lambda one: one.name,
)
def test_tokens_of_several_bases(genome, tokenizer):
    windows = (Window("b", 0, 20, False), Window("b", 9, 37, True))
    batch = GenomeDataset(genome, tokenizer, soft_masked_weight=0.0)[Plan(0, 30, True, windows)]
    texts = [CONTIGS["b"][:20], str(Seq(CONTIGS["b"][9:37]).reverse_complement())]
    wanted = [tokenizer.encode(text) for text in texts]
    assert batch["ids"].shape == (2, max(map(len, wanted)))
    for row, (text, ids) in enumerate(zip(texts, wanted, strict=True)):
        upper = [np.mean([base.isupper() for base in text[start:end]]) for start, end in tokenizer.spans(text)]
        padding = batch["ids"].shape[1] - len(ids)
        assert batch["ids"][row].tolist() == [*ids, *[PAD] * padding]
        np.testing.assert_allclose(batch["weight"][row], [*upper, *[0] * padding], rtol=1e-6)


def test_pickled_dataset_gives_the_same(dataset):
    plan = next(iter(WindowSampler(INTERVALS, context=50, batch_size=5, seed=1)))
    raw = pickle.dumps(dataset)
    assert CONTIGS["b"].encode() not in raw, "a spawned worker reads the genome itself"
    assert torch.equal(pickle.loads(raw)[plan]["ids"], dataset[plan]["ids"])


def test_window_sequences_are_the_rows(dataset, genome):
    windows = (Window("a", 8, 8, False), Window("a", 5, 12, True))
    plans = [*validation_plans(INTERVALS, context=50, batch_size=3), Plan(0, 50, True, windows)]
    rows = [row[row != PAD].numpy() for plan in plans for row in dataset[plan]["ids"] if (row != PAD).any()]
    texts = list(window_sequences(genome, plans))
    assert [TOKENIZER.encode(text).tolist() for text in texts] == [row.tolist() for row in rows]
    assert texts[0] == CONTIGS["a"][100:151].encode(), "case is kept"


def test_wrong_weight(genome):
    with pytest.raises(ValueError, match="soft_masked_weight: got -1"):
        GenomeDataset(genome, TOKENIZER, soft_masked_weight=-1)
