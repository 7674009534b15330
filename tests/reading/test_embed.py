"""Vectors: what they are, and that nothing beside the sequence changes them."""

import gzip
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.reading.embed import embed
from titans_dna.reading.stream import group
from titans_dna.tokens.bpe import BPETokenizer
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import make_tokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

POOLS = ("mean", "max", "last", "none")
SMALL = {"width": 16, "layers": 2, "heads": 2, "chunk": 8, "segment": 16, "window": 12, "persistent": 3}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def build(variant="mac", tokenizer=None, **change):
    tokenizer = tokenizer or make_tokenizer("nucleotide")
    torch.manual_seed(0)
    config = TitansConfig(variant=variant, vocab_size=tokenizer.vocab_size, **{**SMALL, **change})
    model = TitansDNA(config).eval()
    with torch.no_grad():  # away from the start's special values, so that every path carries something
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.tokenizer = tokenizer
    return model


def draw(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list("ACGTN"), n, p=[0.24] * 4 + [0.04])) for n in lengths]


def other_strand(text):
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, **CLOSE)


POOLED = {
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.max(0),
    "last": lambda x: x[-1],
    "none": lambda x: x,
}


@pytest.mark.parametrize(("layer", "pool"), [*product((-1, 0, 1), POOLS)])
def test_what_a_vector_is(layer, pool):
    """Against the hidden states of one plain forward pass, taken from the blocks by hooks."""
    model, (text,) = build(), draw(50)
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with torch.no_grad():
        out = model(torch.from_numpy(model.tokenizer.encode(text))[None])
    hidden = (out.hidden if layer == -1 else seen[layer])[0].double().numpy()
    (got,) = embed(model, text, pool, layer)
    np.testing.assert_allclose(got, POOLED[pool](hidden), **CLOSE)
    assert len(seen) == 2 + (2 if layer == -1 else layer + 1)  # the blocks after the layer did not run


LENGTHS = (90, 1, 33, 64, 65, 5, 64, 16, 150, 40)
CASES = [*product(VARIANTS, ("none",)), *product(("lmm",), POOLS[:3])]
WAYS = [
    {"batch_size": 1},
    {"batch_size": 2, "piece": 13},
    {"batch_size": 64},
    {"batch_size": 64, "piece": 16},
    {"batch_size": 3, "piece": 33},
    {"batch_size": 3, "workers": 2},
]


@pytest.mark.parametrize(("variant", "pool"), CASES)
def test_batch_piece_neighbours_and_workers_change_nothing(variant, pool):
    model, texts = build(variant), draw(*LENGTHS)
    alone = [embed(model, text, pool)[0] for text in texts]
    for way in WAYS:
        if "workers" not in way or (variant, pool) in (("lmm", "mean"), ("lmm", "none")):
            same(embed(model, texts, pool, **way), alone)
    same(embed(model, texts[::-1], pool)[::-1], alone)
    assert np.abs(alone[0] - np.mean(alone[2])).max() > 0.1  # and sequences do differ


@pytest.mark.parametrize(("variant", "pool"), CASES)
def test_both_strands_give_one_vector(variant, pool):
    model, texts = build(variant), draw(*LENGTHS)
    both = embed(model, texts, pool, rc=True, batch_size=3, piece=20)
    there, back = embed(model, texts, pool), embed(model, [*map(other_strand, texts)], pool)
    if pool == "none":
        back = [one[::-1] for one in back]
    same(both, [(a + b) / 2 for a, b in zip(there, back, strict=True)])
    turned = embed(model, [*map(other_strand, texts)], pool, rc=True)
    same([one[::-1] for one in turned] if pool == "none" else turned, both)


def learned_tokenizer():
    return BPETokenizer.train([text.replace("N", "") for text in draw(4000)], 40)


@pytest.mark.parametrize("name", ["kmer-3", "kmer-3-overlapping", "bpe"])
def test_tokens_of_several_bases(name):
    tokenizer = learned_tokenizer() if name == "bpe" else make_tokenizer(name)
    model, texts = build("mag", tokenizer), draw(47, 2, 20)
    per_base = embed(model, texts, "none", piece=5)
    for text, got in zip(texts, per_base, strict=True):
        with torch.no_grad():
            hidden = model(torch.from_numpy(tokenizer.encode(text).astype(np.int64))[None]).hidden[0].numpy()
        spans = tokenizer.spans(text)
        # The first token to reach past a base is the one that adds it.
        wanted = [hidden[next(i for i, (_, end) in enumerate(spans) if end > base)] for base in range(len(text))]
        np.testing.assert_allclose(got, wanted, **CLOSE)
    for pool in ("mean", "max", "last"):
        same(embed(model, texts, pool, batch_size=2, piece=4), [POOLED[pool](one) for one in per_base])
    turned = [*map(other_strand, texts)]
    same(*(embed(model, some, rc=True) for some in (texts, turned)))


def test_a_long_sequence_takes_pieces_and_short_ones_little_padding():
    model, lengths = build("lmm"), [3000, 120, 118, 117, 110, 20, 19, 3, *range(60, 100)]
    shapes = []
    model.embedding.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape))
    embed(model, draw(*lengths), piece=128, batch_size=8)
    assert max(t for _, t in shapes) == 128
    assert max(b for b, _ in shapes) == 8
    assert sum(b * t for b, t in shapes) < 1.15 * sum(lengths)
    assert len(shapes) < 24 + 12


