"""`titans-dna evaluate`: the saved label map, metrics as scikit-learn has them, every layout, bad input in one line."""

import csv
import json
import math
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

import titans_dna
from titans_dna import checkpoint
from titans_dna.checkpoint import save
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.reading.stream import padded
from titans_dna.run.signals import Stopped
from titans_dna.tasks import evaluate as evaluating
from titans_dna.tasks.evaluate import evaluate, evaluate_files
from titans_dna.tasks.use_options import EvaluateOptions, RowOptions, ScoringOptions
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import NucleotideTokenizer

CLASSES = ("zebra", "ant")
"""Not sorted: a map that cannot be had from the data."""


def make(folder, task="binary", classes=CLASSES, **question):
    torch.manual_seed(0)
    model = FineTuned(
        TitansDNA(TitansConfig.preset("tiny", variant="lmm")),
        Question(task, classes, **question),
        NucleotideTokenizer(),
    )
    torch.nn.init.normal_(model.head.output.weight, std=2.0)  # so that predictions differ, around the middle
    with torch.no_grad():
        texts = [text.encode() for text, _ in rows(40, [0], seed=3)]
        model.head.output.bias -= model.eval()(Batch(*padded(texts, model.tokenizer), torch.zeros(40))).mean(0)
    save(model, folder)
    return folder


def rows(count, labels, seed=0):
    rng = np.random.default_rng(seed)
    return [("".join(rng.choice(list("ACGT"), rng.integers(8, 50))), labels[i % len(labels)]) for i in range(count)]


def table(path, some, header="sequence,label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{header}\n" + "".join(f"{','.join(map(str, row))}\n" for row in some))
    return path


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def measured(out):
    return {row["metric"]: row for row in read(out / "results.csv")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("model") / "m")


def test_metrics_and_label_map(model, tmp_path):
    """Labels in an order of their own; the scores are those of whole sequences, both strands averaged."""
    data = rows(40, ["ant", "ant", "zebra"])
    table(tmp_path / "x.csv", data)
    command = [
        sys.executable,
        "-m",
        "titans_dna.cli",
        "evaluate",
        "--model",
        str(model),
        "--data",
        "x.csv",
        "--out",
        "ev",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Titans (ours)" in done.stdout
    out = tmp_path / "ev"
    names = {"results.md", "results.csv", "results.json", "predictions.csv", "confusion.png", "roc.png"}
    assert {path.name for path in out.iterdir()} == names
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", "ev"}
    assert json.loads((out / "results.json").read_text())["label_map"] == {"zebra": 0, "ant": 1}

    found = read(out / "predictions.csv")
    assert [row["label"] for row in found] == [label for _, label in data]
    one = titans_dna.load(model)
    for (text, _), row in zip(data, found, strict=True):
        pair = [text.encode(), reverse_complement(text.encode())]
        with torch.no_grad():
            wanted = one.scores(one(Batch(*padded(pair, one.tokenizer), torch.zeros(2)))).mean(0)
        np.testing.assert_allclose([float(row[f"probability_{name}"]) for name in CLASSES], wanted, atol=1e-5)

    labels, chosen = ([row[name] for row in found] for name in ("label", "prediction"))
    assert {*chosen} == {*CLASSES}
    positive = [float(row["probability_ant"]) for row in found]
    holds = [label == "ant" for label in labels]
    wanted = {
        "accuracy": sk.accuracy_score(labels, chosen),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, chosen),
        "mcc": sk.matthews_corrcoef(labels, chosen),
        "macro_f1": sk.f1_score(labels, chosen, average="macro"),
        "auroc": sk.roc_auc_score(holds, positive),
        "auprc": sk.average_precision_score(holds, positive),
    }
    got = measured(out)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(got[name]["value"]) == pytest.approx(value, abs=1e-5), name
        assert float(got[name]["low"]) <= value <= float(got[name]["high"])


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_interrupted_it_goes_on_to_the_same_figures(model, tmp_path, monkeypatch, batches):
    """After some batches: nothing of the directory is there yet, and what is there in the end is the same to the last digit."""
    data = table(tmp_path / "x.csv", rows(40, CLASSES))

    def options(out, **more):
        chosen = RowOptions(model=str(model), data=(str(data),), out=str(tmp_path / out), **more)
        return EvaluateOptions(chosen, ScoringOptions(batch_size=7, batch_bases=200))

    evaluate_files(options("whole"))
    kept = evaluating.score_batches

    def stopped(*arguments, **more):
        for number, one in enumerate(kept(*arguments, **more)):
            if number == batches:
                raise Stopped(signal.SIGTERM)
            yield one

    monkeypatch.setattr(evaluating, "score_batches", stopped)
    with pytest.raises(Stopped) as stop:
        evaluate_files(options("ev"))
    out = tmp_path / "ev"
    assert stop.value.advice == f"what is done is kept; continue with: titans-dna evaluate --resume --out {out}"
    assert not out.exists()
    monkeypatch.setattr(evaluating, "score_batches", kept)
    with pytest.raises(FileExistsError, match="holds another run"):
        evaluate_files(options("ev"))
    with pytest.raises(ValueError, match="--resume: --min_length: got 9, but the run to resume has 0"):
        evaluate_files(options("ev", min_length=9), resume=True)
    data.write_text(data.read_text().replace("A", "C", 1))
    with pytest.raises(ValueError, match="--data is not that of the run"):
        evaluate_files(options("ev"), resume=True)
    table(tmp_path / "x.csv", rows(40, CLASSES))
    seen = []
    monkeypatch.setattr(evaluating, "score_batches", lambda *rest, **more: seen.append(rest[1]) or kept(*rest, **more))
    evaluate_files(options("ev"), resume=True)
    assert (len(seen[0].lengths) == 40) is (batches == 0)
    assert {one.name for one in tmp_path.iterdir()} == {"x.csv", "whole", "ev"}
    for one in (tmp_path / "whole").iterdir():
        assert one.read_bytes() == (out / one.name).read_bytes(), one.name


