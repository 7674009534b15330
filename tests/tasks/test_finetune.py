"""The verb from end to end: every task, every way to tune, interruptions, wrong input."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, matthews_corrcoef

from tests.tasks.rows import write_rows, write_splits
from titans_dna.checkpoint import load, save
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.run import progress
from titans_dna.tasks import finetune as finetuning
from titans_dna.tasks.cnn import GenomicBenchmarksCNN
from titans_dna.tasks.fit import _Tuning, build, choose_trained, merge_adapters
from titans_dna.tasks.options import FinetuneOptions, FinetuneRunOptions, LabelOptions, TrainOptions, TuneOptions
from titans_dna.tasks.score import score_sequences
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

FAST = ["--baselines", "none", "--batch_size", "16", "--valid_every", "3", "--lr", "0.01"]


def command(*arguments):
    return [sys.executable, "-m", "titans_dna.cli", "finetune", *map(str, arguments)]


def run(*arguments):
    """In this process, whose imports are done: status, stdout, stderr."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
        main(["finetune", *map(str, arguments)])
    return ended.value.code, out.getvalue(), errors.getvalue()


def done(*arguments):
    status, out, errors = run(*arguments)
    assert status == 0, errors
    return out


def predictions(directory):
    with open(directory / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("model")
    save(TitansDNA(TitansConfig.preset("tiny", variant="lmm")), directory, NucleotideTokenizer())
    return directory


def test_from_scratch_to_a_table(tmp_path):
    data = write_splits(tmp_path / "data")
    out = tmp_path / "run"
    options = ["--preset", "tiny", "--variant", "mag", "--data", data, "--out", out, *FAST[2:], "--epochs", 6,
               "--baselines", "majority", "length", "kmers", "--seeds", 2, "--pool", "attention"]  # fmt: skip
    result = subprocess.run(command(*options), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "| Titans (ours) | 2 |" in result.stdout
    rows = predictions(out)
    assert len(rows) == 20
    with open(out / "results.csv", newline="") as file:
        results = list(csv.DictReader(file))
    best = json.loads((out / "results.json").read_text())["best"].removeprefix("seed-")
    ours = {row["metric"]: float(row["value"]) for row in results
            if row["model"] == "Titans (ours)" and row["seed"] == best and row["test_rows"] == "all"}  # fmt: skip
    labels, chosen = [row["label"] for row in rows], [row["prediction"] for row in rows]
    assert ours["accuracy"] == pytest.approx(accuracy_score(labels, chosen))
    assert ours["mcc"] == pytest.approx(matthews_corrcoef(labels, chosen))
    assert ours["accuracy"] > 0.9
    assert {row["model"] for row in results} == {"Titans (ours)", "majority", "length", "kmers"}
    assert {row["seed"] for row in results if row["model"] == "kmers"} == {"0"}
    for name in ("data_report.md", "confusion.png", "roc.png", "seed-1/metrics.csv", "results.md"):
        assert (out / name).stat().st_size > 0
    assert load(out).question.classes == ("a", "b")


def test_resumed_equals_uninterrupted(tmp_path, pretrained):
    data = write_splits(tmp_path / "data", train=64)
    options = [
        "--model",
        pretrained,
        "--data",
        data,
        *FAST,
        "--epochs",
        8,
        "--seeds",
        2,
        "--save_every",
        1,
        "--patience",
        0,
    ]
    done(*options, "--out", tmp_path / "whole")
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        command(*options, "--out", broken), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    checkpoint = broken / "seed-0" / "checkpoint.pt"
    until = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "continue with: titans-dna finetune --resume --out" in errors
    assert not (broken / "results.md").exists()
    done("--resume", "--out", broken)
    for seed in (0, 1):
        one, other = (
            load_file(tmp_path / name / f"seed-{seed}" / "finetuned.safetensors") for name in ("whole", "broken")
        )
        for name, weight in one.items():
            assert torch.equal(weight, other[name]), name
    assert (tmp_path / "whole/results.csv").read_text() == (broken / "results.csv").read_text()
    assert "seed 0: done before" in run("--resume", "--out", broken)[2]


def test_more_seeds_on_resuming_are_remembered(tmp_path):
    data = write_splits(tmp_path / "data", train=20, test=4)
    out = tmp_path / "run"
    done("--preset", "tiny", "--variant", "lmm", "--data", data, "--out", out, *FAST, "--epochs", 1)
    done("--resume", "--out", out, "--seeds", 2)
    done("--resume", "--out", out)
    assert json.loads((out / "results.json").read_text())["results"][0]["seeds"] == [0, 1]
    status, _, errors = run("--resume", "--out", out, "--preset", "mini", "--seeds", 3)
    assert status == 2
    assert "--model (or --preset) is not that of the run" in errors


def test_interrupted_in_the_last_step(tmp_path, monkeypatch):
    """The signal comes while the last validation runs: the next seed does not begin."""
    data = write_splits(tmp_path / "data", train=20, test=4)
    out = tmp_path / "run"
    validate = _Tuning.validate

    def interrupted(self, fabric):
        signal.raise_signal(signal.SIGINT)
        return validate(self, fabric)

    monkeypatch.setattr(_Tuning, "validate", interrupted)
    status, _, errors = run("--preset", "tiny", "--variant", "lmm", "--data", data, "--out", out, *FAST, "--epochs", 1,
                            "--valid_every", 1000, "--seeds", 2)  # fmt: skip
    assert status == 130, errors
    assert not (out / "seed-1").exists()
    monkeypatch.setattr(_Tuning, "validate", validate)
    done("--resume", "--out", out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_a_baseline(tmp_path, monkeypatch, number):
    data = write_splits(tmp_path / "data", train=20, test=4)
    out = tmp_path / "run"
    forward = GenomicBenchmarksCNN.forward
    monkeypatch.setattr(
        GenomicBenchmarksCNN, "forward", lambda self, ids: (signal.raise_signal(number), forward(self, ids))[1]
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
    status, _, errors = run("--preset", "tiny", "--variant", "lmm", "--data", data, "--out", out, *FAST[2:], "--epochs", 1,
                            "--baselines", "cnn")  # fmt: skip
    assert status == 128 + number, errors
    assert "continue with: titans-dna finetune --resume --out" in errors
    assert not (out / "results.md").exists()


@pytest.mark.parametrize("phase", ["SequenceJob", "_backbone", "say", "_score_baseline", "write_results"])
def test_interrupted_in_any_phase(tmp_path, monkeypatch, phase):
    """Before anything is written nothing is there; after that the run goes on, to the same table."""
    data = write_splits(tmp_path / "data", train=20, test=4)
    out, kept = tmp_path / "run", getattr(finetuning, phase)
    options = ["--preset", "tiny", "--variant", "lmm", "--data", data, "--out", out, *FAST[2:], "--epochs", 1,
               "--baselines", "majority"]  # fmt: skip

    def interrupted(*arguments):
        done = kept(*arguments)
        signal.raise_signal(signal.SIGTERM)
        return done

    monkeypatch.setattr(finetuning, phase, interrupted)
    status, _, errors = run(*options)
    monkeypatch.setattr(finetuning, phase, kept)
    assert status == 143
    if phase in ("SequenceJob", "_backbone"):
        assert errors == "titans-dna: interrupted; nothing was written\n"
        assert not out.exists()
    else:
        again = f"what is done is kept; continue with: titans-dna finetune --resume --out {out}"
        assert errors.splitlines()[-1] == f"titans-dna: interrupted; {again}"
        assert "| majority |" in done("--resume", "--out", out)


def test_a_run_that_diverges_says_so(tmp_path):
    data = write_splits(tmp_path / "data", train=20, test=4)
    status, _, errors = run("--preset", "tiny", "--variant", "lmm", "--data", data, "--out", tmp_path / "run", *FAST[:4],
                            "--lr", "1e30", "--clip", 0, "--valid_every", 2, "--epochs", 3)  # fmt: skip
    assert status == 2
    assert "--lr: got 1e+30, with which nothing finite came out" in errors


def test_a_frozen_backbone_has_no_dropout(pretrained):
    backbone = load(pretrained)
    options = FinetuneOptions(LabelOptions(data=("x",)), TuneOptions(model="x", tune="frozen"), TrainOptions(),
                              FinetuneRunOptions())  # fmt: skip
    examples = SimpleNamespace(question=Question("binary", ("a", "b")))
    model = build(options, examples, backbone, 0)
    assert model.training
    ids = torch.randint(7, 11, (2, 20))
    assert torch.equal(model.backbone.features(ids)[0], model.backbone.features(ids)[0])
    assert [name for name, one in model.named_parameters() if one.requires_grad] == [
        "head.output.weight",
        "head.output.bias",
    ]


def test_what_is_trained(tmp_path, pretrained):
    data = write_splits(tmp_path / "data")
    before = load_file(pretrained / "model.safetensors")
    for tune, same in (("full", False), ("frozen", True), ("lora", False), ("scratch", False)):
        out = tmp_path / tune
        done("--model", pretrained, "--data", data, "--out", out, *FAST, "--epochs", 2, "--tune", tune)
        after = load_file(out / "finetuned.safetensors")
        assert {f"backbone.{name}" for name in before if name != "head.weight"} == {
            name for name in after if name.startswith("backbone.")
        }
        name = "blocks.0.ffn.down.weight"
        assert torch.equal(before[name], after[f"backbone.{name}"]) == same, tune
        spared = torch.equal(before["embedding.weight"], after["backbone.embedding.weight"])
        assert spared == (tune in ("frozen", "lora")), tune


@pytest.mark.parametrize(
    ("task", "labels", "cell", "metric", "least"),
    [
        ("multiclass", ("a", "b", "c"), lambda label: label, "accuracy", 0.8),
        ("regression", ("a", "b"), lambda label: {"a": 101.5, "b": 100.0}[label], "pearson", 0.8),
        ("multilabel", ("a", "b"), lambda label: {"a": "x", "b": "x;y"}[label], "auroc", 0.8),
    ],
)
def test_tasks(tmp_path, task, labels, cell, metric, least):
    data = write_splits(tmp_path / "data", labels, train=96, cell=cell)
    out = tmp_path / "run"
    chosen = ["--task", task] if task == "multilabel" else []
    done("--preset", "tiny", "--variant", "lmm", "--data", data, "--out", out, *FAST, "--epochs", 12, *chosen)
    values = json.loads((out / "results.json").read_text())
    assert values["task"] == task
    assert values["results"][0]["all"][0][metric] > least


def test_without_a_test_split_the_table_says_so(tmp_path):
    rows = write_rows(tmp_path / "rows.csv", ("a", "b"), 40, 1)
    out = tmp_path / "run"
    done("--preset", "tiny", "--variant", "lmm", "--data", rows, "--out", out, *FAST, "--epochs", 1)
    assert "There is no test split" in (out / "results.md").read_text()
    assert len(predictions(out)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--data", "DATA/train.csv", "--test", "DATA/unseen.csv"], "unseen.csv, line 2: label 'z'"),
        (["--data", "DATA/one.csv"], "one.csv"),
        (["--data", "DATA/letters.csv"], "letters.csv, line 2: letter 'E' is no nucleotide code"),
        (["--data", "DATA/short.csv"], "short.csv, line 2: got a sequence of 3 bases, want at least 4"),
        (["--data", "DATA/empty.csv"], "empty.csv, line 2: got a sequence of 0 bases, want at least 4"),
        (["--data", "DATA/train.csv", "--label_column", "y"], "no column 'y'"),
        (["--model", "MODEL", "--preset", "tiny"], "--model: got"),
        (["--preset", "tiny", "--tune", "lora"], "--tune: got lora with --preset"),
        (["--preset", "gigantic"], "--preset: got 'gigantic'"),
        (["--epochs", "-1"], "--epochs: got -1.0, want at least 0"),
        (["--epochs", "1", "--steps", "9"], "--steps: got it with --epochs, want one of the two"),
        (["--pool", "median"], "--pool: got median"),
        (["--bins", "9"], "--bins: got 9 with --pool auto, want --pool bins"),
        (
            ["--optimizer", "muon", "--tune", "frozen"],
            "--optimizer: got muon with --tune frozen, want it with full or scratch",
        ),
        (["--muon_lr", "0.1"], "--muon_lr: got 0.1 with --optimizer adamw, want muon"),
        (["--ensemble", "101"], "--ensemble: got 101, want 0 to 100"),
        (["--margin", "-1"], "--margin: got -1, want 0 to 1048576"),
        (["--margin", "9"], "--margin: got 9 without --annotation, which it belongs to"),
        (
            ["--baselines", "svm"],
            "--baselines: got svm, want some of majority, length, kmers, positions, cnn, orf, or none",
        ),
        (["--out", "DATA"], "is not empty (empty.csv), want a new or an empty directory"),
        (["--out", "DATA/train.csv"], "train.csv is a file, want a directory"),
        (["--resume"], "holds no run of titans-dna finetune to resume"),
        (["--context", "64"], "--context: got it without --annotation"),
        (
            ["--fasta", "x.fa", "--annotation", "x.bed", "--data", "DATA", "--test", "y.csv"],
            "--test: got it with --annotation",
        ),
        (["--model", "nowhere"], "--model: nowhere: no such directory"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, pretrained, change, message):
    data = write_splits(tmp_path / "data", train=20, test=4)
    for name, row in (("unseen", "ACGTACGT,z"), ("letters", "ACGE,a"), ("short", "ACG,a"), ("empty", ",a")):
        (data / f"{name}.csv").write_text(f"sequence,label\n{row}\nACGTACGT,b\n")
    write_rows(data / "one.csv", ("a",), 4, 1)
    given = [str(one).replace("DATA", str(data)).replace("MODEL", str(pretrained)) for one in change]
    flags = [one for one in given if one.startswith("--")]
    base = {"--data": data, "--out": tmp_path / "run"}
    base |= {} if "--preset" in flags else {"--model": pretrained}
    full = [part for flag, value in base.items() if flag not in flags for part in (flag, value)]
    status, _, errors = run(*full, *given)
    assert status == 2, errors
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_model_of_another_tokeniser_is_named(tmp_path, pretrained):
    data = write_splits(tmp_path / "data", train=20, test=4)
    other = tmp_path / "other"
    shutil.copytree(pretrained, other)
    KmerTokenizer(3).save(other / "tokenizer.json")
    status, _, errors = run("--model", other, "--data", data, "--out", tmp_path / "run")
    assert status == 2
    assert "tokenizer.json: got" in errors
    assert {one.name for one in tmp_path.iterdir()} == {"data", "other"}


def test_lora_merges_to_the_same_scores(pretrained):
    backbone = load(pretrained)
    model = FineTuned(backbone, Question("binary", ("a", "b")), backbone.tokenizer)
    plain = score_sequences(model, [b"ACGTTGCAAC", b"GATTACA"])
    choose_trained(model, "lora", 4)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.head.output.weight)
    adapted = score_sequences(model, [b"ACGTTGCAAC", b"GATTACA"])
    merge_adapters(model)
    assert not any("lora" in name for name, _ in model.named_parameters())
    np.testing.assert_allclose(score_sequences(model, [b"ACGTTGCAAC", b"GATTACA"]), adapted, atol=1e-6)
    assert np.abs(adapted - plain).max() > 1e-3


def test_scoring_tells_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    config = TitansConfig.preset("tiny").replace(variant="lmm", vocab_size=16)
    model = FineTuned(TitansDNA(config), Question("binary", ("a", "b"), "sequence"), NucleotideTokenizer())
    score_sequences(model, [b"ACGT" * 10] * 4, batch_bases=40, batch_size=1, title="seed 0: scoring test")
    assert "seed 0: scoring test: 100%" in capsys.readouterr().err
    score_sequences(model, [b"ACGT" * 10] * 4)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "epoch", "steps"),
    [
        ({}, 2, 400),
        ({}, 100, 1000),
        ({}, 300, 1500),
        ({}, 700, 2100),
        ({"epochs": 9.0}, 700, 6300),
        ({"epochs": 3.0}, 2, 6),
        ({"epochs": 0.1}, 2, 1),
        ({"steps": 7}, 100, 7),
    ],
)
def test_few_rows_are_read_more_often(options, epoch, steps):
    assert TrainOptions(**options).most_steps(epoch) == steps


def test_a_variant_beside_a_list_of_mixers_is_refused(tmp_path):
    """And neither of the two passed over: of a preset that is a file, as of one that is named."""
    (tmp_path / "model.yaml").write_text("mixers: [conv, lmm]\nwidth: 16\nheads: 2\n")
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.tsv").write_text("sequence\tlabel\nACGTACGTAA\ta\nACGTTTTTAA\tb\n")
    given = ["--preset", tmp_path / "model.yaml", "--data", tmp_path, "--out", tmp_path / "out", *FAST]
    status, _, errors = run(*given, "--variant", "mac")
    assert status == 2
    assert errors.splitlines()[-1].endswith("--variant: got mac beside mixers conv lmm, want one of the two")
    assert not (tmp_path / "out").exists()
    assert "model: conv-lmm, " in run(*given, "--steps", 1)[2]
    assert load(tmp_path / "out").backbone.config.mixers == ("conv", "lmm")
