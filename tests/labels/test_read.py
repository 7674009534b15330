"""Reading labelled data: every layout gives the same rows; what is wrong with a file is one line that names it."""

import gzip
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from titans_dna.labels.read import read_labelled
from titans_dna.tokens.strands import either_strand, reverse_complement

SHARED = Path(__file__).parents[2] / "../shared/data"


def bases(seed, count=12, length=30):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for _ in range(count)]


TRAIN = [(text, "ab"[i % 2]) for i, text in enumerate(bases(0, 20))]
VALID = [(text, "ab"[i % 2]) for i, text in enumerate(bases(1, 4))]
TEST = [(text, "ab"[i % 2]) for i, text in enumerate(bases(2, 6))]


def table(rows, separator=",", header=("sequence", "label")):
    return "".join(separator.join(map(str, row)) + "\n" for row in (header, *rows))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def class_rows(rows, name):
    return [text for text, label in rows if label == name]


def gue(root, ending=".csv", separator=","):
    for name, rows in (("train", TRAIN), ("dev", VALID), ("test", TEST)):
        write(root / f"{name}{ending}", table(rows, separator))
    return root


def genomic_benchmark(root, splits=(("train", TRAIN), ("valid", VALID), ("test", TEST))):
    for split, rows in splits:
        for i, (text, label) in enumerate(rows):
            write(root / split / label / f"{i:03}.txt", text + "\n" * (i % 2))
    return root


def fastas(root):
    for split, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        for name in "ab":
            records = (f">r{i}\n{text[:13]}\n{text[13:]}\n" for i, text in enumerate(class_rows(rows, name)))
            write(root / split / f"{name}.fa.gz", "".join(records))
    return root


def parquet(root):
    for name, rows in (("train", TRAIN), ("dev", VALID), ("test", TEST)):
        root.mkdir(exist_ok=True)
        columns = {"label": [label for _, label in rows], "x": [1] * len(rows), "sequence": [text for text, _ in rows]}
        pq.write_table(pa.table(columns), root / f"{name}.parquet")
    return root


def files(root):
    gue(root)
    return root / "train.csv", {"valid": root / "dev.csv", "test": root / "test.csv"}


def split_column(root):
    rows = [(*row, split) for split, rows in (("train", TRAIN), ("Dev", VALID), ("test", TEST)) for row in rows]
    return write(root / "all.tsv.gz", table(rows, "\t", ("sequence", "label", "part"))), {"split": "part"}


def fasta_files(root):
    fastas(root)
    splits = {name: [root / name / "b.fa.gz", root / name / "a.fa.gz"] for name in ("train", "valid", "test")}
    return splits.pop("train"), splits


