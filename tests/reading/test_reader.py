"""The reader: any stretch of tokens alone, who stands beside whom, and never more letters than a piece."""

import numpy as np
import pyarrow as pa
import pyfaidx
import pytest
import torch

from tests.reading.test_embed import build, draw, learned_tokenizer, other_strand, same
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.reading.embed import embed_batches
from titans_dna.reading.remember import remember
from titans_dna.reading.source import Source, Strand, TextSource, as_source, tokenised
from titans_dna.reading.stream import Ids, calls, group, padded, read, stream
from titans_dna.tasks.score import score_all
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import make_tokenizer

TOKENIZERS = (
    "nucleotide",
    "kmer-1",
    "kmer-3",
    "kmer-6",
    "kmer-1-overlapping",
    "kmer-3-overlapping",
    "kmer-8-overlapping",
)


@pytest.mark.parametrize("name", [*TOKENIZERS, "bpe"])
@pytest.mark.parametrize("other", [False, True])
def test_any_stretch_of_tokens_is_that_of_the_whole(name, other):
    tokenizer = learned_tokenizer() if name == "bpe" else make_tokenizer(name)
    texts = [text.encode() for text in draw(1, 2, 3, 5, 6, 7, 8, 9, 40, 47, 48)]
    source, rng = TextSource(texts), np.random.default_rng(0)
    for number, text in enumerate(texts):
        whole = tokenised(reverse_complement(text) if other else text, tokenizer)
        widths = np.ones(len(whole.ids)) if whole.widths is None else whole.widths
        assert widths.sum() == len(text)
        row = Strand(source, number, tokenizer, other)
        assert row.tokens == len(whole.ids)
        cuts = [(start, stop) for stop in range(1, row.tokens + 1) for start in range(stop)]
        for start, stop in cuts if len(cuts) < 100 else rng.permutation(cuts)[:100]:
            some = row.take(start, stop)
            np.testing.assert_array_equal(some.ids, whole.ids[start:stop])
            found = np.ones(len(some.ids)) if some.widths is None else some.widths
            np.testing.assert_array_equal(found, widths[start:stop])


class Spy(Source):
    """Sequences that are made up where they are looked at, and what was asked for at once."""

    def __init__(self, lengths):
        super().__init__(lengths)
        self.most, self.asked = 0, 0

    def part(self, number, start, end):
        assert 0 <= start < end <= self.lengths[number]
        self.most, self.asked = max(self.most, end - start), self.asked + end - start
        return bytes(b"ACGT"[(number + i * i) % 4] for i in range(start, end))


LONG = (1500, 40, 1, 1499, 700)


@pytest.mark.parametrize("name", ["nucleotide", "kmer-3", "kmer-4-overlapping"])
@pytest.mark.parametrize("rc", [False, True])
def test_no_more_than_a_piece_of_a_sequence_is_ever_read(name, rc, monkeypatch):
    tokenizer, source, piece = make_tokenizer(name), Spy(LONG), 96
    model, k = build("lmm", tokenizer, layers=1), int(name.split("-")[1]) if "-" in name else 1
    batches = group(source.lengths, rows=3, piece=piece)
    for pool in ("mean", "none"):
        found = embed_batches(model, source, batches, pool, -1, rc=rc, piece=piece, workers=0)
        assert sum(len(numbers) for numbers, _ in found) == len(LONG)
    # Overlapping k-mers of two pieces have k - 1 letters in common.
    assert source.most <= piece + k - 1
    assert source.asked <= 2 * (1 + rc) * sum(LONG) * 1.1
    head = FineTuned(model, Question("binary", ("a", "b"), "sequence", both_strands=rc), tokenizer)
    source.most = 0
    assert score_all(head, source, batch_size=2, batch_bases=400).shape == (5, 2)
    assert source.most <= 400 // (1 + rc) + k - 1
    source.most = 0
    monkeypatch.setattr("titans_dna.reading.remember.as_source", lambda given: given)
    assert remember(model, source, piece=piece).bases == sum(LONG)
    assert source.most <= piece + k - 1


def test_pieces_of_byte_pairs_are_cut_after_the_whole_is_read():
    tokenizer, source = learned_tokenizer(), Spy(LONG)
    model = build("lmm", tokenizer, layers=1)
    found = embed_batches(model, source, [[0, 3], [4, 1, 2]], "mean", -1, rc=True, piece=96, workers=0)
    assert [numbers for numbers, _ in found] == [[0, 3], [4, 1, 2]]
    assert 2 * sum(LONG) <= source.asked <= 2.1 * sum(LONG)


@pytest.mark.parametrize("name", ["kmer-3", "kmer-3-overlapping", "bpe"])
def test_workers_and_pieces_of_other_tokens_change_nothing(name):
    tokenizer = learned_tokenizer() if name == "bpe" else make_tokenizer(name)
    model, source = build("mag", tokenizer), TextSource([text.encode() for text in draw(90, 1, 33, 64, 65, 5, 200)])
    ways = ((1, 10_000, 0), (3, 10_000, 0), (3, 30, 0), (3, 30, 2))
    found = []
    for rows, piece, workers in ways:
        batches = group(source.lengths, rows=rows, piece=piece)
        some = embed_batches(model, source, batches, "mean", -1, rc=True, piece=piece, workers=workers)
        by_number = {number: one for numbers, vectors in some for number, one in zip(numbers, vectors, strict=True)}
        found.append([by_number[i] for i in range(7)])
    for one in found[1:]:
        same(one, found[0])


