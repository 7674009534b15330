"""Tokenisers against plain Python over strings, their round trips, strands, files and bad input."""

import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from titans_dna.tokens.bpe import BPETokenizer
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.tokenizer import Tokenizer, load_tokenizer, make_tokenizer, tokenizer_from_dict
from titans_dna.tokens.vocabulary import NucleotideTokenizer

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
KMERS = [(k, overlapping) for k in (1, 2, 3, 6, 8) for overlapping in (False, True)]


def dna(length: int, seed: int = 0, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


def other_strand(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def repetitive(length: int, seed: int = 0) -> str:
    """Random order of five words, so that there are pairs worth merging."""
    words = ["ACGTACGG", "TTTTTTA", "GATTACA", "CCG", "A"]
    picks = np.random.default_rng(seed).integers(0, len(words), length)
    return "".join(words[i] for i in picks)[:length]


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return BPETokenizer.train([repetitive(4000).encode(), b"NNNNacgtRR"], vocab_size=64, chunk=50)


@pytest.fixture(params=["nucleotide", "kmer-1", "kmer-3", "kmer-3-overlapping", "kmer-8", "kmer-8-overlapping", "bpe"])
def tokenizer(request, bpe) -> Tokenizer:
    return bpe if request.param == "bpe" else make_tokenizer(request.param)


# All kinds


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 8, 9, 50, 51, 200])
def test_round_trip_strand_and_case(tokenizer, length):
    text = dna(length, seed=length)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.tolist()) == text
    same = [text.encode(), bytearray(text.encode()), text.lower(), text.replace("T", "U"), text.replace("T", "u")]
    for variant in same:
        assert np.array_equal(tokenizer.encode(variant), ids)
    mirrored = tokenizer.reverse_complement(ids)
    assert np.array_equal(mirrored, tokenizer.encode(other_strand(text)))
    assert np.array_equal(tokenizer.reverse_complement(mirrored), ids)


@pytest.mark.parametrize("text", ["", "ACG", "ACGTNNNNNNNNNNACGTACGTACGTACG!!AC", dna(103)])
def test_spans_tell_where_tokens_lie(tokenizer, text):
    ids, spans = tokenizer.encode(text), tokenizer.spans(text)
    assert spans.dtype == np.int64
    assert spans.shape == (len(ids), 2)
    for token, (start, end) in zip(ids, spans, strict=True):
        letters = "".join(letter if letter in "ACGT" else "N" for letter in text[start:end])
        alone = tokenizer.decode([token])
        assert alone == (letters if set(letters) <= set("ACGT") else "N" * len(letters))
        overlapping = "overlapping" in tokenizer.name and end - start > 1
        assert tokenizer.lengths[token] == (0 if "N" in letters else 1 if overlapping else end - start)
    covered = sorted({i for start, end in spans for i in range(start, end)})
    assert covered == list(range(len(text)))


