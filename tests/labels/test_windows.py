"""Regions held out stay apart from training; windows tile them; draws are a function of seed and number."""

from pathlib import Path

import numpy as np
import pytest

from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import BedRow, Interval, Split, split_by_bed, split_by_blocks, split_by_contig
from titans_dna.genome.sampler import Window
from titans_dna.labels.annotation import Feature, read_annotation
from titans_dna.labels.windows import LabelledGenome

SHARES = {"valid_fraction": 0.1, "test_fraction": 0.1}
GENOMES = Path(__file__).parents[2] / "../shared/data/genomes"


@pytest.fixture
def genome(tmp_path):
    rng = np.random.default_rng(0)
    one, two = ("".join(rng.choice(list("ACGTacgt"), size)) for size in (5_000, 730))
    (tmp_path / "g.fa").write_text(f">one\n{one[:100]}NNNRu{one[105:]}\n>two\n{two}\n")
    return open_genome(tmp_path / "g.fa", tmp_path / "cache")


def features():
    at = [(90, 110, "+"), (300, 420, "+"), (400, 450, "-"), (3000, 4200, "-")]
    return [Feature(Interval("one", start, end), strand, "CDS") for start, end, strand in at]


def painted(genome, intervals):
    mask = {name: np.zeros(bases, int) for name, bases in genome.contigs.items()}
    for one in intervals:
        mask[one[0] if isinstance(one, Window) else one.contig][one.start : one.end] += 1
    return mask


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize(
    ("block", "context", "valid", "test"), [(100, 30, 0.1, 0.1), (90, 5, 0.2, 0.1), (50, 0, 0.1, 0.25)]
)
def test_blocks(genome, seed, block, context, valid, test):
    split = split_by_blocks(genome, block=block, context=context, valid_fraction=valid, test_fraction=test, seed=seed)
    total = sum(genome.contigs.values())
    for part, share in ((split.valid, valid), (split.test, test)):
        assert sum(map(len, part)) / total == pytest.approx(share, abs=0.02)
    train, held, apart = (painted(genome, part) for part in (split.train, split.valid + split.test, split.valid))
    for contig in genome.contigs:
        assert max(train[contig] + held[contig]) == 1
        for base in np.flatnonzero(held[contig]):
            assert not train[contig][max(0, base - context) : base + context + 1].any()
        # What is nowhere lies within one context of a held-out base.
        for base in np.flatnonzero(train[contig] + held[contig] == 0):
            assert held[contig][max(0, base - context) : base + context + 1].any()
    assert split == split_by_blocks(
        genome, block=block, context=context, valid_fraction=valid, test_fraction=test, seed=seed
    )
    if seed is not None:
        other = split_by_blocks(genome, **SHARES | {"block": block, "context": context, "seed": seed + 1})
        assert other.test != split.test
    assert any(apart[contig].any() for contig in genome.contigs)


def test_windows_tile_each_split(genome):
    split = split_by_blocks(genome, **SHARES, block=150, context=40)
    data = LabelledGenome(genome, features(), split, context=40)
    for windows, intervals in zip((data.train, data.valid, data.test), split, strict=True):
        found, wanted = painted(genome, windows), painted(genome, intervals)
        assert all((found[contig] == wanted[contig]).all() for contig in genome.contigs)
        assert all(1 <= window.end - window.start <= 40 and not window.reverse for window in windows)


def test_other_splits(genome):
    by_contig = split_by_contig(genome, valid=["two"], context=10)
    with pytest.raises(ValueError, match="no test intervals"):
        LabelledGenome(genome, features(), by_contig, context=10)
    rows = [("train", 0, 1000), ("valid", 1500, 1700), ("test", 2000, 2300)]
    from_bed = split_by_bed([_bed(name, start, end) for name, start, end in rows], context=10)
    data = LabelledGenome(genome, features(), from_bed, context=100)
    assert data.test == [Window("one", start, start + 100) for start in (2000, 2100, 2200)]


def _bed(name, start, end):
    return BedRow(Interval("one", start, end), name, name)


def test_example(genome):
    data = LabelledGenome(genome, features(), _split(), context=50, stranded=True)
    forward = data.example(Window("one", 95, 110))
    assert forward.bases == genome.fetch("one", 95, 110).upper().replace(b"U", b"T")
    assert forward.bases[5:9] == b"NNNR"
    assert forward.known.tolist() == [True] * 5 + [False] * 4 + [True] * 6  # U counts as T
    assert [data.classes[i] for i in forward.labels] == ["CDS+"] * 15
    window = Window("one", 410, 460)
    reverse, again = data.example(window._replace(reverse=True)), data.example(window)
    named = [data.classes[i] for i in reverse.labels]
    assert named == ["none"] * 10 + ["CDS+"] * 30 + ["CDS-"] * 10
    letters = {"A": "T", "C": "G", "G": "C", "T": "A"}
    assert reverse.bases.decode() == "".join(letters[one] for one in reversed(again.bases.decode()))


