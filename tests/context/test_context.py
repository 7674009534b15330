"""`titans-dna bench context` as a whole: classes and table on an oracle that copies, the verb on phage lambda."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from titans_dna.checkpoint import save
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.context import run as context_run
from titans_dna.context.report import describe, short, table
from titans_dna.context.score import score
from titans_dna.nn.model import Output, TitansDNA
from titans_dna.tokens.tokenizer import make_tokenizer

LAMBDA = Path(__file__).parents[2] / "titans_dna" / "genomes" / "lambda.fa"
CONTEXTS = (128, 512, 2048)
TARGET = 300
WORD = 12


def oracle(ids, state=None):
    """Sure of the base after the last occurrence of the last 12, and of nothing where there is none."""
    before = torch.zeros(len(ids), 0, dtype=torch.long) if state is None else state[0]
    seen = torch.cat([before, ids], dim=1)
    logits = torch.full((*ids.shape, 12), -1e9)
    logits[..., 7:11] = 0
    for row, line in enumerate(seen.tolist()):
        after = {}
        for end in range(WORD, len(line) + 1):
            word = tuple(line[end - WORD : end])
            if end > before.shape[1] and word in after:
                logits[row, end - 1 - before.shape[1], after[word]] = 1e6
            if end < len(line):
                after[word] = line[end]
    return Output(torch.empty(0), logits, (seen,))


@pytest.fixture(scope="module")
def planted():
    """Three places; in each stretch a repeat of what stands 100, 400 and 1,500 bases before the stretch begins."""
    rng = np.random.default_rng(7)
    texts = []
    for _ in range(3):
        text = rng.choice(list("ACGT"), CONTEXTS[-1] + TARGET)
        start = CONTEXTS[-1]
        for back, to in ((100, 10), (400, 100), (1500, 190)):
            text[start + to : start + to + 60] = text[start - back : start - back + 60]
        text[start + 170 : start + 175] = "N"
        texts.append("".join(text).encode())
    return texts


def test_who_copies_gains_where_the_repeat_is_read(planted):
    ids = torch.stack([torch.from_numpy(make_tokenizer("nucleotide").encode(one)).long() for one in planted])
    # The sequence of an oracle that is sure and wrong costs without bound: score what it says as 2 bits at most.
    scores = {
        ("on", context): np.minimum(score(oracle, ids[:, -(context + TARGET) :], TARGET, 77), 2) for context in CONTEXTS
    }
    bases = describe(planted, TARGET, WORD + 1)
    rows = {(row.context, row.kind): row for row in table(scores, bases)}
    assert rows[128, "all"].bases == 3 * (TARGET - 5)
    for context in CONTEXTS:
        # The k-mer that ends with the base is the 12 before it and what the oracle says.
        right = scores["on", context] == 0
        assert (
            right & bases.known == bases.known & (bases.recurring.reach >= 0) & (bases.recurring.reach <= context)
        ).all()
        assert rows[context, "unique"].bits_per_base == 2
        assert rows[context, "recurring within context"].bits_per_base == 0
        for kind, border in (("recurring 0-128", 128), ("recurring 128-512", 512), ("recurring 512-2k", 2048)):
            row = rows[context, kind]
            assert row.bases >= 3 * 48 - 12
            assert row.bits_per_base == (0 if context >= border else 2)
            gain = (context >= border) * (border > 128) * -2.0
            if context > 128:
                assert tuple(row.to_shortest) == (gain, gain, gain)
            assert abs(row.distance - {128: 110, 512: 500, 2048: 1690}[border]) < 1
        # Known before the answer: the base after the end of a repeat is one too, and costs.
        primed = rows[context, "primed 512-2k"]
        assert primed.bases >= row.bases
        assert primed.bits_per_base < 0.1 if context >= 2048 else primed.bits_per_base == 2


def test_the_interval_is_over_places():
    letters = [b"ACGTTGCAAC" * 3, b"ACGTTGCAAC" * 3, b"acgttgcaan" * 3]
    bases = describe(letters, 10, 4)
    assert bases.masked.sum() == 9
    flat = np.full((3, 10), 1.5, np.float32)
    moved = flat - np.array([[0.1], [0.2], [0.4]], np.float32)
    rows = {
        (row.mode, row.context, row.kind): row
        for row in table({("on", 4): flat, ("on", 20): moved, ("off", 20): flat}, bases)
    }
    got = rows["on", 20, "all"].to_shortest
    assert got.value == pytest.approx(-(1 + 2 + 3.6) / 29, abs=1e-6)
    assert got.low == pytest.approx(-0.4, abs=1e-6)
    assert got.high == pytest.approx(-0.1, abs=1e-6)
    assert rows["on", 20, "masked"].to_shortest.value == pytest.approx(-0.4, abs=1e-6)
    assert np.isnan(rows["on", 20, "masked"].to_shortest.low)  # one place alone has no interval
    assert rows["off", 20, "all"].to_on.value == pytest.approx(-got.value)
    assert np.isnan(rows["on", 4, "all"].to_shortest.value)
    assert np.isnan(rows["off", 20, "all"].to_shortest.value)


def test_lengths_in_words():
    assert [short(one) for one in (0, 100, 1024, 4096, 1 << 20, 1500)] == ["0", "100", "1k", "4k", "1M", "1500"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, spec in (("bases", "nucleotide"), ("words", "kmer-3")):
        tokenizer = make_tokenizer(spec)
        config = TitansConfig.preset("tiny", variant="mag", width=16, vocab_size=tokenizer.vocab_size)
        save(TitansDNA(config), folder / name, tokenizer)
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("mine")
    (folder / "file").write_text("")
    (folder / "train.bed").write_text("gi|9626243|ref|NC_001416.1|\t0\t9000\ttrain\n")
    return folder


TINY = "--contexts 64 256 1024 --target 128 --window 64 --k 9 --threads 1 --accelerator cpu --places 3"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["context", *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_the_verb_on_lambda(models, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    tiny = [*TINY.split(), "--fasta", str(LAMBDA), "--out", str(out), "--off_contexts", "64", "1024"]
    tiny += ["--model", str(models / "bases")]
    with monkeypatch.context() as patch:  # Ctrl-C in the third of eight rows
        done = []

        def stopping(*arguments, **options):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(score(*arguments, **options))
            return done[-1]

        patch.setattr(context_run, "score", stopping)
        assert call(capsys, *tiny)[0] == 130
    assert not (out / "context.csv").exists()
    command = [sys.executable, "-m", "titans_dna.cli", "context", *tiny]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "2 of 8 rows were done before" in ran.stderr
    assert "| 1k |" in ran.stdout
    rows = read(out / "context.csv")
    assert len({(row["mode"], row["context"]) for row in rows}) == 8
    for kind in {row["class"] for row in rows if not row["class"].endswith("context")}:
        assert len({row["bases"] for row in rows if row["class"] == kind}) == 1
    whole = [row for row in rows if row["class"] == "all"]
    assert all(row["bases"] == str(3 * 128) and 1.5 < float(row["bits_per_base"]) < 8 for row in whole)
    assert (out / "context.png").stat().st_size > 10_000


def test_what_is_there_is_kept_and_what_is_not_done_again(models, tmp_path, capsys):
    out = tmp_path / "out"
    base = [*TINY.split(), "--fasta", LAMBDA, "--out", out, "--model", models / "bases"]
    assert call(capsys, *base, "--modes", "on", "reset")[0] == 0
    kept = read(out / "context.csv")
    times = {file.name: file.stat().st_mtime_ns for file in (out / "scores").iterdir()}
    (out / "scores" / "reset-256.npy").unlink()
    (out / "scores" / "on-64.npy").write_bytes(b"cut")
    status, _, err = call(capsys, *base, "--piece", "100", "--batch_size", "2", "--off_contexts", "64")
    assert status == 0
    assert "4 of 7 rows were done before" in err
    again = {file.name: file.stat().st_mtime_ns for file in (out / "scores").iterdir()}
    assert {name for name in times if again[name] != times[name]} == {"reset-256.npy", "on-64.npy"}
    rows = read(out / "context.csv")
    assert {row["mode"] for row in rows} == {"on", "reset", "off"}
    for row, old in zip(rows, kept, strict=False):
        assert (row["mode"], row["context"], row["class"], row["bases"]) == tuple(old.values())[:4]
        if old["bits_per_base"]:
            assert float(row["bits_per_base"]) == pytest.approx(float(old["bits_per_base"]), abs=2e-5)
    plan = (out / "data.json").read_bytes()
    other = [one if one != "3" else "2" for one in base]
    status, _, err = call(capsys, *other)
    assert (status, err.count("\n")) == (2, 1)
    assert f"choice of places is not that of the run in {out}" in err
    assert (out / "data.json").read_bytes() == plan


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


GOOD = f"--model bases --fasta {LAMBDA} --out new {TINY}"
BAD = {
    "no model": (f"--fasta {LAMBDA} --out new", "--model: got none"),
    "no fasta": ("--model bases --out new", "--fasta: got none"),
    "no out": (f"--model bases --fasta {LAMBDA}", "--out: got none"),
    "no such model": (f"--model nothing --fasta {LAMBDA} --out new", "nothing"),
    "words": (GOOD.replace("--model bases", "--model words"), "--model: got a model of kmer-3 tokens"),
    "contig": (f"{GOOD} --contigs chr1", "--contigs: got 'chr1'"),
    "both": (f"{GOOD} --contigs chr1 --bed train.bed", "--contigs: got them beside --bed"),
    "bed": (f"{GOOD} --bed nope.bed", "nope.bed"),
    "train only": (f"{GOOD} --bed train.bed", "none for valid"),
    "too long": (GOOD.replace("256 1024", "65536"), "--contexts: got 65536 bases, and with --target 128"),
    "order": (GOOD.replace("64 256 1024", "256 64"), "--contexts: got 256 64, want"),
    "number": (GOOD.replace("64 256 1024", "many"), "contexts"),
    "zero": (GOOD.replace("64 256", "0 256"), "--contexts: got 0"),
    "not one of them": (f"{GOOD} --off_contexts 100", "--off_contexts: got 100, want some of --contexts"),
    "mode": (f"{GOOD} --modes on of", "--modes: got on of, want some of on reset off"),
    "in vain": (f"{GOOD} --modes on --off_contexts 64", "--off_contexts: got them without the mode off"),
    "k": (GOOD.replace("--k 9", "--k 32"), "--k: got 32, want 1 to 31"),
    "places": (GOOD.replace("--places 3", "--places 0"), "--places: got 0, want at least 1"),
    "max_n": (f"{GOOD} --max_n 1.5", "--max_n: got 1.5"),
    "twice": (f"{GOOD} --k 8", "--k: got it 2 times"),
    "full": (GOOD.replace("--out new", "--out full"), "--out: full is not empty"),
    "file": (GOOD.replace("--out new", "--out file"), "--out: file is a file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(models, monkeypatch, capsys, name):
    arguments, message = BAD[name]
    monkeypatch.chdir(models)
    before = sorted(path.name for path in models.iterdir())
    status, out, err = call(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("titans-dna: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in models.iterdir()) == before