def test_from_python(model, tmp_path, capsys):
    """The figures of the verb, and what it cannot do in one line."""
    for name, some in (("test", rows(30, CLASSES, 1)), ("train", rows(20, CLASSES))):
        table(tmp_path / "set" / f"{name}.csv", some)
    one = titans_dna.load(model)
    assert call(capsys, "--model", model, "--data", tmp_path / "set", "--out", tmp_path / "ev")[0] == 0
    found = evaluate(one, "set", root=tmp_path)
    assert {name: (float(row["value"]), float(row["low"])) for name, row in measured(tmp_path / "ev").items()} == {
        name: (value.value, value.low) for name, value in found.items()
    }
    assert evaluate(one, [tmp_path / "set" / "train.csv"]) == evaluate(one, tmp_path / "set", split="train")
    for wrong, message in (
        ({"split": "dev"}, "split: got 'dev'"),
        ({"batch_size": 0}, "batch_size: got 0, want at least 1"),
        ({"label_column": "kind"}, "no column 'kind'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(one, tmp_path / "set", **wrong)
    bases = FineTuned(one.backbone, Question("binary", CLASSES, "base"), one.tokenizer)
    with pytest.raises(ValueError, match="model: has an answer for each base"):
        evaluate(bases, tmp_path / "set")


def fasta(path, some):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">r{i}\n{text}\n" for i, (text, _) in enumerate(some)))


def layouts(root):
    train, test = rows(12, CLASSES), rows(6, CLASSES, 1)
    for name, some in (("train", train), ("test", test)):
        table(root / "gue" / f"{name}.csv", some)
        for i, (text, label) in enumerate(some):
            path = root / "gb" / name / label / f"{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    table(root / "only" / "test.csv", test)
    both = [(*row, "train") for row in train] + [(*row, "test") for row in test]
    table(root / "column.csv", both, "sequence,label,part")
    for name in CLASSES:
        fasta(root / "fa" / f"{name}.fa", [row for row in train if row[1] == name])