class Recorder:
    """A model whose state counts the tokens that a row has gone through, and a taker of what it says."""

    def __init__(self):
        self.shapes, self.pieces = [], []

    def __call__(self, ids, state):
        self.shapes.append(tuple(ids.shape))
        before = torch.zeros(len(ids), dtype=torch.int64) if state is None else state
        after = before + ids.shape[1]
        return ids.double()[..., None], after

    def add(self, piece):
        self.pieces.append(piece)


def test_rows_that_have_ended_leave_and_padding_is_told():
    model = Recorder()
    ids = [np.arange(n) + 7 for n in (2, 9, 5, 9)]
    state = read(model, calls([Ids(one) for one in ids], 4), model)
    assert model.shapes == [(4, 4), (3, 4), (2, 1)]
    assert [piece.rows for piece in model.pieces] == [[1, 3, 2, 0], [1, 3, 2], [1, 3]]
    assert state.tolist() == [9, 9]
    for row, one in enumerate(ids):
        seen = [
            some[width > 0]
            for piece in model.pieces
            for number, some, width in zip(piece.rows, piece.ids, piece.widths, strict=True)
            if number == row
        ]
        assert torch.cat(seen).tolist() == one.tolist()
    # What is not a row's own is [PAD].
    assert {int(x) for piece in model.pieces for x in piece.ids[piece.widths == 0]} == {4}


def test_a_stretch_of_the_rows_alone():
    model = Recorder()
    rows = [Ids(np.arange(20) + 7), Ids(np.arange(20) + 7)]
    read(model, calls(rows, 4, 5, 15), model, torch.tensor([5, 5]))
    assert model.shapes == [(2, 4), (2, 4), (2, 2)]
    assert [piece.start for piece in model.pieces] == [5, 9, 13]
    assert model.pieces[-1].state.tolist() == [15, 15]
    assert read(model, calls(rows, 4, 20), model, "as it was") == "as it was"


def test_padding_of_sequences():
    ids, widths = padded([b"ACGTACG", b"AC"], make_tokenizer("kmer-3"))
    assert widths.tolist() == [[3, 3, 1], [1, 1, 0]]
    assert ids[1].tolist() == [7, 8, 4]


def like_before(lengths, batch_size, piece):
    """Version 0.1.0's batches of embed and predict."""
    batches, longest = [], 0
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        padding = min(longest, -(-length // piece) * piece) - length
        if not batches or len(batches[-1]) == batch_size or padding > length // 4 + 16:
            batches.append([])
            longest = length
        batches[-1].append(number)
    return batches


def within(lengths, bases):
    """Version 0.1.0's batches of training and of scores of bases."""
    order, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(order):
        rows = max(1, bases // max(1, int(lengths[order[start]])))
        yield order[start : start + rows].tolist()
        start += rows


def test_who_stands_beside_whom_is_as_it_was():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, int(rng.integers(2, 3000)), int(rng.integers(1, 80)))
        size, piece, bases = (int(rng.integers(1, most)) for most in (20, 600, 5000))
        assert group(lengths, rows=size, piece=piece) == like_before(lengths, size, piece)
        assert group(lengths, bases=bases) == [*within(lengths, bases)]


def test_a_stream_tells_bases_once_and_leaves_the_mode():
    model, source, told = build("lmm").train(), TextSource([b"ACGTA" * 5, b"ACG"]), []
    seen = [*stream(model, source, [[0], [1]], lambda numbers: Recorder(), piece=10, rc=True, progress=told.append)]
    assert sum(told) == 28
    assert model.training
    pieces = seen[0][1].pieces
    assert [piece.start for piece in pieces] == [0, 10, 20]
    strands = torch.cat([piece.ids for piece in pieces], dim=1)
    tokenizer = model.tokenizer
    assert [tokenizer.decode(row) for row in strands.numpy()] == ["ACGTA" * 5, other_strand("ACGTA" * 5)]
    assert not pieces[0].out.requires_grad


class Table(dict):
    """As a data frame has it."""

    @property
    def columns(self):
        return list(self)


def test_sequences_in_any_form(tmp_path):
    (tmp_path / "x.fa").write_text(">a\nACGT\n>b\nAC\n")
    records = pyfaidx.Fasta(str(tmp_path / "x.fa"))
    table = {"sequence": ["ACGT", "AC"]}
    for given in (
        records,
        list(records),
        [records["a"][:4], "AC"],
        {"a": "ACGT", "b": "AC"},
        Table(table),
        pa.table(table),
    ):
        source = as_source(given)
        assert [source.part(i, 0, 9) for i in range(2)] == [b"ACGT", b"AC"]
    records.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Table(chrom=["a"], start=[0], end=[4]), r"a table with the columns 'chrom', 'start', 'end', .* --bed FILE"),
        (Table(seq=["A"]), "a table with the columns 'seq', want a column 'sequence'$"),
        ({"x": 5}, r"sequences\['x'\]: got int, want str, bytes, a record of Biopython or of pyfaidx"),
        ({"x": ""}, r"sequences\['x'\]: got an empty sequence"),
    ],
)
def test_other_forms_are_told_what_they_are(given, message):
    with pytest.raises(ValueError, match=message):
        as_source(given)