def test_the_old_name_of_rc_still_works_and_warns():
    model, texts = build(), draw(30, 12)
    with pytest.warns(DeprecationWarning, match="reverse_complement is called rc now"):
        same(embed(model, texts, reverse_complement=True), embed(model, texts, rc=True))


def test_batches_hold_every_sequence_once():
    lengths = np.random.default_rng(0).integers(1, 5000, 300)
    for batch_size, piece in ((1, 10), (8, 512), (64, 10_000)):
        batches = group(lengths, rows=batch_size, piece=piece)
        assert sorted(i for batch in batches for i in batch) == [*range(300)]
        assert max(map(len, batches)) <= batch_size
    assert group(np.array([], dtype=np.int64), rows=8, piece=512) == []


def test_a_state_in_float32_over_a_long_sequence():
    """Hundreds of pieces add nothing: the carried state is exact, and the mean is summed in double precision."""
    model, (text,) = build("lmm", layers=1), draw(10_000)
    same(embed(model, text, piece=48), embed(model, text, piece=10_000))


def test_every_kind_of_input(tmp_path):
    model, texts = build(), draw(30, 12)
    want = embed(model, texts)
    records = [SeqRecord(Seq(text), id=f"r{i}") for i, text in enumerate(texts)]
    plain, zipped = tmp_path / "x.fa", tmp_path / "x.fa.gz"
    SeqIO.write(records, plain, "fasta")
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    for given in (
        tuple(texts), [text.encode() for text in texts], records, iter(records), [record.seq for record in records],
        [text.lower().replace("t", "u") for text in texts], plain, str(zipped),
    ):  # fmt: skip
        same(embed(model, given), want)
    for one in (texts[0], records[0], records[0].seq, texts[0].encode()):
        same(embed(model, one), want[:1])
    assert embed(model, []).shape == (0, 16)
    assert embed(model, [], "none") == []


def test_a_word_of_nucleotide_letters_is_a_sequence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CAT", "genome"):
        Path(name).write_text(">x\nACGT\n")
    model = build()
    same(embed(model, "CAT"), embed(model, ["CAT"]))
    same(embed(model, "genome"), embed(model, ["ACGT"]))


def test_the_model_is_left_as_it_was():
    model = build(dropout=0.5)
    want = embed(model, "ACGTACGT")
    model.train()
    before = torch.get_rng_state()
    same(embed(model, "ACGTACGT"), want)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(block.training for block in model.blocks)
    assert model(torch.tensor([[7, 8]])).logits.requires_grad
    assert embed(model.double(), "ACGTACGT").dtype == np.float64


NUCLEOTIDES = "want ACGTUNRYSWKMBDHV- in either case"
BAD = {
    "empty": ("", {}, "sequences: got an empty sequence"),
    "one empty": (["ACGT", ""], {}, "sequences[1]: got an empty sequence"),
    "letter": ("ACXGT", {}, f"sequences: got letter 'X' at 2, {NUCLEOTIDES}"),
    "letter in a record": (
        [SeqRecord(Seq("AC GT"), id="one")], {}, f"sequences[0] (one): got letter ' ' at 2, {NUCLEOTIDES}",
    ),
    "undefined": ([Seq(None, 9)], {}, "sequences[0]: its sequence is not defined"),
    "no file": ("nope.fa", {}, "nope.fa: no such file"),
    "no path": (Path("nope"), {}, "nope: no such file"),
    "number": (3, {}, "sequences: got int"),
    "numbers": ([3], {}, "sequences[0]: got int"),
    "path in a list": ([Path("x.fa")], {}, "sequences[0]: got PosixPath"),
    "pool": ("ACGT", {"pool": "sum"}, "pool: got 'sum', want one of mean, max, last, none"),
    "layer": ("ACGT", {"layer": 2}, "layer: got 2, want -1 (after the last norm) or 0 to 1"),
    "other layer": ("ACGT", {"layer": -2}, "layer: got -2"),
    "batch_size": ("ACGT", {"batch_size": 0}, "batch_size: got 0, want at least 1"),
    "piece": ("ACGT", {"piece": 0}, "piece: got 0"),
    "workers": ("ACGT", {"workers": -1}, "workers: got -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name):
    sequences, options, message = BAD[name]
    with pytest.raises((ValueError, OSError)) as error:
        embed(build(), sequences, **options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_records_without_bases_are_left_out(tmp_path, capsys):
    model = build()
    (tmp_path / "x.fa").write_text(">a\nACGT\n>b\n>c\nGG\n")
    assert np.array_equal(embed(model, tmp_path / "x.fa"), embed(model, ["ACGT", "GG"]))
    assert "x.fa: 1 record(s) without bases left out" in capsys.readouterr().err


def test_bad_model():
    model = build()
    del model.tokenizer
    with pytest.raises(ValueError, match="model: has no tokenizer"):
        embed(model, "ACGT")


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
@pytest.mark.parametrize("pool", ["mean", "max", "last", "none"])
def test_both_strands_in_calls_of_their_own_have_the_same_bits(variant, pool):
    model, rng = build(variant, NucleotideTokenizer()), np.random.default_rng(3)
    texts = [bytes(rng.choice(list(b"ACGT"), size=n).astype(np.uint8)) for n in (1, 40, 333, 700)] + [b"AT" * 300]
    turned = [reverse_complement(text) for text in texts]
    for one, other in ((texts, turned), (texts[2:3], turned[2:3])):
        here, there = (embed(model, some, pool, rc=True, piece=128) for some in (one, other))
        for mine, its in zip(here, there, strict=True):
            np.testing.assert_array_equal(mine, its[::-1] if pool == "none" else its)
