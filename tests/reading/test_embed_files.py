"""`titans-dna embed`: what is written, in each format; interruptions; one clear line for each kind of bad input."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import titans_dna
from titans_dna import checkpoint
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.reading import embed as run
from titans_dna.reading import parts, source
from titans_dna.reading.embed import embed
from titans_dna.reading.options import EmbedOptions, FileOptions, SpeedOptions, VectorOptions
from titans_dna.run.signals import Stopped
from titans_dna.tokens.vocabulary import NucleotideTokenizer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TEXTS = {
    name: "".join(np.random.default_rng(i).choice(list("ACGT"), n)) for i, (name, n) in enumerate(
        (("one", 300), ("two", 70), ("three", 140))
    )
}  # fmt: skip
BED = "two\t10\t40\tgene\t0\t-\none\t0\t300\nthree\t5\t6\tbase\t0\t+\none\t7\t60\n"
ROWS = [
    ("gene", "two", 10, 40, "-"),
    ("one:0-300", "one", 0, 300, "."),
    ("base", "three", 5, 6, "+"),
    ("one:7-60", "one", 7, 60, "."),
]
HEADER = "name\tcontig\tstart\tend\tstrand\n"


def other_strand(text):
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


BED_TEXTS = [other_strand(TEXTS["two"][10:40]), TEXTS["one"], TEXTS["three"][5:6], TEXTS["one"][7:60]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(TitansDNA(TitansConfig.preset("tiny", variant="lmm")), folder / "tiny", NucleotideTokenizer())
    return folder / "tiny"


@pytest.fixture
def files(tmp_path, monkeypatch, model_dir):
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(model_dir)
    Path("x.fa").write_text("".join(f">{name}\n{text}\n" for name, text in TEXTS.items()))
    Path("x.bed").write_text(BED)
    return tmp_path


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["embed", "--model", "model", *arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def read(path):
    """(rows of names and coordinates, vectors) of any format."""
    if path.suffix == ".npy":
        header, *lines = path.with_suffix(".tsv").read_text().splitlines(keepends=True)
        assert header == HEADER
        rows = [line.rstrip("\n").split("\t") for line in lines]
        return [(a, b, int(c), int(d), e) for a, b, c, d, e in rows], np.load(path)
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        assert table.column_names == [*HEADER.split(), "vector"]
        rows = [tuple(row[name] for name in HEADER.split()) for row in table.to_pylist()]
        return rows, np.array(table["vector"].to_pylist(), dtype=np.float32)
    with h5py.File(path) as file:
        columns = [
            file[name].asstr()[:] if name in ("name", "contig", "strand") else file[name][:] for name in HEADER.split()
        ]
        return [(a, b, int(c), int(d), e) for a, b, c, d, e in zip(*columns, strict=True)], file["vector"][:]


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_vectors_names_and_coordinates(files, capsys, suffix):
    model, out = titans_dna.load("model"), files / f"v{suffix}"
    before = {path.name for path in files.iterdir()}
    status, said, err = call(capsys, "--fasta", "x.fa", "--out", out.name)
    assert status == 0
    assert said.startswith(f"vectors: v{suffix} (3 of 32)")
    assert err == ""
    rows, vectors = read(out)
    assert rows == [(name, name, 0, len(text), ".") for name, text in TEXTS.items()]
    np.testing.assert_allclose(vectors, embed(model, [*TEXTS.values()]), **CLOSE)
    added = {path.name for path in files.iterdir()} - before
    assert added == ({"v.npy", "v.tsv"} if suffix == ".npy" else {out.name})

    options = ["--bed", "x.bed", "--pool", "max", "--layer", "0", "--rc", "--workers", "1", "--overwrite"]
    assert call(capsys, "--fasta", "x.fa", "--out", out.name, *options)[0] == 0
    rows, vectors = read(out)
    assert rows == ROWS
    np.testing.assert_allclose(vectors, embed(model, BED_TEXTS, "max", 0, rc=True), **CLOSE)

    assert call(capsys, "--fasta", "x.fa", "--out", out.name, "--bed", "x.bed", "--pool", "none", "--overwrite")[0] == 0
    rows, vectors = read(out)
    assert rows[:3] == [("gene", "two", 39, 40, "-"), ("gene", "two", 38, 39, "-"), ("gene", "two", 37, 38, "-")]
    assert rows[30:32] == [("one:0-300", "one", 0, 1, "."), ("one:0-300", "one", 1, 2, ".")]
    np.testing.assert_allclose(vectors, np.concatenate(embed(model, BED_TEXTS, "none")), **CLOSE)


def test_without_the_bed_the_files_are_read_in_order(files, capsys):
    Path("y.fa").write_text(">four\nACGTACGT\n")
    assert call(capsys, "--fasta", "y.fa", "x.fa", "--out", "v.npy")[0] == 0
    assert [row[0] for row in read(files / "v.npy")[0]] == ["four", *TEXTS]


def stopping(monkeypatch, after, number=None):
    """Parts are kept by number in the list that is returned; the run is stopped, or gets a signal, after so many."""
    new, kept = parts.Unfinished.new, []

    @contextmanager
    def stop(self, part, shape, dtype):
        if len(kept) == after:
            if number is None:
                raise Stopped
            os.kill(os.getpid(), number)
        with new(self, part, shape, dtype) as rows:
            yield rows
        kept.append(part)

    monkeypatch.setattr(parts.Unfinished, "new", stop)
    return kept


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_an_interrupted_run_goes_on(files, capsys, monkeypatch, number, ended, pool):
    """Four parts; the run is stopped after two. The next one computes the other two alone, whatever its batches."""
    monkeypatch.setattr(run, "PART_BASES", 40)
    monkeypatch.setattr(run, "PART_BASES_UNPOOLED", 40)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
    options = ["--fasta", "x.fa", "--bed", "x.bed", "--pool", pool, "--rc", "--out", "v.npy"]
    with monkeypatch.context() as patch:
        kept = stopping(patch, 2, number)
        status, said, err = call(capsys, *options)
    assert (status, said, kept) == (ended, "", [0, 1])
    assert err == (
        "titans-dna: interrupted; what is done is kept; continue with: titans-dna embed --resume --out v.npy\n"
    )
    assert not {"v.npy", "v.tsv"} & {path.name for path in files.iterdir()}
    done = {path: path.stat().st_mtime_ns for path in (files / "v.npy.partial").glob("part-*")}
    assert len(done) == 2
    (files / "v.npy.partial" / ".part-000002.npy.1.tmp").write_bytes(b"half")

    seen = []
    init = source.Strand.__init__
    monkeypatch.setattr(
        source.Strand,
        "__init__",
        lambda self, of, i, *rest: seen.append(int(of.lengths[i])) or init(self, of, i, *rest),
    )
    # The same command, or what was advised.
    again = ["--resume", *options[-2:]] if number == signal.SIGINT else ["--model", "model", *options]
    with pytest.raises(SystemExit) as done:
        main(["embed", *again, "--batch_size", "3", "--piece", "9"])
    assert done.value.code == 0
    assert "2 of 4 parts were done before" in capsys.readouterr().err
    assert {*seen} == {30, 1}
    rows, vectors = read(files / "v.npy")
    wanted = embed(titans_dna.load("model"), BED_TEXTS, pool, rc=True)
    assert len(rows) == len(vectors) == (384 if pool == "none" else 4)
    np.testing.assert_allclose(vectors, np.concatenate(wanted) if pool == "none" else wanted, **CLOSE)
    assert not (files / "v.npy.partial").exists()


def test_resume_is_of_the_same_run_or_none(files, capsys, monkeypatch):
    options = EmbedOptions(FileOptions("model", ("x.fa",), out="v.npy"), VectorOptions(), SpeedOptions())
    with pytest.raises(FileNotFoundError, match="holds no run of titans-dna embed to resume"):
        run.embed_files(options, resume=True)
    with monkeypatch.context() as patch:
        stopping(patch, 0)
        with pytest.raises(Stopped):
            run.embed_files(options)
    other = dataclasses.replace(options, vectors=VectorOptions(pool="max"))
    before = {path: path.read_bytes() for path in (files / "v.npy.partial").iterdir()}
    with pytest.raises(ValueError, match="--resume: model, input or options are not those of the run"):
        run.embed_files(other, resume=True)
    assert {path: path.read_bytes() for path in (files / "v.npy.partial").iterdir()} == before
    assert run.embed_files(options, resume=True).rows == 3
    assert {path.name for path in files.iterdir()} >= {"v.npy", "v.tsv"}
    assert not (files / "v.npy.partial").exists()


def test_what_version_0_1_0_left_is_gone_on_with(files, capsys, monkeypatch):
    """A directory with a plan, and parts as NumPy saves arrays."""
    monkeypatch.setattr(run, "PART_BASES", 40)
    options = ["--fasta", "x.fa", "--bed", "x.bed", "--out", "v.npy"]
    with monkeypatch.context() as patch:
        stopping(patch, 2)
        call(capsys, *options)
    folder = files / "v.npy.partial"
    known = json.loads((folder / "data.json").read_text())
    for path in folder.iterdir():
        if path.name.startswith("part-"):
            np.save(path, np.load(path) + 1)  # to be told from what is computed
        else:
            path.unlink()
    (folder / "plan.json").write_text(json.dumps(known) + "\n")
    status, _, err = call(capsys, *options)
    assert status == 0
    assert "2 of 4 parts were done before" in err
    wanted = embed(titans_dna.load("model"), BED_TEXTS)
    np.testing.assert_allclose(np.load("v.npy") - wanted, np.tile([[0.0], [1.0], [0.0], [1.0]], 32), atol=1e-5)


@pytest.mark.parametrize("change", ["sequence", "bed", "option", "model", "damage"])
def test_parts_of_something_else_are_not_used(files, capsys, monkeypatch, change):
    monkeypatch.setattr(run, "PART_BASES", 40)
    options = ["--fasta", "x.fa", "--bed", "x.bed", "--out", "v.npy"]
    with monkeypatch.context() as patch:
        patch.setattr(parts.Unfinished, "gather", lambda *rest: (_ for _ in ()).throw(Stopped()))
        assert call(capsys, *options)[0] == 130
    if change == "sequence":
        Path("x.fa").write_text(Path("x.fa").read_text().replace(TEXTS["one"][7:60], "ACGTG" * 10 + "AAA"))
    elif change == "bed":
        Path("x.bed").write_text(BED.replace("three\t5\t6", "three\t6\t7"))
    elif change == "option":
        options += ["--pool", "last"]
    elif change == "damage":
        Path("v.npy.partial/data.json").write_text("[")
    else:
        torch.manual_seed(1)
        checkpoint.save(TitansDNA(TitansConfig.preset("tiny", variant="lmm")), "other", NucleotideTokenizer())
        options += ["--model=other"]
    with pytest.raises(SystemExit) as ended:
        main(["embed", *options, *([] if change == "model" else ["--model", "model"])])
    err = capsys.readouterr().err
    assert ended.value.code == 0
    assert "have changed since the last run; starting again" in err
    fresh = [one if one != "v.npy" else "w.npy" for one in options]
    with pytest.raises(SystemExit):
        main(["embed", *fresh, *([] if change == "model" else ["--model", "model"])])
    np.testing.assert_array_equal(np.load("v.npy"), np.load("w.npy"))


def test_a_killed_process_leaves_nothing_half_written(files, capsys, monkeypatch):
    monkeypatch.setattr(run, "PART_BASES", 40)
    code = (
        "import time\nfrom contextlib import contextmanager\nfrom titans_dna.reading import embed, parts\n"
        "embed.PART_BASES = 40\nnew = parts.Unfinished.new\n"
        "@contextmanager\ndef slow(self, part, *rest):\n    with new(self, part, *rest) as rows:\n        yield rows\n"
        "    time.sleep(60 * (part == 1))\n"
        "parts.Unfinished.new = slow\nfrom titans_dna.cli import main\nmain()"
    )
    options = ["--fasta", "x.fa", "--bed", "x.bed", "--out", "v.npy"]
    process = subprocess.Popen([sys.executable, "-c", code, "embed", "--model", "model", *options])
    try:
        second = files / "v.npy.partial" / "part-000001.npy"
        for _ in range(6000):
            if second.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        before = {path: path.stat().st_mtime_ns for path in second.parent.iterdir()}
        assert call(capsys, *options)[2] == (
            "titans-dna: error: --out: v.npy.partial is in the hands of another process, want one at a time\n"
        )
        assert {path: path.stat().st_mtime_ns for path in second.parent.iterdir()} == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not Path("v.npy").exists()
    assert not Path("v.tsv").exists()
    status, _, err = call(capsys, *options)
    assert status == 0
    assert "2 of 4 parts were done before" in err
    assert read(files / "v.npy")[0] == ROWS
    np.testing.assert_allclose(np.load("v.npy"), embed(titans_dna.load("model"), BED_TEXTS), **CLOSE)


GOOD = "--fasta x.fa --out v.npy"
BAD = {
    "no model": ("--model= " + GOOD, "--model: got none, want a model directory"),
    "missing model": ("--model=nope " + GOOD, "--model: nope: no such directory, want a model directory"),
    "no fasta": ("--out v.npy", "--fasta: got none"),
    "missing fasta": ("--fasta nope.fa --out v.npy", "nope.fa: no such file"),
    "fasta twice": (f"{GOOD} --fasta x.fa", "--fasta: got it 2 times"),
    "out twice": (f"{GOOD} --out w.npy", "--out: got it 2 times, want it once"),
    "no out": ("--fasta x.fa", "--out: got none"),
    "format": ("--fasta x.fa --out v.csv", "--out: got v.csv, want a file that ends in .npy, .parquet or .h5"),
    "no directory": ("--fasta x.fa --out a/v.npy", "--out: a: no such directory"),
    "out is there": ("--fasta x.fa --out there.npy", "--out: there.npy exists, want another name, or --overwrite"),
    "its names are there": ("--fasta x.fa --out names.npy", "--out: names.tsv exists"),
    "out is a directory": ("--fasta x.fa --out folder.npy --overwrite", "--out: folder.npy is a directory"),
    "out is an input": ("--fasta x.fa --bed names.tsv --out names.npy --overwrite", "names.tsv is one of the inputs"),
    "partial is other": (
        "--fasta x.fa --out mine.npy",
        "--out: mine.npy.partial is not empty (thesis.txt), want a new or an empty directory",
    ),
    "protein": ("--fasta protein.fa --out v.npy", "protein.fa: not a nucleotide sequence: letter 'L'"),
    "no bed": (f"{GOOD} --bed nope.bed", "nope.bed: no such file"),
    "empty bed": (f"{GOOD} --bed=", "--bed: got ''"),
    "bed contig": (f"{GOOD} --bed contig.bed", "contig.bed: line 1: contig 'four' is not in x.fa"),
    "past the end": (f"{GOOD} --bed past.bed", "past.bed: line 1: interval two:0-71, want 0 <= start < end <= 70"),
    "pool": (f"{GOOD} --pool sum", "--pool: got sum, want one of"),
    "layer": (f"{GOOD} --layer 2", "--layer: got 2, want -1 (after the last norm) or 0 to 1"),
    "layer text": (f"{GOOD} --layer last", "--layer: got last, want int"),
    "batch_size": (f"{GOOD} --batch_size 0", "--batch_size: got 0, want at least 1"),
    "piece": (f"{GOOD} --piece 0", "--piece: got 0, want at least 1"),
    "workers": (f"{GOOD} --workers -1", "--workers: got -1, want at least 0"),
    "unknown flag": (f"{GOOD} --poool max", "--poool"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(files, capsys, name):
    arguments, message = BAD[name]
    for file, text in {
        "bare.fa": ">a\nACGT\n>b\n", "protein.fa": ">p\nMKVLAAGE\n", "contig.bed": "four\t0\t1\n",
        "past.bed": "two\t0\t71\n", "there.npy": "", "names.tsv": "one\t0\t9\n",
    }.items():  # fmt: skip
        Path(file).write_text(text)
    for folder in ("folder.npy", "mine.npy.partial"):
        Path(folder).mkdir()
    Path("mine.npy.partial/thesis.txt").write_text("")
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    given = arguments.split() if "--model=" in arguments else ["--model", "model", *arguments.split()]
    with pytest.raises(SystemExit) as ended:
        main(["embed", *given])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert not out
    assert err.startswith("titans-dna: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*")} == before


@pytest.mark.parametrize(("suffix", "library"), [(".parquet", "pyarrow"), (".h5", "h5py")])
def test_a_missing_library_has_its_line(files, capsys, monkeypatch, suffix, library):
    monkeypatch.setitem(sys.modules, library, None)
    status, _, err = call(capsys, "--fasta", "x.fa", "--out", f"v{suffix}")
    assert status == 2
    assert f"{suffix} needs {library}, which is not installed: pip install 'titans-dna[tables]'" in err
    assert err.count("\n") == 1


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom titans_dna.cli import main\ntry:\n    main(['embed', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'pyarrow', 'h5py') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Hugging Face" in " ".join(done.stdout.split())