def test_common_ids_and_attributes(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.pad_id == 4
    assert tokenizer.lengths.shape == (tokenizer.vocab_size,)
    assert tokenizer.lengths.dtype == np.int64
    assert tokenizer.lengths[:12].tolist() == [0] * 7 + [1, 1, 1, 1, 0]
    assert tokenizer.decode([0, 1, 2, 3, 4, 5]) == ""
    assert tokenizer.decode([7, 8, 9, 10, 11, 6]) == "ACGTNN"
    assert tokenizer.decode([2, 7, 8, 1, 9, 4, 4]) == "ACG"
    ids = tokenizer.encode(b"ACGTNACGTACGATTN?")
    assert ids.flags.writeable  # torch.from_numpy warns otherwise
    assert ids.min() >= 6
    assert ids.max() < tokenizer.vocab_size


def test_save_load_pickle(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("the old file")
    tokenizer.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokenizer.json"]
    text = dna(300, seed=5, letters="ACGTNacgtR-")
    copies = [load_tokenizer(path), make_tokenizer(str(path)), tokenizer_from_dict(tokenizer.to_dict())]
    for copy in (*copies, pickle.loads(pickle.dumps(tokenizer))):
        assert type(copy) is type(tokenizer)
        assert (copy.name, copy.vocab_size) == (tokenizer.name, tokenizer.vocab_size)
        assert np.array_equal(copy.lengths, tokenizer.lengths)
        assert np.array_equal(copy.encode(text), tokenizer.encode(text))
    with pytest.raises(FileNotFoundError):
        tokenizer.save(tmp_path / "no" / "such.json")


@pytest.mark.parametrize("wrong", [None, 3, ["A", "C"], np.zeros(3, np.uint8)])
def test_wrong_type_of_sequence(tokenizer, wrong):
    for method in (tokenizer.encode, tokenizer.spans):
        with pytest.raises(ValueError, match=r"sequence: got \w+, want bytes or str"):
            method(wrong)


def test_wrong_ids(tokenizer):
    for wrong in ([-1], [tokenizer.vocab_size], [7.0], ["A"], 7, [[7]], [True]):
        with pytest.raises(ValueError, match="ids: got"):
            tokenizer.decode(wrong)
    for wrong in ([-1], [tokenizer.vocab_size], [7.0], 7):
        with pytest.raises(ValueError, match="ids: got"):
            tokenizer.reverse_complement(wrong)


# Nucleotide


def test_nucleotide_every_byte():
    want = {letter: 7 + "ACGTN".index(letter) for letter in "ACGTN"} | {"U": 10} | dict.fromkeys("RYSWKMBDHV", 11)
    table = [want.get(chr(byte).upper(), 6) if byte < 128 else 6 for byte in range(256)]
    ids = NucleotideTokenizer().encode(bytes(range(256)))
    assert ids.dtype == np.uint8
    assert ids.tolist() == table


def test_nucleotide_letters_outside_ascii_keep_their_place():
    assert NucleotideTokenizer().encode("AéC中T").tolist() == [7, 6, 8, 6, 10]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_nucleotide_strands_of_a_batch_with_every_id(dtype):
    ids = np.random.default_rng(0).integers(0, 12, (3, 40)).astype(dtype)
    mirrored = NucleotideTokenizer().reverse_complement(ids)
    swap = {7: 10, 8: 9, 9: 8, 10: 7}
    assert mirrored.dtype == dtype
    assert mirrored.tolist() == [[swap.get(i, i) for i in reversed(row)] for row in ids.tolist()]
    assert np.array_equal(NucleotideTokenizer().reverse_complement(mirrored), ids)


# K-mer


def slow_kmers(text: str, k: int, overlapping: bool) -> list[int]:
    def number(word: str) -> int:
        if not set(word) <= set("ACGT"):
            return 12 + 4**k
        return 12 + sum("ACGT".index(letter) * 4 ** (k - 1 - i) for i, letter in enumerate(word))

    if overlapping and len(text) >= k:
        return [number(text[i : i + k]) for i in range(len(text) - k + 1)]
    whole = 0 if overlapping else len(text) // k * k
    single = dict(zip("ACGTN?", [7, 8, 9, 10, 11, 6], strict=True))
    return [number(text[i : i + k]) for i in range(0, whole, k)] + [single[letter] for letter in text[whole:]]


@pytest.mark.parametrize(("k", "overlapping"), KMERS)
@pytest.mark.parametrize("length", [0, 1, 5, 6, 7, 8, 16, 61])
def test_kmer_ids(k, overlapping, length):
    for seed, letters in enumerate(["ACGT", "ACGTACGTACGTACGTN?", "N", "T"]):
        text = dna(length, seed=seed, letters=letters)
        ids = KmerTokenizer(k, overlapping).encode(text)
        assert ids.dtype == np.int32
        assert ids.tolist() == slow_kmers(text, k, overlapping)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_kmer_vocabulary_is_lexicographic(k):
    tokenizer = KmerTokenizer(k)
    words = [tokenizer.decode([i]) for i in range(12, 12 + 4**k)]
    assert words == sorted(set(words))
    assert {len(word) for word in words} == {k}
    assert tokenizer.vocab_size == 12 + 4**k + 1


def test_overlapping_keeps_lone_ns_and_trusts_the_last_base():
    tokenizer = KmerTokenizer(3, overlapping=True)
    text = "ACGTNACGTTTNNNNACG"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = [*tokenizer.encode("ACG"), *tokenizer.encode("TTT")]
    assert tokenizer.decode(ids) == "ACGT"
    mirrored = [*tokenizer.encode("AAA"), *tokenizer.encode("CGT"), 2]
    assert tokenizer.reverse_complement([[2, *ids], mirrored]).tolist() == [mirrored, [2, *ids]]


def test_side_by_side_strands_with_n_and_specials():
    tokenizer = KmerTokenizer(3)
    even = "ACGNACTTT"
    assert np.array_equal(tokenizer.reverse_complement(tokenizer.encode(even)), tokenizer.encode(other_strand(even)))
    ids = tokenizer.encode("ACGT")
    assert tokenizer.decode(tokenizer.reverse_complement(ids)) == "ACGT"
    with pytest.raises(ValueError, match=r"ids: got \[BOS\]"):
        tokenizer.reverse_complement([2, *ids])


@pytest.mark.parametrize("k", [0, 9, -1, 2.0, "3", True])
def test_kmer_bad_k(k):
    with pytest.raises(ValueError, match=r"k: got .*, want an integer from 1 to 8"):
        KmerTokenizer(k)


# BPE


def slow_bpe(text: str, tokenizer: BPETokenizer) -> list[str]:
    """The earliest merge that applies, at its leftmost place, again and again, piece by piece."""
    ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
    out = []
    for start in range(0, len(text), tokenizer.chunk):
        parts = list(text[start : start + tokenizer.chunk])
        while True:
            found = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]
            if not found:
                break
            at = min(found)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        out += parts
    return out


@pytest.mark.parametrize("seed", range(4))
def test_bpe_ids(bpe, seed):
    text = repetitive(333, seed=seed + 1)
    parts = slow_bpe(text, bpe)
    assert max(map(len, parts)) > 4
    assert [bpe.tokens[i] for i in bpe.encode(text)] == parts


def test_bpe_n_splits_and_is_kept(bpe):
    left, right = repetitive(120, seed=8), repetitive(70, seed=9)
    ids = bpe.encode(left + "NNrn!" + right)
    assert ids.tolist() == [*bpe.encode(left), 11, 11, 11, 11, 6, *bpe.encode(right)]
    assert bpe.decode(ids) == left + "NNNNN" + right
    with pytest.raises(ValueError, match=r"ids: got \[PAD\]"):
        bpe.reverse_complement([*ids, 4])


def test_bpe_training(bpe):
    assert bpe.vocab_size == len(bpe.tokens) == 64
    assert bpe.tokens[7:12] == list("ACGTN")
    assert all(set(token) <= set("ACGT") for token in bpe.tokens[12:])
    # AC stands more often than any other pair.
    small = BPETokenizer.train(["ACAC", "ACNAC", "gggAC"], vocab_size=13)
    assert small.tokens[12:] == ["AC"]
    assert [small.tokens[i] for i in small.encode("GACACT")] == ["G", "AC", "AC", "T"]
    # No pair of bases stands twice, so nothing is learned.
    assert BPETokenizer.train(["ACGTN"], vocab_size=100).vocab_size == 12


def test_bpe_two_merges_may_spell_one_token():
    tokenizer = BPETokenizer([("A", "A"), ("AA", "A"), ("A", "AA"), ("AAA", "C")])
    assert tokenizer.tokens[12:] == ["AA", "AAA", "AAAC"]
    assert tokenizer.encode("AAACG").tolist() == [14, 9]


def test_bpe_training_is_the_same_in_another_process(tmp_path):
    text = dna(30_000, seed=3)
    code = (
        "import sys; from titans_dna.tokens.tokenizer import BPETokenizer;"
        "BPETokenizer.train([sys.stdin.read()], vocab_size=300).save(sys.argv[1])"
    )
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, tmp_path / name], input=text, text=True, check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    here = BPETokenizer.train(iter([text]), vocab_size=300)
    assert load_tokenizer(tmp_path / "a").to_dict() == here.to_dict()


