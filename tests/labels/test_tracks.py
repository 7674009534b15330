"""Painted labels equal a base-by-base loop; the other strand; which class wins."""

import numpy as np
import pytest

from titans_dna.genome.intervals import Interval
from titans_dna.labels.annotation import Feature
from titans_dna.labels.windows import BaseLabels, reverse_complement_labels


def feature(start, end, name="a", strand="+", contig="c"):
    return Feature(Interval(contig, start, end), strand, name)


def slowly(features, classes, ranked, start, end, stranded):
    """Base by base: the first of `ranked` that covers it."""
    labels = []
    for base in range(start, end):
        here = {
            one.name + (one.strand if stranded and one.strand != "." else "")
            for one in features
            if one.interval.contig == "c" and one.interval.start <= base < one.interval.end
        }
        labels.append(next((classes.index(name) for name in ranked if name in here), 0))
    return labels


@pytest.mark.parametrize("stranded", [False, True])
def test_as_base_by_base(stranded):
    rng = np.random.default_rng(0)
    features = []
    for _ in range(60):
        start = int(rng.integers(0, 380))
        width, name, strand = (
            int(rng.integers(1, 20)),
            str(rng.choice(["a", "b", "z"])),
            str(rng.choice(["+", "-", "."])),
        )
        features.append(feature(start, start + width, name, strand))
    features.append(feature(0, 400, "b", "+", contig="another"))
    labels = BaseLabels(features, stranded=stranded, priority=["z"])
    wanted = ("none", "a", "a+", "a-", "b", "b+", "b-", "z", "z+", "z-") if stranded else ("none", "a", "b", "z")
    assert labels.classes == wanted
    ranked = [name + strand for name in "zab" for strand in ("+", "-", "")] if stranded else ["z", "a", "b"]
    for start, end in ((0, 400), (13, 14), (100, 257), (399, 400), (7, 7), (390, 500)):
        found = labels.track("c", start, end)
        assert found.dtype == np.uint8
        assert found.tolist() == slowly(features, labels.classes, ranked, start, end, stranded)
    assert not labels.track("nowhere", 0, 10).any()


def test_borders():
    labels = BaseLabels([feature(3, 5), feature(5, 6), feature(8, 9)])
    assert labels.track("c", 0, 10).tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 0]
    assert labels.track("c", 5, 8).tolist() == [1, 0, 0]


def test_several_classes():
    labels = BaseLabels([feature(0, 6, "a"), feature(4, 9, "b"), feature(2, 5, "a", "-")])
    assert labels.overlapping("c", 0, 10).tolist() == [False] * 4 + [True] * 2 + [False] * 4
    both = BaseLabels([feature(0, 6), feature(4, 9, strand="-")], stranded=True)
    assert both.overlapping("c", 3, 7).tolist() == [False, True, True, False]
    assert [both.classes[i] for i in both.track("c", 3, 7)] == ["a+", "a+", "a+", "a-"]


def test_other_strand():
    features = [feature(1, 4), feature(6, 8, strand="-"), feature(9, 10, "CD4+", "."), feature(10, 11, "CD4-", ".")]
    labels = BaseLabels(features, stranded=True)
    assert labels.classes == ("none", "CD4+", "CD4-", "a+", "a-")
    assert labels.other_strand == (0, 1, 2, 4, 3)  # CD4+ and CD4- are no strands
    track = labels.track("c", 0, 12)
    mirrored = [
        feature(12 - f.interval.end, 12 - f.interval.start, f.name, {"+": "-", "-": "+"}.get(f.strand, "."))
        for f in features
    ]
    assert labels.reverse_complement(track).tolist() == BaseLabels(mirrored, stranded=True).track("c", 0, 12).tolist()
    rows = np.stack([track, track[::-1]])
    again = reverse_complement_labels(reverse_complement_labels(rows, labels.other_strand), labels.other_strand)
    assert again.tolist() == rows.tolist()
    assert BaseLabels(features).other_strand == (0, 1, 2, 3)


def test_both_strands_even_where_one_does_not_occur():
    assert BaseLabels([feature(1, 4)], stranded=True).classes == ("none", "a+", "a-")


def test_fingerprint():
    base = [feature(0, 5), feature(5, 9, "b", "-")]
    one = BaseLabels(base).fingerprint()
    assert one == BaseLabels([feature(5, 9, "b"), feature(0, 3), feature(3, 5)]).fingerprint()  # the same labels
    others = [
        BaseLabels(base, stranded=True),
        BaseLabels(base, priority=["b"]),
        BaseLabels([feature(0, 5), feature(5, 8, "b", "-")]),
        BaseLabels([feature(0, 5), feature(5, 9, "d", "-")]),
        BaseLabels([feature(0, 5, contig="d"), feature(5, 9, "b", "-")]),
    ]
    assert len({one, *(other.fingerprint() for other in others)}) == 6


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ([], {}, "got none"),
        ([feature(0, 1, "none")], {}, "class 'none'"),
        ([feature(i, i + 1, f"gene{i}") for i in range(256)], {}, "256 classes, such as 'gene0'.*at most 255"),
        ([feature(0, 1), feature(0, 1, "a+", ".")], {"stranded": True}, "no two of one name"),
        ([feature(0, 1)], {"priority": ["x"]}, "priority: got 'x', want one of a"),
        ([feature(0, 1)], {"priority": ["a", "a"]}, "each once"),
    ],
)
def test_bad_arguments(features, options, message):
    with pytest.raises(ValueError, match=message):
        BaseLabels(features, **options)