@pytest.mark.parametrize(
    ("arguments", "part", "count"),
    [
        ("--data gue", "test", 6),
        ("--data gue --split train", "train", 12),
        ("--data gb", "test", 6),
        ("--data gb --root . --split train", "train", 12),
        ("--data gb/test", "all", 6),
        ("--data only", "test", 6),
        ("--data gue/train.csv gue/test.csv", "all", 18),
        ("--data column.csv", "all", 18),
        ("--data column.csv --split_column part", "test", 6),
        ("--data column.csv --split_column part --split train", "train", 12),
        ("--data fa", "all", 12),
        ("--data fa/ant.fa fa/zebra.fa", "all", 12),
        ("--data fa/ant.fa", "all", 6),
    ],
)
def test_which_rows(model, tmp_path, monkeypatch, capsys, arguments, part, count):
    """Of one class too; pictures are left to the other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("titans_dna.tasks.evaluate.write_pictures", lambda *rest: None)
    layouts(tmp_path)
    status, _, err = call(capsys, "--model", model, "--out", "ev", *arguments.split())
    assert status == 0, err
    values = json.loads((tmp_path / "ev" / "results.json").read_text())
    assert (values["split"], values["rows"]) == (part, {part: count})


def test_one_class_alone(model, tmp_path, capsys):
    """What is not defined is empty, and nothing warns."""
    table(tmp_path / "x.csv", rows(7, ["ant"]))
    (tmp_path / "ev").mkdir()
    assert call(capsys, "--model", model, "--data", tmp_path / "x.csv", "--out", tmp_path / "ev")[0] == 0
    got = measured(tmp_path / "ev")
    assert got["auroc"]["value"] == got["auroc"]["low"] == ""
    found = read(tmp_path / "ev" / "predictions.csv")
    assert float(got["accuracy"]["value"]) == pytest.approx(np.mean([row["prediction"] == "ant" for row in found]))


def test_regression(tmp_path, capsys):
    make(tmp_path / "m", "regression", (), mean=3.0, deviation=2.0)
    table(tmp_path / "x.csv", [(text, i / 7) for i, (text, _) in enumerate(rows(9, [0]))])
    assert call(capsys, "--model", tmp_path / "m", "--data", tmp_path / "x.csv", "--out", tmp_path / "ev")[0] == 0
    found = read(tmp_path / "ev" / "predictions.csv")
    labels, values = (np.array([float(row[name]) for row in found]) for name in ("label", "prediction"))
    got = measured(tmp_path / "ev")
    assert float(got["mse"]["value"]) == pytest.approx(sk.mean_squared_error(labels, values))
    assert float(got["pearson"]["value"]) == pytest.approx(np.corrcoef(labels, values)[0, 1])
    table(tmp_path / "same.csv", [(text, 2) for text, _ in rows(4, [0])])
    assert call(capsys, "--model", tmp_path / "m", "--data", tmp_path / "same.csv", "--out", tmp_path / "two")[0] == 0
    assert measured(tmp_path / "two")["pearson"]["value"] == ""


def test_multilabel(tmp_path, capsys):
    """Columns in another order than the classes, or labels in one cell, are the same rows."""
    make(tmp_path / "m", "multilabel", ("b", "a", "c"))
    texts = [text for text, _ in rows(8, [0])]
    columns = table(tmp_path / "x.csv", [(t, i % 2, int(i > 3), 1) for i, t in enumerate(texts)], "sequence,a,b,c")
    cells = [(t, ";".join(n for n, one in (("c", 1), ("b", i > 3), ("a", i % 2)) if one)) for i, t in enumerate(texts)]
    for out, data, more in (
        ("one", columns, ["--label_column", "a", "b", "c"]),
        ("two", table(tmp_path / "y.csv", cells), []),
    ):
        assert call(capsys, "--model", tmp_path / "m", "--data", data, "--out", tmp_path / out, *more)[0] == 0
    found = [(tmp_path / out / "predictions.csv").read_text() for out in ("one", "two")]
    assert found[0] == found[1]
    assert [row["label"] for row in read(tmp_path / "one" / "predictions.csv")][:2] == ["c", "a;c"]


BAD = {
    "unknown label": ("--data cat.csv", "cat.csv, line 4: the model does not know label 'cat', want 'zebra', 'ant'"),
    "no label": ("--data none.csv", "none.csv, line 2: no label"),
    "no column": ("--data x.csv --label_column kind", "x.csv: no column 'kind'"),
    "two columns": ("--data x.csv --label_column label sequence", "label_column: got 'label', 'sequence', want one"),
    "short": ("--data short.csv", "short.csv, line 2: got a sequence of 3 bases, want at least 4"),
    "letter": ("--data letter.csv", "letter.csv, line 2: letter 'E' is no nucleotide code"),
    "no file": ("--data nope.csv", "nope.csv: no such file"),
    "no such split": ("--data x.csv --split test", "x.csv: no test split"),
    "no data": ("", "--data: got none"),
    "pretrained": ("--data x.csv --model pretrained", "--model: pretrained holds a pretrained model"),
    "no model": ("--data x.csv --model nope", "nope"),
    "for bases": ("--data x.csv --model bases", "--model: bases has an answer for each base"),
    "not empty": ("--data x.csv --out .", "--out: . is not empty"),
    "a file": ("--data x.csv --out x.csv", "--out: x.csv is a file"),
    "twice": ("--data x.csv --split test --split test", "--split: got it 2 times"),
    "batch size": ("--data x.csv --batch_size 0", "--batch_size: got 0, want at least 1"),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("bad")
    table(folder / "x.csv", rows(4, CLASSES))
    table(folder / "cat.csv", [*rows(2, CLASSES), ("ACGTACGT", "cat")])
    table(folder / "none.csv", [("ACGTACGT", "")])
    table(folder / "short.csv", [("ACG", "ant")])
    table(folder / "letter.csv", [("ACGEACGT", "ant")])
    tokenizer = NucleotideTokenizer()
    checkpoint.save(TitansDNA(TitansConfig.preset("tiny", variant="lmm")), folder / "pretrained", tokenizer)
    backbone = TitansDNA(TitansConfig.preset("tiny", variant="lmm"))
    save(FineTuned(backbone, Question("binary", CLASSES, "base"), tokenizer), folder / "bases")
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(bad_files, model, monkeypatch, capsys, case):
    monkeypatch.chdir(bad_files)
    arguments, message = BAD[case]
    before = {*bad_files.iterdir()}
    options = arguments.split()
    for flag, value in (("--model", model), ("--out", "ev")):
        options += [] if flag in options else [flag, value]
    status, said, err = call(capsys, *options)
    assert (status, said) == (2, "")
    assert message in err
    assert err.startswith("titans-dna: error: ")
    assert err.count("\n") == 1
    assert {*bad_files.iterdir()} == before


def test_values_that_are_not_defined_stay_out_of_the_json(model, tmp_path, capsys):
    table(tmp_path / "x.csv", rows(5, ["zebra"]))
    assert call(capsys, "--model", model, "--data", tmp_path / "x.csv", "--out", tmp_path / "ev")[0] == 0
    values = json.loads((tmp_path / "ev" / "results.json").read_text(), parse_constant=math.isnan)
    assert values["results"][0]["all"][0]["auroc"] is None


@torch.no_grad()
def test_rows_are_read_after_what_a_state_remembers(model, tmp_path, capsys):
    backbone = titans_dna.load(model).backbone
    before = "".join(np.random.default_rng(9).choice(list("ACGT"), 90))
    titans_dna.save_state(tmp_path / "before", titans_dna.remember(backbone, before).state, backbone)
    table(tmp_path / "x.csv", rows(12, ["ant", "zebra"]))
    for name, more in (("plain", ()), ("after", ("--state", tmp_path / "before"))):
        line = ("--model", model, "--data", tmp_path / "x.csv", "--out", tmp_path / name)
        assert call(capsys, *line, *more)[0] == 0
    plain, after = (read(tmp_path / name / "predictions.csv") for name in ("plain", "after"))
    assert "after what" in (tmp_path / "after" / "results.md").read_text()
    one = titans_dna.load(model)
    for (text, _), row, without in zip(rows(12, ["ant", "zebra"]), after, plain, strict=True):
        scores = []
        for strand in (text.encode(), reverse_complement(text.encode())):
            ids = torch.from_numpy(one.tokenizer.encode(before.encode() + strand)).long()[None]
            mean = one.backbone.features(ids)[0][:, len(before) :].mean(1)
            scores.append(one.scores(one.head.output(mean))[0])
        found = [float(row[f"probability_{name}"]) for name in CLASSES]
        np.testing.assert_allclose(found, np.mean(scores, axis=0), atol=1e-4)
        assert found != [float(without[f"probability_{name}"]) for name in CLASSES]