def test_bpe_pieces_bound_the_work_on_a_long_sequence(bpe):
    text = repetitive(20 * bpe.chunk, seed=4)
    parts = [bpe.encode(text[i : i + 5 * bpe.chunk]) for i in range(0, len(text), 5 * bpe.chunk)]
    assert np.array_equal(bpe.encode(text), np.concatenate(parts))
    poly = "A" * 300_000
    assert bpe.decode(bpe.encode(poly)) == poly


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BPETokenizer.train([b"ACGT"], vocab_size=11), "vocab_size: got 11"),
        (lambda: BPETokenizer.train([b"ACGT"], vocab_size="40"), "vocab_size: got '40'"),
        (lambda: BPETokenizer.train([b"ACGT"], vocab_size=20, chunk=0), "chunk: got 0"),
        (lambda: BPETokenizer.train([], vocab_size=20), "sequences: got no A, C, G or T"),
        (lambda: BPETokenizer.train([b"NNNN", b""], vocab_size=20), "sequences: got no A, C, G or T"),
        (lambda: BPETokenizer.train([None], vocab_size=20), "sequence: got NoneType"),
        (lambda: BPETokenizer([("A", "CC")]), "merges: got a merge of 'CC'"),
        (lambda: BPETokenizer([("A", "N")]), "merges: got a merge of 'N'"),
    ],
)
def test_bpe_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# By name and from files


