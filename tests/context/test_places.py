"""Where `titans-dna bench context` scores, and which bases repeat what stands before them."""

import numpy as np
import pytest

from titans_dna.context.places import choose_places, held_out
from titans_dna.context.report import NEVER, recurrence
from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import Interval


@pytest.fixture
def genome(tmp_path):
    """Two contigs with runs of N between their bases, and one that is short."""
    rng = np.random.default_rng(3)
    lines = []
    for name, bases in (("one", 3000), ("two", 2000), ("short", 400)):
        letters = rng.choice(list("ACGT"), bases)
        for start in rng.integers(bases, size=bases // 100):
            letters[start : start + 30] = "N"
        lines.append(f">{name}\n{''.join(letters)}\n")
    (tmp_path / "genome.fa").write_text("".join(lines))
    return open_genome(tmp_path / "genome.fa", tmp_path / "cache")


def fits(genome, contig, start, contexts, target, max_n):
    if start < max(contexts) or start + target > genome.contigs[contig]:
        return False
    letters = [genome.fetch(contig, start - context, start + target) for context in (0, *contexts)]
    return all(one.count(b"N") <= max_n * len(one) for one in letters)


@pytest.mark.parametrize("max_n", [0.1, 0.25, 0.9])
def test_places_are_allowed_disjoint_and_all_that_there_are(genome, max_n):
    contexts, target = (50, 300), 40
    found = choose_places(genome, held_out(genome, (), None), contexts, target, 10**6, max_n)
    assert all(fits(genome, one.contig, one.start, contexts, target, max_n) for one in found)
    starts = {contig: [one.start for one in found if one.contig == contig] for contig in genome.contigs}
    for contig, bases in genome.contigs.items():
        assert all(np.diff(starts[contig]) >= target)
        free, most = 0, 0  # the earliest first is the most that can be
        for start in range(bases):
            if start >= free and fits(genome, contig, start, contexts, target, max_n):
                free, most = start + target, most + 1
        assert len(starts[contig]) == most
    assert len(starts["one"]) > 1


def test_a_few_places_are_spread_over_all(genome):
    everything = choose_places(genome, held_out(genome, (), None), (50, 300), 40, 10**6, 0.25)
    few = choose_places(genome, held_out(genome, (), None), (50, 300), 40, 4, 0.25)
    assert len(few) == 4
    ranks = [everything.index(one) for one in few]
    assert max(np.diff(ranks)) - min(np.diff(ranks)) <= 1
    assert abs(ranks[0] - (len(everything) - 1 - ranks[-1])) <= 1


def test_nowhere_says_what_would_fit(genome):
    intervals = held_out(genome, (), None)
    with pytest.raises(ValueError, match=r"--contexts: got 2971 bases.*want at most 2970$"):
        choose_places(genome, intervals, (2971,), 30, 8, 0.9)
    with pytest.raises(ValueError, match=r"--max_n: got 0\.01") as error:
        choose_places(genome, intervals, (1500,), 30, 8, 0.01)
    share = float(str(error.value).split("share of ")[1].split(":")[0])
    least = min(
        genome.fetch(one, start, start + 1530).count(b"N") / 1530
        for one in ("one", "two")
        for start in range(genome.contigs[one] - 1529)
    )
    assert share == pytest.approx(least, abs=6e-4)


def test_held_out_intervals(genome, tmp_path):
    bed = tmp_path / "split.bed"
    bed.write_text("one\t0\t1000\ttrain\none\t1000\t1800\tvalid\none\t1800\t2000\tvalid\n")
    assert held_out(genome, (), str(bed)) == [Interval("one", 1000, 2000)]
    bed.write_text("two\t5\t50\n")
    assert held_out(genome, (), str(bed)) == [Interval("two", 5, 50)]
    bed.write_text("two\t5\t50\ttrain\n")
    with pytest.raises(ValueError, match="none for valid"):
        held_out(genome, (), str(bed))
    assert [one.contig for one in held_out(genome, ("two",), None)] == ["two"]
    with pytest.raises(ValueError, match="--contigs: got 'three'"):
        held_out(genome, ("two", "three"), None)


@pytest.mark.parametrize(("k", "letters"), [(1, "ACGT"), (3, "ACGTN"), (5, "ACgtN"), (6, "AC"), (31, "Aa")])
def test_recurrence_is_that_of_a_dictionary(k, letters):
    text = "".join(np.random.default_rng(k).choice(list(letters), 400))
    target = 150
    start = len(text) - target
    ending, before = recurrence(text.encode(), target, k)
    last, at = {}, {}
    for end in range(k - 1, len(text)):
        word = text[end - k + 1 : end + 1].upper()
        at[end] = None if "N" in word else last.get(word, -1)
        last[word] = end
    for shift, found in ((0, ending), (1, before)):
        for i in range(target):
            end = start + i - shift
            earlier = at[end]
            if earlier is None:
                want = (-1, -1)
            elif earlier < 0:
                want = (NEVER, NEVER)
            else:
                want = (end - earlier, max(start - (earlier - k + 1), 0))
            assert (found.distance[i], found.reach[i]) == want
    assert (ending.reach < 0).any() == ("N" in letters)
    assert (ending.reach == NEVER).any() == (k in (3, 5, 6))
