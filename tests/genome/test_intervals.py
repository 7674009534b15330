"""Intervals, BED and splits, judged by marking single bases in arrays."""

import gzip
import itertools
import random
import re

import numpy as np
import pytest

from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import (
    BedRow,
    Interval,
    Split,
    cut,
    merge,
    read_bed,
    split_by_bed,
    split_by_blocks,
    split_by_contig,
    subtract,
    want_split,
    write_split,
)

LENGTHS = {"chr1": 1000, "chr2": 300, "empty": 0, "gi|3|": 50, "#4": 20}


def make_genome(tmp_path, contigs):
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    return open_genome(tmp_path / "g.fa", tmp_path / "cache")


@pytest.fixture
def genome(tmp_path):
    return make_genome(tmp_path, {name: "ACGT" * (bases // 4) + "A" * (bases % 4) for name, bases in LENGTHS.items()})


def mark(intervals, length=1200):
    """One array of counts per contig: how many intervals cover each base."""
    marked = {}
    for one in intervals:
        marked.setdefault(one.contig, np.zeros(length, int))[one.start : one.end] += 1
    return marked


def random_intervals(rng, count, contigs="ab", length=1200):
    starts = [rng.randrange(length - 1) for _ in range(count)]
    return [Interval(rng.choice(contigs), start, rng.randint(start + 1, min(start + 200, length))) for start in starts]


def check_apart(split, context):
    """No held-out base within `context` bases of a training base, no base twice, and nothing empty."""
    for part in split:
        assert all(len(one) > 0 for one in part)
        assert all((counts <= 1).all() for counts in mark(part).values())
        assert list(part) == merge(part)
    train = mark(split.train)
    for one in (*split.valid, *split.test):
        near = train.get(one.contig, np.zeros(1200))[max(one.start - context, 0) : one.end + context]
        assert not near.any(), (one, context)


def test_interval():
    one = Interval("chr1", 5, 9)
    assert (len(one), str(one), one == Interval("chr1", 5, 9)) == (4, "chr1:5-9", True)
    assert sorted([Interval("a", 5, 9), Interval("a", 0, 9)])[0].start == 0
    assert len({one, Interval("chr1", 5, 9)}) == 1


def test_merge_and_subtract_against_single_bases():
    rng = random.Random(0)
    for _ in range(200):
        ours, holes = random_intervals(rng, rng.randint(1, 8)), random_intervals(rng, rng.randint(0, 6))
        margin = rng.choice([0, 0, 1, 30])
        merged, left = merge(ours), subtract(ours, holes, margin)
        covered = {contig: counts > 0 for contig, counts in mark(ours).items()}
        assert {contig: (counts == 1).tolist() for contig, counts in mark(merged).items()} == {
            contig: bases.tolist() for contig, bases in covered.items()
        }
        for hole in holes:
            if hole.contig in covered:
                covered[hole.contig][max(hole.start - margin, 0) : hole.end + margin] = False
        assert {contig: counts.tolist() for contig, counts in mark(left).items()} == {
            contig: bases.astype(int).tolist() for contig, bases in covered.items() if bases.any()
        }
        for result in (merged, left):
            for one, following in itertools.pairwise(result):
                assert one.contig != following.contig or one.end < following.start


def test_cut():
    assert cut([Interval("a", 5, 12), Interval("b", 0, 3)], 3) == [
        *(Interval("a", start, end) for start, end in ((5, 8), (8, 11), (11, 12))),
        Interval("b", 0, 3),
    ]
    rng = random.Random(2)
    for _ in range(50):
        given, width = random_intervals(rng, 4), rng.randint(1, 90)
        pieces = cut(given, width)
        assert all(0 < len(one) <= width for one in pieces)
        assert {name: counts.tolist() for name, counts in mark(pieces).items()} == {
            name: counts.tolist() for name, counts in mark(given).items()
        }


def test_merge_keeps_the_order_of_contigs():
    assert merge([Interval("z", 4, 6), Interval("a", 0, 2), Interval("z", 0, 4)]) == [
        Interval("z", 0, 6),
        Interval("a", 0, 2),
    ]


BED = "# made by hand\ntrack name=x\nbrowser position\n\n"
BED += "chr1\t0\t1000\ngi|3|\t5\t6\tvalid\t0\t+\nchr2 7 9 gene\n#4\t1\t2\ttest\n"
ROWS = [("chr1", 0, 1000, None), ("gi|3|", 5, 6, "valid"), ("chr2", 7, 9, None), ("#4", 1, 2, "test")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_read_bed(tmp_path, genome, end, compress):
    (tmp_path / "x.bed").write_bytes(compress(BED.replace("\n", end).encode()))
    rows = read_bed(tmp_path / "x.bed", genome)
    assert [(row.interval.contig, row.interval.start, row.interval.end, row.split) for row in rows] == ROWS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chrX\t0\t5", "contig 'chrX' is not in {fasta}, which has 'chr1', 'chr2', 'empty', … (5 in all)"),
        ("chr2\t0\t301", "interval chr2:0-301, want 0 <= start < end <= 300, the contig's length"),
        ("chr2\t-1\t3", "interval chr2:-1-3, want 0 <= start < end <= 300, the contig's length"),
        ("chr2\t5\t5", "interval chr2:5-5, want 0 <= start < end <= 300, the contig's length"),
        ("chr2\t6\t5", "interval chr2:6-5, want 0 <= start < end <= 300, the contig's length"),
        ("empty\t0\t1", "interval empty:0-1, want 0 <= start < end <= 0, the contig's length"),
        ("chr2\t0\t1e2", "got start '0' and end '1e2', want integers"),
        ("chr2\t\t10", "got start '' and end '10', want integers"),
        ("chr2\t10", "got 2 column(s), want contig, start and end"),
    ],
)
def test_bad_bed_line(tmp_path, genome, line, message):
    path = tmp_path / "x.bed"
    path.write_text("# one\nchr1\t0\t10\n" + line + "\n")
    with pytest.raises(ValueError) as error:
        read_bed(path, genome)
    assert str(error.value) == f"{path}: line 3: " + message.format(fasta=genome.path)


def test_bad_bed_file(tmp_path, genome):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_bed(tmp_path / "x.bed", genome)
    with pytest.raises(IsADirectoryError, match="want a BED file"):
        read_bed(tmp_path, genome)
    for content, message in ((b"# x\n\n", "no intervals"), (gzip.compress(BED.encode())[:-9], "truncated gzip")):
        (tmp_path / "x.bed").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_bed(tmp_path / "x.bed", genome)


def test_blocks_by_hand():
    split = split_by_blocks([Interval("a", 0, 1050)], valid_fraction=0.2, block=100, context=10)
    assert split == Split(
        train=(Interval("a", 0, 190), Interval("a", 310, 690), Interval("a", 810, 1050)),
        valid=(Interval("a", 200, 300), Interval("a", 700, 800)),
        test=(),
    )


def test_blocks_run_on_over_short_contigs(genome):
    """Contigs shorter than a block are held out whole, one in n."""
    names = [f"c{i}" for i in range(40)]
    split = split_by_blocks([Interval(name, 0, 30) for name in names], valid_fraction=0.25, block=100, context=20)
    assert [one.contig for one in split.valid] == names[2::4]
    assert [one.contig for one in split.train] == [name for name in names if name not in names[2::4]]


def test_split_guarantee():
    """Random contigs or regions, fractions, blocks, contexts and seeds."""
    rng = random.Random(0)
    done, refused = 0, []
    for _ in range(400):
        if rng.random() < 0.5:
            given = [Interval(f"c{i}", 0, rng.randint(1, 1200)) for i in range(rng.randint(1, 5))]
        else:
            given = random_intervals(rng, rng.randint(2, 12))
        fraction, block = rng.choice([0.5, 0.3, 0.1, 0.05]), rng.randint(1, 300)
        context, seed = rng.choice([0, 1, 7, 50, 200]), rng.choice([None, 3])
        try:
            split = split_by_blocks(given, valid_fraction=fraction, block=block, context=context, seed=seed)
        except ValueError as error:
            refused.append(str(error))
            continue
        done += 1
        check_apart(split, context)
        covered, parts = mark(given), mark([*split.train, *split.valid])
        assert all((covered[contig][counts > 0] > 0).all() for contig, counts in parts.items())
        held = sum(map(len, split.valid)) / sum(map(len, merge(given)))
        blocks = sum(-(-len(one) // block) for one in merge(given))
        assert held <= (blocks // round(1 / fraction) + 1) * block / sum(map(len, merge(given)))
        if context == 0:
            assert sum(map(len, split.train + split.valid)) == sum(map(len, merge(given)))
    assert done > 150
    assert all(re.match("(context|train|valid): ", message) for message in refused)


def test_bed_split_guarantee():
    rng = random.Random(1)
    done, refused = 0, []
    for _ in range(400):
        train, valid, test = (random_intervals(rng, count, "abc") for count in (8, 2, rng.randint(0, 2)))
        rows = [
            BedRow(one, name) for name, part in zip(Split._fields, (train, valid, test), strict=True) for one in part
        ]
        rng.shuffle(rows)
        context = rng.choice([0, 1, 20, 100])
        try:
            split = split_by_bed(rows, context=context)
        except ValueError as error:
            refused.append(str(error))
            continue
        done += 1
        check_apart(split, context)
        assert mark(split.valid).keys() == mark(valid).keys()
        far = mark(subtract(train, valid + test, context))
        assert {name: counts.tolist() for name, counts in mark(split.train).items()} == {
            name: (counts > 0).astype(int).tolist() for name, counts in far.items()
        }
    assert done > 150
    assert all(re.match("(context|train|test): ", message) for message in refused)


def test_seed_draws_other_blocks_in_the_same_number():
    def split(seed):
        return split_by_blocks([Interval("a", 0, 1200)], valid_fraction=0.1, block=4, context=0, seed=seed)

    assert split(1) == split(1) != split(2)
    assert sum(map(len, split(1).valid)) == sum(map(len, split(2).valid)) == sum(map(len, split(None).valid)) == 120


def test_split_by_contig(genome):
    split = split_by_contig(genome, valid=["chr2"], test=["gi|3|", "empty"])
    assert split == Split(
        train=(Interval("chr1", 0, 1000), Interval("#4", 0, 20)),
        valid=(Interval("chr2", 0, 300),),
        test=(Interval("gi|3|", 0, 50),),
    )


def test_bed_rows_without_a_split_are_regions():
    given = [Interval("a", 100, 600), Interval("b", 0, 300), Interval("a", 500, 900)]
    split = split_by_bed([BedRow(one, None) for one in given], context=5, valid_fraction=0.25, block=50)
    assert split == split_by_blocks(given, context=5, valid_fraction=0.25, block=50)
    assert {one.contig for one in split.valid} == {"a", "b"}


A = Interval("a", 0, 1000)
BAD = {
    "context longer than every contig": (
        lambda genome: split_by_blocks(genome, valid_fraction=0.1, block=10, context=1001),
        "context: got 1001 bases, want at most 1000, the longest contig or interval",
    ),
    "context longer than every row": (
        lambda genome: split_by_bed([BedRow(A, "train"), BedRow(A, "valid")], context=2000),
        "context: got 2000 bases, want at most 1000",
    ),
    "context longer than every contig, split by contig": (
        lambda genome: split_by_contig(genome, valid=["chr2"], context=1001),
        "context: got 1001 bases, want at most 1000",
    ),
    "negative context": (
        lambda genome: split_by_blocks([A], valid_fraction=0.1, block=10, context=-1),
        "context: got -1",
    ),
    "nothing to train on": (
        lambda genome: split_by_blocks([A], valid_fraction=0.5, block=100, context=100),
        "train: no bases left of 1,000 after 10 block(s) of 100 bases, one in 2 held out with context 100",
    ),
    "nothing to validate on": (
        lambda genome: split_by_blocks([A], valid_fraction=0.1, block=500, context=0),
        "valid: no bases left of 1,000 after 2 block(s)",
    ),
    "no valid rows": (lambda genome: split_by_bed([BedRow(A, "train")], context=1), "valid: no bases left"),
    "no train rows": (lambda genome: split_by_bed([BedRow(A, "valid")], context=1), "train: no bases left of 0"),
    "train inside valid": (
        lambda genome: split_by_bed([BedRow(A, "valid"), BedRow(Interval("a", 5, 9), "train")], context=1),
        "train: no bases left of 4 after 2 BED row(s)",
    ),
    "valid overlaps test": (
        lambda genome: split_by_bed([BedRow(A, "valid"), BedRow(Interval("a", 5, 9), "test")], context=1),
        "test: overlaps valid",
    ),
    "some rows have a split": (
        lambda genome: split_by_bed([BedRow(A, "valid"), BedRow(Interval("b", 5, 9), None)], context=1),
        "bed: got 1 of 2 rows without train, valid or test in column 4, such as b:5-9",
    ),
    "unknown contig": (
        lambda genome: split_by_contig(genome, valid=["chr9"]),
        "valid: got contig 'chr9', want one of 'chr1', 'chr2', 'empty', … (5 in all)",
    ),
    "contig twice": (
        lambda genome: split_by_contig(genome, valid=["chr2"], test=["chr2"]),
        "test: got contig 'chr2', which is in valid too",
    ),
    "all contigs held out": (lambda genome: split_by_contig(genome, valid=list(LENGTHS)), "train: no bases left"),
    "no contig held out": (lambda genome: split_by_contig(genome, valid=[]), "valid: no bases left"),
    "fraction 0": (lambda genome: split_by_blocks([A], valid_fraction=0, block=9, context=0), "valid_fraction: got 0"),
    "fraction 0.9": (
        lambda genome: split_by_blocks([A], valid_fraction=0.9, block=9, context=0),
        "valid_fraction: got 0.9, want above 0 and at most 0.5",
    ),
    "block 0": (lambda genome: split_by_blocks([A], valid_fraction=0.1, block=0, context=0), "block: got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_split(genome, case):
    call, message = BAD[case]
    with pytest.raises(ValueError) as error:
        call(genome)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_written_split_reads_back(tmp_path, genome):
    split = split_by_blocks(genome, valid_fraction=0.2, block=17, context=9, seed=4)
    split = split._replace(valid=split.valid[1:], test=split.valid[:1])
    write_split(tmp_path / "split.bed", split)
    rows = read_bed(tmp_path / "split.bed", genome)
    assert [(row.split, row.interval) for row in rows] == [
        (name, one) for name, part in zip(Split._fields, split, strict=True) for one in part
    ]
    assert split_by_bed(rows, context=9) == split
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("TRAIN", "train"),
        ("Valid", "valid"),
        ("validation", "valid"),
        ("dev", "valid"),
        ("Test ", "test"),
    ],
)
def test_a_split_is_known_in_any_spelling(tmp_path, genome, name, split):
    (tmp_path / "x.bed").write_text(f"chr1\t0\t10\t{name}\n")
    rows = read_bed(tmp_path / "x.bed", genome)
    assert [row.split for row in rows] == [split]
    want_split("x.bed", rows, every=True)


@pytest.mark.parametrize("name", ["fold0", "Fold_1", "0", "3", "split-2", "cv1", "holdout", "eval", "part 1"])
def test_what_is_nearly_a_split_is_refused(tmp_path, genome, name):
    (tmp_path / "x.bed").write_text(f"#\nchr1\t0\t10\t{name}\n")
    rows = read_bed(tmp_path / "x.bed", genome)
    with pytest.raises(ValueError, match=f"x.bed: line 2, column 4: got '{name}', want train, valid or test"):
        want_split("x.bed", rows)


def test_names_of_regions_are_no_splits(tmp_path, genome):
    (tmp_path / "x.bed").write_text("chr1\t0\t10\tgene1\nchr2\t0\t10\nchr2\t0\t10\trepeat\n")
    rows = read_bed(tmp_path / "x.bed", genome)
    want_split("x.bed", rows)
    with pytest.raises(ValueError, match=r"x\.bed: line 1, column 4: got 'gene1', want train, valid or test$"):
        want_split("x.bed", rows, every=True)


@pytest.mark.parametrize("strand", ["+1", "-1", "1", "plus", "Forward", "minus"])
def test_what_is_nearly_a_strand_is_refused(tmp_path, genome, strand):
    (tmp_path / "x.bed").write_text(f"chr1\t0\t10\tgene\t0\t{strand}\n")
    with pytest.raises(ValueError, match=re.escape(f"x.bed: line 1: column 6: got strand '{strand}', want +, - or .")):
        read_bed(tmp_path / "x.bed", genome)
