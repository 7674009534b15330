"""`titans-dna predict`: names, coordinates and scores; batches, pieces and strands change nothing; whole or not at all."""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import titans_dna
from titans_dna import checkpoint
from titans_dna.checkpoint import save
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.reading import parts
from titans_dna.reading.stream import padded
from titans_dna.run.signals import Stopped
from titans_dna.tasks import predict as predicting
from titans_dna.tasks import score as scoring
from titans_dna.tasks.score import answers, predict, score_bases, smoothed
from titans_dna.tasks.use_options import PredictOptions, ScoringOptions, SequenceFileOptions
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import NucleotideTokenizer

CLASSES = ("enhancer", "none", "promoter")
TEXTS = {
    name: "".join(np.random.default_rng(i).choice(list("ACGT"), n))
    for i, (name, n) in enumerate((("one", 210), ("two", 70), ("three", 140)))
}
BED = "two\t10\t40\tgene\t0\t-\none\t0\t210\nthree\t5\t6\tbase\t0\t+\n"
PLACES = [("gene", "two", 10, 40, "-"), ("one:0-210", "one", 0, 210, "."), ("base", "three", 5, 6, "+")]
HEADER = ["name", "contig", "start", "end", "strand", "prediction"]


def make(task="multiclass", classes=CLASSES, variant="mac", **question):
    torch.manual_seed(0)
    backbone = TitansDNA(TitansConfig.preset("tiny", variant=variant))
    model = FineTuned(backbone, Question(task, classes, **question), NucleotideTokenizer())
    torch.nn.init.normal_(model.head.output.weight, std=4.0)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save(make(), folder / "m")
    save(make("multilabel"), folder / "many")
    save(make("regression", (), mean=2.0, deviation=3.0), folder / "number")
    bases = FineTuned(make().backbone, Question("multiclass", CLASSES, "base"), NucleotideTokenizer())
    save(bases, folder / "bases")
    checkpoint.save(make().backbone, folder / "pretrained", NucleotideTokenizer())
    return folder