def _split():
    return Split((Interval("one", 0, 2000),), (Interval("one", 2100, 2500),), (Interval("one", 2900, 3500),))


def test_draws(genome):
    data = LabelledGenome(genome, features(), _split(), context=64)
    first = data.draw(3, 5, 20)
    data.draw(3, 6)
    assert data.draw(3, 5, 20) == first
    assert LabelledGenome(genome, features(), _split(), context=64).draw(3, 5, 20) == first
    assert data.draw(3, 6, 20) != first
    assert data.draw(4, 5, 20) != first
    many = [window for number in range(40) for window in data.draw(0, number, 20)]
    assert all(w.contig == "one" and w.start >= 0 and w.end <= 2000 and w.end - w.start == 64 for w in many)
    assert 0.4 < np.mean([w.reverse for w in many]) < 0.6
    assert np.mean([w.start for w in many]) == pytest.approx(968, abs=70)
    assert not any(w.reverse for w in data.draw(0, 0, 50, reverse_complement=False))


def test_fingerprint(tmp_path, genome):
    base = LabelledGenome(genome, features(), _split(), context=50).fingerprint()
    assert base == LabelledGenome(genome, features()[::-1], _split(), context=50).fingerprint()
    moved = _split()._replace(test=(Interval("one", 2900, 3501),))
    (tmp_path / "h.fa").write_text(f">one\n{'A' * 5000}\n")
    others = [
        LabelledGenome(genome, features(), _split(), context=51),
        LabelledGenome(genome, features(), _split(), context=50, stranded=True),
        LabelledGenome(genome, features()[1:], _split(), context=50),
        LabelledGenome(genome, features(), moved, context=50),
        LabelledGenome(open_genome(tmp_path / "h.fa", tmp_path / "cache"), features(), _split(), context=50),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == 6


def test_report(genome):
    report = LabelledGenome(genome, features(), _split(), context=50, stranded=True).report()
    train, valid, test = report.splits
    assert report.classes == ("none", "CDS+", "CDS-")
    # + 90-110 (four of them unknown) and 300-420, - 420-450 where + does not win.
    assert train.classes == (2000 - 20 - 120 - 30, 16 + 120, 30)
    assert (train.unknown, train.several, train.bases, train.windows) == (4, 20, 2000, 40)
    assert valid.classes == (400, 0, 0)
    assert test.classes == (100, 0, 500)
    assert report.features == {"CDS": 4}
    assert "| test | 1 | 12 | 600 | 0 | 0 | 100 (16.7%) | 0 (0.0%) | 500 (83.3%) |" in report.markdown()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 100, "context": 10, "test_fraction": 0.5}, "test_fraction: got 0.5"),
        ({"block": 100, "context": 10, "valid_fraction": 0}, "valid_fraction: got 0"),
        ({"block": 100, "context": 101}, "block: got 100 bases for a context of 101"),
        ({"block": 5000, "context": 10}, "train: no bases left of 5,730 after 2 block"),
        ({"block": 500, "context": 500, "test_fraction": 0.4}, "train: no bases left"),
    ],
)
def test_bad_blocks(genome, options, message):
    with pytest.raises(ValueError, match=message):
        split_by_blocks(genome, **SHARES | options)


def test_bad_arguments(genome):
    with pytest.raises(ValueError, match="context: got 0"):
        LabelledGenome(genome, features(), _split(), context=0)
    outside = _split()._replace(test=(Interval("two", 0, 731),))
    with pytest.raises(ValueError, match="test interval two:0-731 is not in"):
        LabelledGenome(genome, features(), outside, context=10)


def test_e_coli(tmp_path):
    if not (GENOMES / "ecoli.gff3.gz").exists():
        pytest.skip("shared/data/genomes is not beside the repository")
    genome = open_genome(GENOMES / "ecoli.fa.gz", tmp_path)
    features = read_annotation(GENOMES / "ecoli.gff3.gz", genome)
    data = LabelledGenome(
        genome, features, split_by_blocks(genome, **SHARES, block=100_000, context=8192), context=8192
    )
    coding = np.zeros(4_641_652, bool)
    for one in features:
        coding[one.interval.start : one.interval.end] = True
    for split, intervals in zip(data.report().splits, data.split, strict=True):
        assert split.classes[1] == sum(int(coding[one.start : one.end].sum()) for one in intervals)
        assert 0.85 < split.classes[1] / split.bases < 0.90