@pytest.mark.parametrize(
    "make",
    [
        gue, lambda root: gue(root, ".tsv.gz", "\t"), genomic_benchmark, fastas, parquet, files, split_column,
        fasta_files,
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_rows(make, tmp_path):
    made = make(tmp_path / "set")
    what, options = made if isinstance(made, tuple) else (made, {})
    data = read_labelled(what, **options)
    assert (data.task, data.classes, data.label_map) == ("binary", ("a", "b"), {"a": 0, "b": 1})
    for (_, rows), wanted in zip(data.splits(), (TRAIN, VALID, TEST), strict=True):
        found = zip(rows.sequences, rows.labels, strict=True)
        assert sorted((text.decode(), data.classes[label]) for text, label in found) == sorted(wanted)
        assert rows.labels.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            rows.labels[0] = 1


def test_a_data_set_by_its_name(tmp_path, monkeypatch):
    genomic_benchmark(tmp_path / ".genomic_benchmarks" / "my_set")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert len(read_labelled("my_set").train) == 20
    with pytest.raises(FileNotFoundError, match=r"nor a data set under .*there: my_set"):
        read_labelled("other_set")


def test_letters_names_and_classes(tmp_path):
    rows = [("acgUNry", 10, "x"), ("TTTTTTT", 9, "y"), ("GGGGGGG", "9.0", "z"), ("CCCCCCC", "10.0", "w")]
    path = write(tmp_path / "t.csv", "\ufeff" + table(rows, header=("seq", "target", "id")) + "\n")
    data = read_labelled(path, sequence="seq", label="target", name="id")
    assert data.classes == ("9", "10")  # by number
    everything = {
        name: (letters, data.classes[label])
        for _, rows in data.splits()
        for name, letters, label in zip(rows.names, rows.sequences, rows.labels, strict=True)
    }
    assert everything["x"] == (b"ACGTNRY", "10")
    assert everything["z"] == (b"GGGGGGG", "9")


@pytest.mark.parametrize(
    ("labels", "options", "task", "coded"),
    [
        (["x", "y", "z"] * 4, {}, "multiclass", [0, 1, 2] * 4),
        (["x", "y"] * 6, {"task": "multiclass"}, "multiclass", [0, 1] * 6),
        ([0.5, 1, 2] * 4, {}, "regression", [0.5, 1, 2] * 4),
        ([1, 2, 3] * 4, {"task": "regression"}, "regression", [1, 2, 3] * 4),
        (["x;y", "", "y"] * 4, {"task": "multilabel"}, "multilabel", [[1, 1], [0, 0], [0, 1]] * 4),
        (["1\t0", "0\t1", "1\t1"] * 4, {"label": ["q", "p"]}, "multilabel", [[0, 1], [1, 0], [1, 1]] * 4),
    ],
)
def test_tasks(labels, options, task, coded, tmp_path):
    header = ("sequence", *options.get("label", ["label"]))
    path = write(tmp_path / "t.tsv", table(zip(bases(0), labels, strict=True), "\t", header))
    data = read_labelled(path, valid=path, **options)
    assert data.task == task
    np.testing.assert_array_equal(data.valid.labels, coded)


def test_held_out_rows(tmp_path):
    rows = [(text, "a" if i < 40 else "b") for i, text in enumerate(bases(0, 200))]
    copies = [
        (reverse_complement(text.encode()).decode() if i % 2 else text, label) for i, (text, label) in enumerate(rows)
    ]
    path = write(tmp_path / "t.csv", table(rows + copies[::2] + copies[1::4]))
    first, again, other = (read_labelled(path, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert set(first.valid.sequences) != set(other.valid.sequences)
    assert len(first.train) + len(first.valid) == 350
    assert not set(either_strand(first.train.sequences)) & set(either_strand(first.valid.sequences))
    assert np.bincount(first.valid.labels) == pytest.approx([7, 28], abs=1)


GOOD = table(TRAIN)
BAD = {
    "no label": (GOOD + "ACGTACGT,\n", {}, "t.csv, line 22: no label"),
    "nan": (GOOD + "ACGTACGT,nan\n", {}, "t.csv, line 22: no label"),
    "one class": (table([row for row in TRAIN if row[1] == "a"]), {}, "t.csv, line 2: train has one class only, 'a'"),
    "empty sequence": (GOOD + ",a\n", {}, "t.csv, line 22: got a sequence of 0 bases, want at least 4"),
    "short": (GOOD + "ACG,a\n", {}, "t.csv, line 22: got a sequence of 3 bases, want at least 4"),
    "letter": (GOOD + "ACGTJ,a\n", {}, "t.csv, line 22: letter 'J' is no nucleotide code"),
    "not ASCII": (GOOD + "ACGTé,a\n", {}, "t.csv, line 22: letter 'é' is no nucleotide code"),
    "column": (GOOD, {"label": "class"}, "t.csv: no column 'class', want it once; the columns are 'sequence', 'label'"),
    "cells": (GOOD + "ACGT\n", {}, "t.csv, line 22: got 1 cells, want 2"),
    "empty": ("", {}, "t.csv: empty file"),
    "header only": ("sequence,label\n", {}, "t.csv: no rows"),
    "unseen": (GOOD, {"test": table([("ACGTA", "c")])}, "test.csv, line 2: label 'c' does not occur in train, want 'a', 'b'"),
    "three": (GOOD + "ACGTACGT,c\n", {"task": "binary"}, "task: got binary, but train has 3 classes: 'a', 'b', 'c'"),
    "task": (GOOD, {"task": "ranking"}, "task: got 'ranking', want one of binary"),
    "number": (GOOD, {"task": "regression"}, "t.csv, line 2: got label 'a', want a finite number"),
    "0 or 1": (GOOD, {"label": ["label", "sequence"]}, "t.csv, line 2: got 'a' in column 'label', want 0 or 1"),
    "split": (GOOD, {"split": "label"}, "t.csv, line 2: got 'a' in column 'label', want train, valid or test"),
    "too few": (table(TRAIN[:2]), {}, "train: got 2 rows, too few"),
    "fraction": (GOOD, {"valid_fraction": 0.9}, "valid_fraction: got 0.9"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(case, tmp_path):
    text, options, message = BAD[case]
    path = write(tmp_path / "t.csv", text)
    if "test" in options:
        options = {"test": write(tmp_path / "test.csv", options["test"])}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_labelled(path, **options)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    cut = tmp_path / "t.csv.gz"
    cut.write_bytes(gzip.compress(GOOD.encode())[:-20])
    with pytest.raises(ValueError, match=r"t\.csv\.gz: damaged or truncated gzip"):
        read_labelled(cut)
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        read_labelled(tmp_path / "none.csv")
    broken = write(tmp_path / "t.parquet", "PAR1 and no more")
    with pytest.raises(ValueError, match=r"t\.parquet: not valid parquet"):
        read_labelled(broken)
    only = write(tmp_path / "only.fa", ">x\nACGTACGT\n")
    with pytest.raises(ValueError, match=r"only\.fa, record 'x': train has one class only, 'only'"):
        read_labelled(only)


def test_bad_directories(tmp_path):
    genomic_benchmark(tmp_path / "root" / "one")
    with pytest.raises(ValueError, match=r"no train split, .*; it holds data sets: one"):
        read_labelled(tmp_path / "root")
    with pytest.raises(ValueError, match=r"test: got .*x\.csv' beside the directory"):
        read_labelled(tmp_path / "root" / "one", test="x.csv")
    stray = genomic_benchmark(tmp_path / "stray")
    write(stray / "test" / "c" / "7.txt", "ACGTACGT")
    with pytest.raises(ValueError, match=r"c/7\.txt: label 'c' does not occur in train"):
        read_labelled(stray)
    hollow = genomic_benchmark(tmp_path / "hollow")
    write(hollow / "train" / "a" / "empty.txt", "\n")
    with pytest.raises(ValueError, match=r"a/empty\.txt: got a sequence of 0 bases, want at least 1"):
        read_labelled(hollow)


def test_published_rows_stand_as_they_are(tmp_path):
    """GenomicBenchmarks has sequences of two bases; they are refused only where a limit is asked for."""
    folder = genomic_benchmark(tmp_path / "set")
    write(folder / "train" / "a" / "short.txt", "AC")
    assert len(read_labelled(folder).train) == 21
    with pytest.raises(ValueError, match=r"short\.txt: got a sequence of 2 bases, want at least 4"):
        read_labelled(folder, min_length=4)


def test_long_cells(tmp_path):
    text = "ACGT" * 50_000
    data = read_labelled(write(tmp_path / "t.csv", GOOD + f"{text},a\n"), valid=write(tmp_path / "v.csv", GOOD))
    assert data.train.sequences[-1] == text.encode()


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    parquet(tmp_path / "set")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"needs pyarrow, .*pip install 'titans-dna\[tables\]'"):
        read_labelled(tmp_path / "set")


def test_real_rows():
    folder = SHARED / "genomic_benchmarks" / "human_ensembl_regulatory"
    if not folder.is_dir():
        pytest.skip("no shared data")
    data = read_labelled(folder, label="class")
    assert (data.task, data.classes) == ("multiclass", ("enhancer", "ocr", "promoter"))
    assert (len(data.train) + len(data.valid), len(data.test)) == (5477, 1388)


def labelled(path, labels):
    return write(path, table(zip(bases(3, len(labels)), labels, strict=True)))


@pytest.mark.parametrize("label", ["NA", "N/A", "nan", "NaN", "None", "null", "NULL", "<NA>", "#N/A", ".", "?", " "])
@pytest.mark.parametrize("others", [["0", "1"], ["0.25", "0.75"], ["a", "b"]])
def test_what_says_that_there_is_no_label_is_no_class(tmp_path, label, others):
    path = labelled(tmp_path / "x.csv", [*others * 4, label])
    with pytest.raises(ValueError, match=r"x\.csv, line 10: no label, want one for each row"):
        read_labelled(path)


def test_none_is_a_class_where_it_is_a_word(tmp_path):
    assert read_labelled(labelled(tmp_path / "x.csv", ["none", "some"] * 5)).classes == ("none", "some")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1", "01", "2"], ("01", "1", "2")),
        (["1", "1.0", "2.0"], ("1", "2")),
        (["2", "10", "1."], ("1", "2", "10")),
        (["True", "false", "TRUE"], ("False", "True")),
        (["true", "other", "True"], ("True", "other")),
    ],
)
def test_labels_are_merged_only_where_they_are_the_same(tmp_path, labels, classes):
    assert read_labelled(labelled(tmp_path / "x.csv", labels * 5)).classes == classes


def test_truth_values_are_the_same_in_every_format(tmp_path):
    texts = bases(4, 12)
    labels = [i % 2 == 0 for i in range(12)]
    pq.write_table(pa.table({"sequence": texts, "label": labels}), tmp_path / "x.parquet")
    for spelling in (str, lambda one: str(one).upper(), lambda one: str(one).lower()):
        write(tmp_path / "x.csv", table(zip(texts, map(spelling, labels), strict=True)))
        data = read_labelled(tmp_path / "x.parquet", test=tmp_path / "x.csv")
        assert data.classes == ("False", "True")
        assert data.test.labels.tolist() == list(map(int, labels))


@pytest.mark.parametrize(
    ("labels", "line"), [(["0,5", "1,25", "3,0"], 2), (["0.5", "1.5", "x", "2"], 4), (["0.5", "1,5", "2"], 3)]
)
def test_numbers_that_are_none_are_no_classes(tmp_path, labels, line):
    path = write(tmp_path / "x.tsv", table(zip(bases(3, len(labels)), labels, strict=True), separator="\t"))
    with pytest.raises(ValueError, match=rf"x\.tsv, line {line}: got label .* want a number with a decimal point"):
        read_labelled(path)


def test_a_column_in_another_spelling_is_suggested(tmp_path):
    path = write(tmp_path / "x.csv", table([("ACGT", "a")], header=("Sequence", "label")))
    with pytest.raises(ValueError, match=r"no column 'sequence', want it once; did you mean 'Sequence'\?"):
        read_labelled(path)
