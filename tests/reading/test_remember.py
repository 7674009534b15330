"""`remember` from Python and the shell: one reading however it is cut, marks, and what later verbs make of a state."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import titans_dna
from titans_dna import checkpoint
from titans_dna.cli import main
from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.nn.model import TitansDNA, tensors_of
from titans_dna.reading import remember as remember_files
from titans_dna.reading.bits import Bits
from titans_dna.reading.embed import embed
from titans_dna.reading.options import ReadOptions, ReadSpeedOptions, RememberOptions
from titans_dna.reading.remember import MARK
from titans_dna.run.directory import partial
from titans_dna.tokens.tokenizer import make_tokenizer

SMALL = {"width": 16, "layers": 2, "heads": 2, "chunk": 8, "segment": 16, "window": 12, "persistent": 3}


def letters(n, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACGTNacgt"), n, p=[0.2, 0.2, 0.2, 0.15, 0.05] + [0.05] * 4))


def build(variant="mag", tokenizer="nucleotide", seed=0):
    torch.manual_seed(seed)
    made = make_tokenizer(tokenizer)
    model = TitansDNA(TitansConfig(variant=variant, vocab_size=made.vocab_size, **SMALL)).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)  # so that bases differ in what they cost
    model.tokenizer = made
    return model


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def rows_of(track):
    return list(csv.reader(track.read_text().splitlines()[1:], delimiter="\t"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build()
    checkpoint.save(model, "model", model.tokenizer)
    model = build(seed=3)
    checkpoint.save(model, "other", model.tokenizer)
    (tmp_path / "two.fa").write_text(f">one\n{letters(700)}\n>two\n{letters(450, 1)}\n")
    (tmp_path / "one.fa").write_text(f">one\n{letters(700)}\n")
    (tmp_path / "rest.fa").write_text(f">two\n{letters(450, 1)}\n")
    (tmp_path / "some.bed").write_text("one\t100\t230\ta\t0\t+\none\t400\t500\tb\t0\t-\n")
    return tmp_path


@torch.no_grad()
@pytest.mark.parametrize("piece", [1, 64, 100, 5000])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_piece_gives_the_state_and_the_bits_of_one_call(variant, piece):
    model, texts = build(variant).double(), [letters(150), letters(90, 1)]
    ids = torch.cat([torch.from_numpy(model.tokenizer.encode(one)).long() for one in texts])[None]
    out = model(ids)
    nats = F.cross_entropy(out.logits[0, :-1], ids[0, 1:], reduction="none")
    counted = (ids[0, 1:] >= 7) & (ids[0, 1:] < 11)
    counted[149] = False  # the first base of the second sequence
    read = titans_dna.remember(model, texts, piece=piece)
    for a, b in zip(tensors_of(read.state), tensors_of(out.state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert read.bases == 240
    assert read.bits_per_base == pytest.approx(float(nats[counted].mean()) / math.log(2), rel=1e-5)


def test_sequences_one_by_one_are_the_same_reading():
    model, texts = build(), [letters(150), letters(90, 1)]
    whole = titans_dna.remember(model, texts)
    first = titans_dna.remember(model, texts[0])
    second = titans_dna.remember(model, texts[1], first.state)
    for a, b in zip(tensors_of(second.state), tensors_of(whole.state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokenizer", ["kmer-3", "kmer-3-overlapping"])
def test_other_tokenizers(tokenizer):
    model = build("lmm", tokenizer)
    read = titans_dna.remember(model, letters(100), piece=7)
    out = model(torch.from_numpy(model.tokenizer.encode(letters(100)).astype(np.int64))[None])
    for a, b in zip(tensors_of(read.state), tensors_of(out.state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_state_that_is_not_finite_is_told():
    model = build()
    with torch.no_grad():
        model.blocks[1].ffn.down.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        titans_dna.remember(model, letters(100))


def test_remember_then_go_on(files, capsys):
    """Two calls, the state through a file, are one; the track is of the same bits."""
    line = "remember --model model --fasta two.fa --out whole --track whole.bg --bin 100"
    status, out, _ = call(capsys, *line.split())
    assert status == 0
    assert "1,150 bases remembered" in out
    line = "remember --model model --fasta one.fa --out first"
    assert call(capsys, *line.split())[0] == 0
    line = "remember --model model --fasta rest.fa --state first --out second --track rest.bg --bin 100 --piece 33"
    status, out, _ = call(capsys, *line.split())
    assert status == 0
    assert "1,150 bases remembered" in out
    model = titans_dna.load("model")
    whole, second = (titans_dna.load_state(name, model) for name in ("whole", "second"))
    assert second.about == whole.about == {"bases": 1150, "read": ["one:0-700", "two:0-450"]}
    for a, b in zip(tensors_of(second.state), tensors_of(whole.state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    tracks = [rows_of(files / name) for name in ("whole.bg", "rest.bg")]
    assert [row[:3] for row in tracks[0]][:2] == [["one", "0", "100"], ["one", "100", "200"]]
    assert [row[:3] for row in tracks[1]] == [["two", f"{i}", f"{min(i + 100, 450)}"] for i in range(0, 450, 100)]
    for one, other in zip(tracks[0][7:], tracks[1], strict=True):
        assert float(one[3]) == pytest.approx(float(other[3]), abs=2e-4)


def test_intervals_and_the_other_strand(files, capsys):
    line = "remember --model model --fasta one.fa --bed some.bed --out a --track a.bg --bin 60"
    assert call(capsys, *line.split())[0] == 0
    rows = [row[:3] for row in rows_of(files / "a.bg")]
    assert rows == [["one", *map(str, ends)] for ends in ((100, 160), (160, 220), (220, 230), (440, 500), (400, 440))]
    model, text = titans_dna.load("model"), letters(700)
    turned = text[400:500].translate(str.maketrans("ACGTacgt", "TGCAtgca"))[::-1]
    wanted = titans_dna.remember(model, [text[100:230], turned]).state
    for a, b in zip(tensors_of(titans_dna.load_state("a", model).state), tensors_of(wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("layer", [-1, 0])
def test_embed_goes_on_from_a_state(files, capsys, layer):
    model = titans_dna.load("model")
    before = titans_dna.remember(model, letters(130, 5)).state
    titans_dna.save_state("before", before, model)
    texts = [letters(70), letters(41, 7)]
    found = embed(model, texts, state=before, layer=layer, piece=16)
    for text, vector in zip(texts, found, strict=True):
        ids = torch.from_numpy(model.tokenizer.encode(letters(130, 5) + text)).long()[None]
        hidden, _ = model.features(ids, layer=layer)
        np.testing.assert_allclose(vector, hidden[0, 130:].mean(0).numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(found - embed(model, texts, layer=layer)).max() > 1e-3
    both = embed(model, texts, state=before, rc=True)
    turned = [one.translate(str.maketrans("ACGTacgt", "TGCAtgca"))[::-1] for one in texts]
    np.testing.assert_allclose(both, embed(model, turned, state=before, rc=True), rtol=1e-4, atol=1e-5)
    assert (
        call(capsys, *f"embed --model model --fasta two.fa --state before --layer {layer} --out v.npy".split())[0] == 0
    )
    np.testing.assert_allclose(
        np.load("v.npy"), embed(model, [letters(700), letters(450, 1)], state=before, layer=layer), rtol=1e-4, atol=1e-4
    )


BAD = {
    "no model": ("--fasta one.fa --out s", "--model: got none"),
    "no fasta": ("--model model --out s", "--fasta: got none"),
    "no out": ("--model model --fasta one.fa", "--out: got none"),
    "missing fasta": ("--model model --fasta nope.fa --out s", "nope.fa: no such file"),
    "missing model": ("--model nope --fasta one.fa --out s", "nope"),
    "no folder": ("--model model --fasta one.fa --out no/s", "--out: no: no such directory"),
    "an input": ("--model model --fasta one.fa --out one.fa --overwrite", "--out: one.fa is one of the inputs"),
    "there": ("--model model --fasta one.fa --out some.bed", "--out: some.bed exists"),
    "track": ("--model model --fasta one.fa --out s --track s", "--track: got s, want another file than --out"),
    "bin": ("--model model --fasta one.fa --out s --bin 0", "--bin: got 0, want at least 1"),
    "piece": ("--model model --fasta one.fa --out s --piece 0", "--piece: got 0, want at least 1"),
    "no state": ("--model model --fasta one.fa --out s --state nope", "nope: no such file, want a state file"),
    "not a state": ("--model model --fasta one.fa --out s --state one.fa", "one.fa: truncated or damaged"),
    "other model": ("--model other --fasta one.fa --out s --state first", "first: is of another model"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(files, capsys, name):
    model = titans_dna.load("model")
    titans_dna.save_state("first", titans_dna.remember(model, letters(50)).state, model)
    line, message = BAD[name]
    status, _, error = call(capsys, "remember", *line.split())
    assert status == 2
    assert error.startswith("titans-dna: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (files / "s").exists()


def test_an_interrupted_reading_goes_on(files):
    """Killed outright after a mark: the same command ends with the very state and track of one that was left alone."""
    (files / "long.fa").write_text(f">a\n{letters(30_000, 3)}\n>b\n{letters(60_000, 4)}\n")
    command = [
        sys.executable,
        "-m",
        "titans_dna.cli",
        "remember",
        "--model",
        "model",
        "--fasta",
        "long.fa",
        "--threads",
        "1",
    ]
    command += ["--piece", "500", "--track", "t.bg", "--save_every", "0.003", "--out"]
    running = subprocess.Popen([*command, "killed"], stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (partial(files / "killed") / MARK).exists() or running.poll() is not None:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    mark = partial(files / "killed") / MARK
    assert mark.exists()
    assert not (files / "killed").exists()
    again = subprocess.run([*command, "killed"], capture_output=True, text=True, check=True)
    assert "going on from the mark" in again.stderr
    assert not partial(files / "killed").exists()
    track = (files / "t.bg").read_text()
    (files / "t.bg").unlink()
    subprocess.run([*command, "whole"], capture_output=True, check=True)
    model = titans_dna.load("model")
    killed, whole = (titans_dna.load_state(name, model) for name in ("killed", "whole"))
    assert killed.about == whole.about
    for a, b in zip(tensors_of(killed.state), tensors_of(whole.state), strict=True):
        assert torch.equal(a, b)
    assert (files / "t.bg").read_text() == track


def stopped_after_a_mark(capsys, monkeypatch, number=signal.SIGTERM):
    """`remember two.fa` to `out`, stopped by a signal once it has left a mark; its status and what it said."""
    save = remember_files._Job._save

    def stop(self):
        save(self)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(remember_files._Job, "_save", stop)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
        status, said, error = call(capsys, *LINE, "--save_every", "0.0000001")
    assert said == ""
    return status, error


LINE = [
    "remember",
    "--model",
    "model",
    "--fasta",
    "two.fa",
    "--out",
    "out",
    "--track",
    "t.bg",
    "--bin",
    "50",
    "--piece",
    "200",
]


@pytest.mark.parametrize("age", ["new", "0.1.0"])
@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_reading_goes_on_whoever_left_the_mark(files, capsys, monkeypatch, number, ended, age):
    status, error = stopped_after_a_mark(capsys, monkeypatch, number)
    assert status == ended
    assert error == (
        "titans-dna: interrupted; what is done is kept; continue with: titans-dna remember --resume --out out\n"
    )
    model, path = titans_dna.load("model"), partial(files / "out")
    if age == "0.1.0":  # a state file in place of the directory
        about, known = titans_dna.load_state(path / MARK, model), json.loads((path / "data.json").read_text())
        where = {name: value for name, value in about.about.items() if name != "done"}
        shutil.rmtree(path)
        titans_dna.save_state(path, about.state, model, {"digest": known["fingerprint"], **where}, about.tensors)
    add, tokens = Bits.add, []
    with monkeypatch.context() as patch:
        patch.setattr(Bits, "add", lambda self, piece: tokens.append(piece.ids.shape[1]) or add(self, piece))
        # The same command, or what was advised.
        line = LINE if age == "0.1.0" or number == signal.SIGTERM else ["remember", "--resume", "--out", "out"]
        status, _, error = call(capsys, *line)
    assert status == 0, error
    assert "going on from the mark of an earlier run" in error
    assert sum(tokens) == 1150 - 200
    assert not path.exists()
    whole = [{"out": "whole", "t.bg": "whole.bg"}.get(one, one) for one in LINE]
    assert call(capsys, *whole)[0] == 0
    found, wanted = (titans_dna.load_state(name, model) for name in ("out", "whole"))
    assert found.about == wanted.about
    for a, b in zip(tensors_of(found.state), tensors_of(wanted.state), strict=True):
        assert torch.equal(a, b)
    assert (files / "t.bg").read_text() == (files / "whole.bg").read_text()


@pytest.mark.parametrize("age", ["new", "0.1.0"])
def test_a_mark_of_something_else_is_told_and_not_used(files, capsys, monkeypatch, age):
    stopped_after_a_mark(capsys, monkeypatch)
    path, model = partial(files / "out"), titans_dna.load("model")
    if age == "0.1.0":
        shutil.rmtree(path)
        state = titans_dna.remember(model, letters(50)).state
        titans_dna.save_state(path, state, model, {"digest": "other", "number": 0, "token": 50})
    line = [one.replace("50", "70") for one in LINE]  # other bins
    options = RememberOptions(
        ReadOptions("model", ("two.fa",), out="out", track="t.bg", bin=70), ReadSpeedOptions(piece=200)
    )
    with pytest.raises(ValueError, match="--resume: model, input or options are not those of the run in"):
        remember_files.remember_files(options, resume=True)
    status, _, error = call(capsys, *line)
    assert status == 0
    assert "remember: model, input or options have changed since the last run; starting again" in error
    wanted = titans_dna.remember(model, [letters(700), letters(450, 1)], piece=200).state
    for a, b in zip(tensors_of(titans_dna.load_state("out", model).state), tensors_of(wanted), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_mark_is_no_mark(files, capsys, monkeypatch):
    stopped_after_a_mark(capsys, monkeypatch)
    (partial(files / "out") / MARK).write_bytes(b"half")
    assert call(capsys, *LINE)[0] == 0
    assert not partial(files / "out").exists()


def test_what_is_somebodys_stays(files, capsys):
    """A file or a directory under the name of what is kept, and nothing to resume."""
    path = partial(files / "out")
    for made in (lambda: path.write_text("mine"), lambda: (path.mkdir(), (path / "thesis.txt").write_text("mine"))):
        made()
        status, _, error = call(capsys, *LINE)
        assert status == 2
        assert error.count("\n") == 1
        assert f"--out: {path.name} is " in error
        assert "mine" in (path if path.is_file() else path / "thesis.txt").read_text()
        path.unlink() if path.is_file() else shutil.rmtree(path)
    options = RememberOptions(ReadOptions("model", ("two.fa",), out="out"), ReadSpeedOptions())
    with pytest.raises(FileNotFoundError, match="holds no run of titans-dna remember to resume"):
        remember_files.remember_files(options, resume=True)
    assert not path.exists()