@pytest.mark.parametrize(
    ("spec", "kind", "vocab_size"),
    [
        ("nucleotide", NucleotideTokenizer, 12),
        ("kmer-1", KmerTokenizer, 17),
        ("kmer-6", KmerTokenizer, 4109),
        ("kmer-6-overlapping", KmerTokenizer, 4109),
    ],
)
def test_make_tokenizer(spec, kind, vocab_size):
    made = make_tokenizer(spec)
    assert type(made) is kind
    assert (made.name, made.vocab_size) == (spec, vocab_size)


@pytest.mark.parametrize("spec", ["", "kmer", "kmer-", "kmer-3-", "nucleotides", "no/such/file.json", ".", None, 3])
def test_make_tokenizer_bad_spec(spec):
    with pytest.raises(ValueError, match=r"tokenizer: got .*, want nucleotide, kmer-K"):
        make_tokenizer(spec)


HEAD = {"format": "titans-dna tokenizer", "version": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no valid JSON"),
        (json.dumps({**HEAD, "kind": "nucleotide"})[:-3], "no valid JSON"),
        (b"\xff\xfe\x00", "no valid JSON"),
        ("[1, 2]", "some other JSON"),
        ('{"model": {"type": "BPE"}}', "some other JSON"),
        (json.dumps({**HEAD, "version": 2, "kind": "nucleotide"}), "version 2, want 1"),
        (json.dumps({**HEAD, "kind": "unigram"}), "kind 'unigram'"),
        (json.dumps({**HEAD, "kind": ["kmer"]}), "want nucleotide, kmer or bpe"),
        (json.dumps(HEAD), "kind None"),
        (json.dumps({**HEAD, "kind": "nucleotide", "k": 3}), "unknown key 'k'"),
        (json.dumps({**HEAD, "kind": "kmer", "overlapping": True}), "k = None, want int"),
        (json.dumps({**HEAD, "kind": "kmer", "k": True, "overlapping": True}), "k = True, want int"),
        (json.dumps({**HEAD, "kind": "kmer", "k": 12, "overlapping": False}), "k: got 12"),
        (json.dumps({**HEAD, "kind": "bpe", "chunk": 9}), "merges = None, want list"),
        (json.dumps({**HEAD, "kind": "bpe", "chunk": 9, "merges": ["AC"]}), "merges: got 'AC'"),
        (json.dumps({**HEAD, "kind": "bpe", "chunk": 9, "merges": [["A", "C"]]}), "merges: got"),
        (json.dumps({**HEAD, "kind": "bpe", "chunk": 9, "merges": ["A C", "AC GT"]}), "merges: got a merge of 'GT'"),
        (json.dumps({**HEAD, "kind": "bpe", "chunk": 0, "merges": []}), "chunk: got 0"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_load_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path / "none.json")
