"""The data report counts what was put in."""

from pathlib import Path

import numpy as np
import pytest

from titans_dna.labels.data import LabelledData, Rows
from titans_dna.labels.read import read_labelled
from titans_dna.labels.report import deduplicated, report
from titans_dna.tokens.strands import reverse_complement

SHARED = Path(__file__).parents[2] / "../shared/data"


def rows(*pairs):
    return Rows(
        tuple(str(i) for i in range(len(pairs))),
        tuple(letters for letters, _ in pairs),
        np.array([label for _, label in pairs], dtype=np.int64),
    )


ONE, TWO, THREE, FOUR = b"AAACCGT", b"AACTNA", b"GGGATTTACC", b"TTTTTTTT"
DATA = LabelledData(
    "made-up", "binary", ("no", "yes"),
    rows((ONE, 0), (ONE, 1), (reverse_complement(ONE), 0), (TWO, 1), (THREE, 1)),
    rows((FOUR, 0)),
    rows((reverse_complement(TWO), 1), (THREE, 0), (FOUR, 1), (b"CCCCC", 0), (b"GGGGG", 0)),
)  # fmt: skip


def test_reverse_complement():
    assert reverse_complement(b"ACGTRYKMBDHVSWN-") == b"-NWSBDHVKMRYACGT"


def test_report():
    found = report(DATA)
    train, _, test = found.splits
    assert (train.rows, train.bases, train.classes) == (5, 37, (2, 3))
    assert (train.lengths[0], train.lengths[3], train.lengths[-1]) == (6, 7, 10)
    assert train.n_share == pytest.approx(1 / 37)
    assert (train.repeated, train.repeated_either, train.contradicting) == (1, 2, 3)
    assert (test.repeated, test.repeated_either, test.contradicting) == (0, 1, 0)
    overlaps = {(one.split, one.other): one for one in found.overlaps}
    assert set(overlaps) == {("valid", "train"), ("test", "train"), ("test", "valid")}
    between = overlaps["test", "train"]
    assert (between.rows, between.rows_either, between.classes, between.contradicting) == (1, 2, (1, 1), 1)
    assert overlaps["test", "valid"].contradicting == 1
    assert overlaps["valid", "train"].rows_either == 0
    text = found.markdown()
    assert "| test | train | 1 (20.0%) | 2 (40.0%) | 1 (33.3%) | 1 (50.0%) | 1 |" in text
    assert all(
        len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1
        for block in text.split("\n\n")
    )


def test_deduplicated():
    left = deduplicated(DATA)
    assert left.test.names == ("3", "4")
    assert left.train is DATA.train
    assert left.fingerprint() != DATA.fingerprint()


def test_known_duplicates():
    """286 test rows of human_enhancers_ensembl stand in its training rows."""
    folder = SHARED / "genomic_benchmarks" / "human_enhancers_ensembl"
    if not folder.is_dir():
        pytest.skip("no shared data")
    data = read_labelled(folder, label="class", min_length=1)
    found = {(one.split, one.other): one for one in report(data).overlaps}
    assert found["test", "train"].rows + found["test", "valid"].rows == 286
    assert found["valid", "train"].rows_either == 0
    assert len(deduplicated(data).test) == 779 - 286