@pytest.fixture
def files(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    for model in folder.iterdir():
        Path(model.name).symlink_to(model)
    Path("x.fa").write_text("".join(f">{name}\n{text}\n" for name, text in TEXTS.items()))
    Path("x.bed").write_text(BED)
    Path("bad.fa").write_text(">p\nMKVLAAGIVGLLLAQPEFW\n")
    Path("bare.fa").write_text(">a\nACGT\n>b\n\n")
    Path("past.bed").write_text("two\t0\t71\n")
    return tmp_path


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def whole(model, text):
    """Scores of one sequence in one call of the model, both strands averaged."""
    pair = [text.encode(), reverse_complement(text.encode())]
    with torch.no_grad():
        return model.scores(model(Batch(*padded(pair, model.tokenizer), torch.zeros(2)))).mean(0)


def bed_texts():
    return [reverse_complement(TEXTS["two"][10:40].encode()).decode(), TEXTS["one"], TEXTS["three"][5:6]]


def check(path, places, texts):
    found = read(path)
    assert [*found[0]] == [*HEADER, *(f"probability_{name}" for name in CLASSES)]
    rows = [(row["name"], row["contig"], int(row["start"]), int(row["end"]), row["strand"]) for row in found]
    assert rows == places
    model = make()
    for row, text in zip(found, texts, strict=True):
        scores = whole(model, text)
        np.testing.assert_allclose([float(row[f"probability_{name}"]) for name in CLASSES], scores, atol=1e-5)
        assert row["prediction"] == CLASSES[scores.argmax()]


def test_from_the_shell(files):
    command = [sys.executable, "-m", "titans_dna.cli", "predict", "--model", "m", "--fasta", "x.fa", "--out", "p.csv"]
    before = {path.name for path in files.iterdir()}
    done = subprocess.run([*command, "--workers", "1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "predictions: p.csv (3)\n"), done.stderr
    assert done.stderr == ""
    assert {path.name for path in files.iterdir()} - before == {"p.csv"}
    check(files / "p.csv", [(name, name, 0, len(text), ".") for name, text in TEXTS.items()], TEXTS.values())


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_intervals_and_formats(files, capsys, suffix):
    out = f"p{suffix}"
    assert (
        call(capsys, "--model", "m", "--fasta", "x.fa", "--bed", "x.bed", "--out", out, "--batch_bases", "64")[0] == 0
    )
    check(files / out, PLACES, bed_texts())


def test_multilabel_and_regression(files, capsys):
    for model, made in (("many", make("multilabel")), ("number", make("regression", (), mean=2.0, deviation=3.0))):
        assert call(capsys, "--model", model, "--fasta", "x.fa", "--out", f"{model}.tsv")[0] == 0
        for row, text in zip(read(files / f"{model}.tsv"), TEXTS.values(), strict=True):
            scores = whole(made, text)
            if model == "many":
                assert row["prediction"] == ";".join(
                    name for name, one in zip(CLASSES, scores, strict=True) if one >= 0.5
                )
            else:
                assert [*row] == HEADER
                assert float(row["prediction"]) == pytest.approx(float(scores), abs=1e-5)


@pytest.mark.parametrize("variant", ["lmm", "mac"])
def test_batches_pieces_and_strands_change_nothing(variant):
    model = make(variant=variant)
    texts = [*TEXTS.values(), "ACGTA", "G"]
    scores = predict(model, texts)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [whole(model, text) for text in texts], atol=1e-5)
    assert answers(model.question, scores) == [CLASSES[row.argmax()] for row in scores]
    for options in ({"batch_size": 1}, {"batch_size": 3, "batch_bases": 50}, {"batch_bases": 60}):
        np.testing.assert_allclose(predict(model, texts, **options), scores, atol=1e-5)
    turned = [reverse_complement(text.encode()) for text in texts]
    np.testing.assert_allclose(predict(model, turned), scores, atol=1e-5)
    single = make(variant=variant, both_strands=False)
    assert np.abs(predict(single, turned) - predict(single, texts)).max() > 1e-3


def test_from_python(files):
    model = titans_dna.load("m")
    scores = predict(model, [*TEXTS.values()])
    for what in ("x.fa", Path("x.fa")):
        np.testing.assert_array_equal(predict(model, what), scores)
    np.testing.assert_allclose(predict(model, TEXTS["two"]), scores[1:2], atol=1e-6)
    assert predict(model, []).shape == (0, 3)
    assert predict(titans_dna.load("number"), [*TEXTS.values()]).shape == (3,)
    with pytest.raises(ValueError, match="got an empty sequence"):
        predict(model, ["ACGT", ""])
    with pytest.raises(ValueError, match="batch_size: got 0"):
        predict(model, "ACGT", batch_size=0)
    with pytest.raises(ValueError, match="state: got one for a model with an answer for each base"):
        predict(titans_dna.load("bases"), "ACGT", state=())


def test_bases_from_python(files):
    """A list of [bases, classes], in windows as long as those of the training, each from a fresh start."""
    model = titans_dna.load("bases")
    model.question = dataclasses.replace(model.question, window=64)
    texts = [*TEXTS.values(), "G", "acgu"]
    found = predict(model, texts)
    for options in ({"batch_bases": 1}, {"batch_bases": 150}, {"batch_bases": 10_000}):
        for one, other in zip(predict(model, texts, **options), found, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    for text, one in zip([*TEXTS.values(), "G", "ACGT"], found, strict=True):
        assert one.shape == (len(text), 3)
        assert one.dtype == np.float64
        windows = [text[start : start + 64].encode() for start in range(0, len(text), 64)]
        np.testing.assert_allclose(one, np.concatenate(score_bases(model, windows)), atol=1e-5)
    assert predict(model, []) == []


@pytest.mark.parametrize("smooth", [False, True])
def test_windows_with_margins_are_read_with_what_is_around_them(files, smooth):
    """And answer for their own bases alone; a margin as long as the text makes each window see all of it."""
    model = titans_dna.load("bases")
    shares = ((0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.2, 0.1, 0.7)) if smooth else ()
    model.question = dataclasses.replace(model.question, window=64, margin=20, transitions=shares, trust=0.5)
    text = ("".join(TEXTS.values()) * 9)[:150]
    found = predict(model, [text, "ACG"])[0]
    plain = dataclasses.replace(model.question, transitions=())
    for start, end in ((0, 64), (64, 128), (128, 150)):
        first, last = max(0, start - 20), min(150, end + 20)
        model.question = plain
        wanted = score_bases(model, [text[first:last].encode()])[0][start - first : end - first]
        if smooth:
            wanted = smoothed(
                wanted[None], np.ones((1, end - start), bool), dataclasses.replace(plain, transitions=shares)
            )[0]
        np.testing.assert_allclose(found[start:end], wanted, atol=1e-5)
    model.question = dataclasses.replace(plain, margin=200)
    np.testing.assert_allclose(predict(model, [text])[0], score_bases(model, [text.encode()])[0], atol=1e-5)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("place", ["genome_source", "open_model"])
def test_interrupted_before_the_first_sequence_leaves_nothing(files, capsys, monkeypatch, number, status, place):
    kept = getattr(predicting, place)

    def stop(*arguments, **options):
        found = kept(*arguments, **options)
        os.kill(os.getpid(), number)
        return found

    monkeypatch.setattr(predicting, place, stop)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
    before, handler = {*files.iterdir()}, signal.getsignal(signal.SIGTERM)
    got, said, err = call(capsys, "--model", "m", "--fasta", "x.fa", "--out", "p.csv")
    assert (got, said) == (status, "")
    assert err == "titans-dna: interrupted; nothing was written\n"
    assert {*files.iterdir()} == before
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("model", ["m", "number", "bases"])
def test_an_interrupted_run_goes_on(files, capsys, monkeypatch, number, status, model):
    """Parts of one batch each; the run is stopped when two of them are done, and the next one scores the others alone."""
    monkeypatch.setattr(predicting, "PART_BASES", 64)
    rng = np.random.default_rng(3)
    with open("many.fa", "w") as file:
        file.writelines(
            f">s{i}\n{''.join(rng.choice(list('ACGT'), n))}\n" for i, n in enumerate((50, 70, 64, 1, 90, 30))
        )
    out = "p.bed" if model == "bases" else "p.csv"
    line = ["--model", model, "--fasta", "many.fa", "--out", out, "--batch_size", "1", "--batch_bases", "64"]
    if model == "bases":
        kept = predicting.open_model

        def short(*given):
            made = kept(*given)
            made.question = dataclasses.replace(made.question, window=32)
            return made

        monkeypatch.setattr(predicting, "open_model", short)
    done, name = parts.Unfinished._file, "score_windows" if model == "bases" else "score_batches"
    with monkeypatch.context() as patch:

        def stop(self, part):
            if part == 2 and done(self, 1).exists():
                os.kill(os.getpid(), number)
            return done(self, part)

        patch.setattr(parts.Unfinished, "_file", stop)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
        got, said, err = call(capsys, *line)
    assert (got, said) == (status, "")
    assert err == (
        f"titans-dna: interrupted; what is done is kept; continue with: titans-dna predict --resume --out {out}\n"
    )
    assert not Path(out).exists()
    assert sorted(path.name for path in Path(f"{out}.partial").glob("part-*")) == [f"part-00000{i}.npy" for i in (0, 1)]
    seen, compute = [], getattr(scoring, name)

    def watched(model, source, some, *rest, **options):
        seen.extend(some)
        return compute(model, source, some, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(predicting, name, watched)
        # The same command, or what was advised.
        got, _, err = call(capsys, *(["--resume", "--out", out] if number == signal.SIGINT else line))
    assert got == 0
    assert "predict: 2 of " in err
    assert not Path(f"{out}.partial").exists()
    # Of 12 windows, two to a part, or of 6 sequences, one to a batch.
    assert len(seen) == (8 if model == "bases" else 4)
    assert call(capsys, *line[:5], f"w{out}", *line[6:])[0] == 0
    assert Path(out).read_bytes() == Path(f"w{out}").read_bytes()


def test_parts_stay_when_batches_change(files, capsys, monkeypatch):
    monkeypatch.setattr(predicting, "PART_BASES", 100)
    line = ["--model", "m", "--fasta", "x.fa", "--bed", "x.bed", "--out", "p.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(parts.Unfinished, "gather", lambda *rest: (_ for _ in ()).throw(Stopped()))
        assert call(capsys, *line, "--batch_size", "1")[0] == 130
    kept = {path.name: path.read_bytes() for path in Path("p.csv.partial").glob("part-*")}
    assert len(kept) == 2
    Path("p.csv.partial/part-000001.npy").unlink()
    status, _, err = call(capsys, *line, "--batch_size", "3")
    assert status == 0
    assert "1 of 2 parts were done before" in err
    check(files / "p.csv", PLACES, bed_texts())


def test_resume_is_of_the_same_run_or_none(files, capsys, monkeypatch):
    options = PredictOptions(SequenceFileOptions("m", ("x.fa",), out="p.csv"), ScoringOptions())
    with pytest.raises(FileNotFoundError, match="holds no run of titans-dna predict to resume"):
        predicting.predict_files(options, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(predicting, "write_table", lambda *rest: (_ for _ in ()).throw(Stopped()))
        with pytest.raises(Stopped):
            predicting.predict_files(options)
    assert not Path("p.csv").exists()
    other = dataclasses.replace(options, files=dataclasses.replace(options.files, model="many"))
    with pytest.raises(ValueError, match="--resume: model, input or options are not those of the run"):
        predicting.predict_files(other, resume=True)
    assert predicting.predict_files(options, resume=True).rows == 3
    assert "parts were done before" in capsys.readouterr().err
    status, _, err = call(capsys, "--model", "many", "--fasta", "x.fa", "--out", "q.csv")
    assert (status, err) == (0, "")


def test_an_output_that_exists(files, capsys):
    arguments = ["--model", "m", "--fasta", "x.fa", "--out", "p.csv"]
    Path("p.csv").write_text("mine\n")
    status, _, err = call(capsys, *arguments)
    assert (status, err) == (
        2,
        "titans-dna: error: --out: p.csv exists, want another name, or --overwrite to replace it\n",
    )
    assert Path("p.csv").read_text() == "mine\n"
    assert call(capsys, *arguments, "--overwrite")[0] == 0
    assert len(read(files / "p.csv")) == 3


BAD = {
    "no fasta": ("", "--fasta: got none"),
    "no such fasta": ("--fasta nope.fa", "nope.fa: no such file"),
    "protein": ("--fasta bad.fa", "bad.fa: not a nucleotide sequence"),
    "past the end": ("--fasta x.fa --bed past.bed", "past.bed: line 1: interval two:0-71"),
    "format": ("--fasta x.fa --out p.npy", "--out: got p.npy, want a file that ends in .csv, .tsv or .parquet"),
    "no folder": ("--fasta x.fa --out no/p.csv", "--out: no: no such directory"),
    "no writing": ("--fasta x.fa --out /proc/p.csv", "--out: /proc: cannot be written in: "),
    "an input": ("--fasta x.fa --bed in.tsv --out in.tsv --overwrite", "--out: in.tsv is one of the inputs"),
    "pretrained": ("--fasta x.fa --model pretrained", "--model: pretrained holds a pretrained model"),
    "for bases": ("--fasta x.fa --model bases", "--out: got p.csv, want a file that ends in .bed"),
    "no model": ("--fasta x.fa --model nope", "nope"),
    "piece": ("--fasta x.fa --batch_bases 0", "--batch_bases: got 0, want at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(files, capsys, case):
    arguments, message = BAD[case]
    Path("in.tsv").write_text(BED)
    before = {*files.iterdir()}
    options = arguments.split()
    for flag, value in (("--model", "m"), ("--out", "p.csv")):
        options += [] if flag in options else [flag, value]
    status, said, err = call(capsys, *options)
    assert (status, said) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert {*files.iterdir()} == before


def test_needs_no_extra(files):
    """Neither scikit-learn nor Lightning is loaded to predict."""
    code = (
        "import sys; sys.modules['sklearn'] = sys.modules['matplotlib'] = None\n"
        "import titans_dna; from titans_dna.tasks.score import answers, predict\n"
        "import titans_dna.tasks.predict; model = titans_dna.load('m')\n"
        "print(answers(model.question, predict(model, 'ACGTACGT'))[0], 'lightning' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] in CLASSES
    assert said[1] == "False"


@torch.no_grad()
def test_predictions_after_what_a_state_remembers(files, capsys):
    """Each sequence, on either strand, is read after the state: the pool over its own bases, the memory of all."""
    model, before = make(both_strands=True), "".join(np.random.default_rng(9).choice(list("ACGT"), 130))
    read_before = titans_dna.remember(titans_dna.load("m").backbone, before)
    titans_dna.save_state("before", read_before.state, titans_dna.load("m").backbone)
    assert call(capsys, *["--model", "m", "--fasta", "x.fa", "--state", "before", "--out", "p.csv"])[0] == 0
    plain = predict(titans_dna.load("m"), list(TEXTS.values()))
    for row, text, without in zip(read(files / "p.csv"), TEXTS.values(), plain, strict=True):
        scores = []
        for strand in (text.encode(), reverse_complement(text.encode())):
            ids = torch.from_numpy(model.tokenizer.encode(before.encode() + strand)).long()[None]
            hidden, _ = model.backbone.features(ids)
            mean = hidden[:, len(before) :].mean(1)
            scores.append(model.scores(model.head.output(mean))[0])
        found = [float(row[f"probability_{name}"]) for name in CLASSES]
        np.testing.assert_allclose(found, np.mean(scores, axis=0), atol=1e-4)
        assert np.abs(np.array(found) - without).max() > 1e-3
    status, _, error = call(capsys, *["--model", "bases", "--fasta", "x.fa", "--state", "before", "--out", "p.bed"])
    assert status == 2
    assert error.startswith("titans-dna: error: --state: bases answers for each base")
    status, _, error = call(capsys, *["--model", "many", "--fasta", "x.fa", "--state", "x.fa", "--out", "q.csv"])
    assert status == 2
    assert "x.fa: truncated or damaged" in error
