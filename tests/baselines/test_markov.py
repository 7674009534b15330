"""Markov models against counting in dictionaries, and against the figures known for E. coli."""

import gzip
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO

from titans_dna.baselines import markov
from titans_dna.baselines.markov import MarkovModel, MarkovRow, markov_table

GENOMES = Path(__file__).parents[2] / "../shared/data/genomes"
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def dna(length: int, seed: int, letters: str = "ACGT") -> str:
    """Random bases, each second one like the base three before it, so that higher orders have something to learn."""
    rng = np.random.default_rng(seed)
    text = list(rng.choice(list(letters), length))
    for i in range(3, length, 2):
        text[i] = text[i - 3]
    return "".join(text)


TRAIN = [dna(400, 1), dna(90, 2, "ACGTN"), "", "A", "acgu" * 9, "NNNN", dna(60, 3, "ACGTRYKacgt")]
VALID = [dna(33, 4), dna(33, 5, "ACGTN"), "A", "", "NACGTnACGTACGTACGGT", "acgtuuacgat", dna(40, 6, "ACGT?")]


def plain(text: str) -> str:
    """Upper case over A, C, G, T, N."""
    return "".join(letter if letter in "ACGT" else "N" for letter in text.upper().replace("U", "T"))


def slow_bits(train: list[str], valid: list[str], order: int) -> tuple[float, int]:
    """The definition, word by word."""
    counts: Counter[str] = Counter()
    for text in map(plain, train):
        for strand in (text, text.translate(COMPLEMENT)[::-1]):
            for width in range(1, order + 2):
                counts.update(strand[i : i + width] for i in range(len(strand) - width + 1))

    def chance(context: str, base: str) -> float:
        hit, seen = counts[context + base], sum(counts[context + other] for other in "ACGT")
        return (hit + 0.5) / (seen + 2)

    bits, bases = 0.0, 0
    for text in map(plain, valid):
        for i in range(1, len(text)):
            if text[i] != "N":
                context = text[max(0, i - order) : i].split("N")[-1]
                bits -= math.log2(chance(context, text[i]))
                bases += 1
    return bits, bases


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("block", [1, 7, 64, 1 << 22])
def test_equals_the_definition(monkeypatch, order, block):
    monkeypatch.setattr(markov, "BLOCK", block)
    bits, bases = MarkovModel(order).fit(text.encode() for text in TRAIN).bits(iter(VALID))
    want, count = slow_bits(TRAIN, VALID, order)
    assert bases == count > 100
    assert bits == pytest.approx(want, rel=1e-12)


def test_order_twelve_equals_the_definition():
    # The last 60 letters stand in the training text too, so that contexts of twelve bases are found.
    valid = [*VALID, TRAIN[0][-60:]]
    bits, bases = MarkovModel(12).fit(TRAIN).bits(valid)
    assert (bits, bases) == (pytest.approx(slow_bits(TRAIN, valid, 12)[0], rel=1e-12), slow_bits(TRAIN, valid, 12)[1])


def test_a_small_case_by_hand():
    # AAC and its other strand GTT: A twice, C once, G once, T twice.
    bits, bases = MarkovModel(0).fit([b"AAC"]).bits([b"CAG"])
    assert bases == 2
    assert bits == pytest.approx(-math.log2(2.5 / 8) - math.log2(1.5 / 8))
    # After A: A once, C once. After G: T once.
    bits, bases = MarkovModel(1).fit([b"AAC"]).bits([b"AAGT"])
    assert bits == pytest.approx(-math.log2(1.5 / 4) - math.log2(0.5 / 4) - math.log2(1.5 / 3))


def test_both_strands_score_alike_when_fitted_on_one():
    text = dna(500, 7)
    other = text.translate(COMPLEMENT)[::-1]
    for order in (0, 4):
        model, mirrored = MarkovModel(order).fit([text]), MarkovModel(order).fit([other])
        assert model.bits(VALID) == mirrored.bits(VALID)


def test_table_is_one_model_per_order():
    rows = markov_table(iter(TRAIN), iter(VALID), orders=[4, 0, 2])
    assert [row.order for row in rows] == [4, 0, 2]
    for row in rows:
        bits, bases = MarkovModel(row.order).fit(TRAIN).bits(VALID)
        assert row == MarkovRow(row.order, pytest.approx(bits / bases, rel=1e-12))


def test_fit_replaces_what_was_counted_before():
    model = MarkovModel(3).fit([dna(500, 8)])
    assert model.fit(TRAIN).bits(VALID) == MarkovModel(3).fit(TRAIN).bits(VALID)


def test_nothing_to_score_is_no_bits():
    assert MarkovModel(2).fit(["ACGT"]).bits(["", "A", "NNN", "ANN"]) == (0.0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MarkovModel(13), "order: got 13, want an integer from 0 to 12"),
        (lambda: MarkovModel(-1), "order: got -1"),
        (lambda: MarkovModel(2.0), "order: got 2.0"),
        (lambda: MarkovModel(2).bits(["ACGT"]), "want fit called first"),
        (lambda: MarkovModel(2).fit(["NN", ""]), "sequences: got no A, C, G or T"),
        (lambda: MarkovModel(2).fit([3]), "sequence: got int"),
        (lambda: markov_table(["ACGT"], ["A", "NN"], range(2)), "valid: got no A, C, G or T"),
        (lambda: markov_table([], ["ACGT"], range(2)), "sequences: got no A, C, G or T"),
        (lambda: markov_table(["ACGT"], ["ACGT"], []), "orders: got none"),
        (lambda: markov_table(["ACGT"], ["ACGT"], [1, 13]), "order: got 13"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_ecoli_figures():
    """Known beforehand for blocks of 100 kb, every tenth (the sixth, the sixteenth, ...) held out: 1.934 at order 7."""
    path = GENOMES / "ecoli.fa.gz"
    if not path.exists():
        pytest.skip(f"no {path.name} in the shared data")
    with gzip.open(path, "rt") as file:
        genome = bytes(next(SeqIO.parse(file, "fasta")).seq)
    blocks = [genome[i : i + 100_000] for i in range(0, len(genome), 100_000)]
    train = [block for i, block in enumerate(blocks) if i % 10 != 5]
    rows = markov_table(train, blocks[5::10], range(10))
    best = min(rows, key=lambda row: row.bits_per_base)
    assert best == MarkovRow(7, pytest.approx(1.934, abs=5e-4))
