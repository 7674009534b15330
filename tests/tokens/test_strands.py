"""The other strand, and the numbers of k-mers, against Biopython and against words in plain Python."""

import itertools

import numpy as np
import pytest
from Bio.Seq import Seq

from titans_dna.genome.records import LETTERS
from titans_dna.tokens import vocabulary as voc
from titans_dna.tokens.kmers import complementary_kmers, kmer_codes
from titans_dna.tokens.strands import either_strand, reverse_complement, reverse_complement_ids
from titans_dna.tokens.vocabulary import NucleotideTokenizer

ALL = LETTERS + LETTERS.lower()


def random_letters(seed, size, letters=ALL):
    return np.random.default_rng(seed).choice(np.frombuffer(letters, np.uint8), size).tobytes()


@pytest.mark.parametrize("size", [0, 1, 2, 33, 1000])
def test_reverse_complement_is_that_of_biopython(size):
    letters = random_letters(size, size)
    assert reverse_complement(letters) == bytes(Seq(letters).reverse_complement())
    assert reverse_complement(ALL) == bytes(Seq(ALL).reverse_complement())
    assert reverse_complement(reverse_complement(letters)) == letters.replace(b"U", b"T").replace(b"u", b"t")


def test_bytes_that_are_no_letters_are_their_own_complement():
    rest = bytes(set(range(256)) - set(b"ACGTURYKMBVDHacgturykmbvdh"))
    assert reverse_complement(rest) == rest[::-1]


def test_either_strand():
    letters = [random_letters(seed, seed, b"ACGTN") for seed in range(50)]
    assert either_strand(letters) == either_strand([reverse_complement(one) for one in letters])
    assert all(
        found in (one, reverse_complement(one)) for one, found in zip(letters, either_strand(letters), strict=True)
    )


def test_ids_and_letters_agree():
    tokenizer = NucleotideTokenizer()
    letters = random_letters(0, 500)
    ids = tokenizer.encode(letters)
    mirrored = reverse_complement_ids(ids, voc.COMPLEMENT_IDS)
    assert (mirrored == tokenizer.encode(reverse_complement(letters))).all()
    assert (reverse_complement_ids(mirrored, voc.COMPLEMENT_IDS) == ids).all()
    rows = ids.reshape(5, 2, 50)
    assert (reverse_complement_ids(rows, voc.COMPLEMENT_IDS)[3, 1] == mirrored.reshape(10, 50)[9 - 7]).all()


def test_base_digits():
    assert voc.base_digits(b"ACGTUacgtuNR-?").tolist() == [0, 1, 2, 3, 3, 0, 1, 2, 3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("k", [1, 2, 3, 8, 13, 31])
@pytest.mark.parametrize("stride", [1, 3])
def test_kmer_codes(k, stride):
    letters = random_letters(k, 300, b"ACGTacgtACGTACGTACGTN").decode()
    codes = kmer_codes(voc.base_digits(letters.encode()), k, stride=stride)
    assert codes.dtype == np.int64
    words = [letters[i : i + k].upper() for i in range(0, 300 - k + 1, stride)]
    wanted = [
        4**k if "N" in word else sum("ACGT".index(one) * 4**i for i, one in enumerate(word[::-1])) for word in words
    ]
    assert codes.tolist() == wanted
    assert kmer_codes(voc.base_digits(b"A" * (k - 1)), k, stride=stride).tolist() == []


def test_kmer_codes_by_hand():
    assert kmer_codes(voc.base_digits(b"ACGTNAC"), 2).tolist() == [1, 6, 11, 16, 16, 1]
    assert kmer_codes(voc.base_digits(b"T" * 31), 31).tolist() == [4**31 - 1]
    assert kmer_codes(voc.base_digits(b"N" * 31), 31).tolist() == [4**31]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_complementary_kmers(k):
    words = ["".join(word).encode() for word in itertools.product("ACGT", repeat=k)]
    assert [words[i] for i in complementary_kmers(k)] == [reverse_complement(word) for word in words]
