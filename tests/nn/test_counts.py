"""Counted continuations against counting by hand: any k, both strands, letters that are no base, one's own left out."""

import random
from collections import Counter

import pytest
import torch

from titans_dna.config import TitansConfig
from titans_dna.nn import counts as module
from titans_dna.nn.counts import TOP, Counts, check_counting, leave_out
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.strands import reverse_complement

ORDERS = [9, 2, 24, 11, 6, 13, 1]


def draw(length, seed=0):
    return "".join(random.Random(seed).choices("ACGT", k=length))


def repeats():
    """Repeats on both strands, a gap, a lower-case stretch, and a sequence too short to count."""
    one = draw(400)
    back = reverse_complement(one[100:220].encode()).decode()
    return [one[:200] + "N" + one[201:], one[50:130] + back + draw(90, 1).lower(), "ACGT", one[300:]]


def by_hand(sequences):
    """Words of every order with what follows them, wherever TOP bases stand before that."""
    found = Counter()
    for letters in sequences:
        for strand in (letters.upper(), reverse_complement(letters.upper().encode()).decode()):
            for end in range(TOP, len(strand)):
                if set(strand[end - TOP : end + 1]) <= set("ACGT"):
                    found.update((strand[end - k : end], strand[end]) for k in ORDERS)
    return found


def letters_of(text):
    return torch.tensor([["ACGTN".index(one) if one in "ACGT" else 4 for one in text.upper()]])


@pytest.mark.parametrize("block", [64, 1 << 18])
@pytest.mark.parametrize("depth", [0, 9, 10])
def test_any_order_is_what_counting_by_hand_gives(monkeypatch, depth, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    sequences, text = repeats(), repeats()[0] + repeats()[1]
    counts, want = Counts.fit(sequences, depth=depth), by_hand(sequences)
    found = counts.look(letters_of(text), ORDERS, len(text))
    assert found.shape == (1, len(text), len(ORDERS), 4)
    text = text.upper()
    for place in range(len(text)):
        for number, k in enumerate(ORDERS):
            word = text[place + 1 - k : place + 1] if place + 1 >= k else "N"
            assert found[0, place, number].tolist() == [want[word, base] for base in "ACGT"], (place, k)
    assert int(found[:, :, 2].max()) > 1  # repeats longer than TOP are there
    assert counts.occurrences == sum(n for (word, _), n in want.items() if len(word) == 2)


def test_pieces_and_a_limit_to_the_own_sequence():
    counts, text = Counts.fit(repeats()), repeats()[0]
    letters = letters_of(text)
    whole = counts.look(letters, ORDERS, len(text))
    for cut in (1, 30, 203):
        rest = counts.look(letters[:, max(cut - TOP + 1, 0) :], ORDERS, len(text) - cut)
        assert torch.equal(rest, whole[:, cut:])
    limited = counts.look(letters, ORDERS, len(text), torch.arange(len(text))[None] % 50)
    for start in range(0, len(text), 50):
        alone = counts.look(letters[:, start : start + 50], ORDERS, min(50, len(text) - start))
        assert torch.equal(limited[:, start : start + 50], alone)


@pytest.mark.parametrize("strand", [1, -1])
def test_without_its_own_a_sequence_has_never_been_seen(strand):
    text = draw(300, 3)
    counts = Counts.fit([text])
    text = text if strand == 1 else reverse_complement(text.encode()).decode()
    letters = letters_of(text)
    found = counts.look(letters[:, :-1], [24, 12], len(text) - 1)
    assert int(found[0, 30, 0].sum()) == 1
    left = leave_out(found, letters[:, 1:])
    assert int(left[0, 24:].sum()) == 0
    assert torch.equal(leave_out(found, torch.full_like(letters[:, 1:], 4)), found)


def test_some_rows_learn_without_counts_and_none_is_read_without():
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig.preset("tiny", variant="lmm", counts=[2, 6])).train()
    model.counts = Counts.fit(repeats())
    ids = torch.randint(7, 11, (400, 8))
    seen = [model.entry.look(ids, None, own=own).counted[:, 7].abs().sum((1, 2)) > 0 for own in (ids, None)]
    assert 0.8 < float(seen[0].float().mean()) < 0.96
    assert bool(seen[1].all())
    assert bool((model.eval().entry.look(ids, None, own=ids).counted[:, 7].abs().sum((1, 2)) > 0).all())


def test_there_and_back(tmp_path):
    counts = Counts.fit(repeats())
    counts.save(tmp_path / "counts")
    again = Counts.load(tmp_path / "counts")
    assert (again.digest, again.depth, again.occurrences) == (counts.digest, counts.depth, counts.occurrences)
    assert torch.equal(again.places, counts.places)
    assert torch.equal(again.rest, counts.rest)
    assert Counts.fit([draw(200)]).digest != counts.digest


def test_what_is_no_counts(tmp_path):
    with pytest.raises(FileNotFoundError, match="counts: no such file, want counts, as titans-dna pretrain --counts"):
        Counts.load(tmp_path / "counts")
    Counts.fit(repeats()).save(tmp_path / "counts")
    whole = (tmp_path / "counts").read_bytes()
    for damaged in (b"", whole[:100], whole[:-5], b"x" * 300):
        (tmp_path / "counts").write_bytes(damaged)
        with pytest.raises(ValueError, match="counts: truncated or damaged"):
            Counts.load(tmp_path / "counts")
    for place in (len(whole) // 2, len(whole) - 1):
        (tmp_path / "counts").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="counts: damaged: its bytes are not those that were written"):
            Counts.load(tmp_path / "counts")
    with pytest.raises(ValueError, match="sequences: got no base with 24 others before it"):
        Counts.fit(["ACGTNACGT" * 9])
    with pytest.raises(ValueError, match=r"--counts: got 1,000,000,000,000 bases to count, which takes 24,00.* GB"):
        check_counting(10**12)
