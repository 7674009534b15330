"""`titans-dna benchmark`: every set found, one table, sets that cannot be read named, going on where it stopped."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from titans_dna.checkpoint import save
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.tasks import suite as benchmarking
from titans_dna.tasks.suite import SetResult, find_sets, load_published, note
from titans_dna.tokens.vocabulary import NucleotideTokenizer

SHARED = Path(__file__).parents[2] / "../shared/data"
TINY = "--preset tiny --variant lmm --epochs 0.1 --batch_size 8 --threads 1 --baselines majority length"
AT, GC = [0.4, 0.1, 0.1, 0.4], [0.1, 0.4, 0.4, 0.1]


def rows(count, seed):
    """Two classes of different composition; the first sequence is the same whatever the seed."""
    rng = np.random.default_rng(seed)
    made = ["".join(rng.choice(list("ACGT"), 12, p=GC if i % 2 else AT)) for i in range(count)]
    return list(zip(["ACGTTGCAACGA", *made[1:]], ["a", "b"] * count, strict=False))


def table(path, some, header="sequence,class"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{header}\n" + "".join(f"{','.join(row)}\n" for row in some))


def genomic_benchmarks(root):
    for split, count, seed in (("train", 20, 0), ("test", 8, 1)):
        table(root / "human_nontata_promoters" / f"{split}.csv", rows(count, seed))
        for i, (text, label) in enumerate(rows(count, seed + 5)):
            path = root / "own_set" / split / label / f"{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    table(root / "demo_human_or_worm" / "train.csv", [("ACGTACGT", "a"), ("ACGTACGG", "a")])


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def read(path):
    with open(path, newline="") as file:
        return {row["data_set"]: row for row in csv.DictReader(file)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    genomic_benchmarks(tmp_path / "gb")
    return tmp_path / "gb"


def test_a_suite_from_the_shell(root, tmp_path):
    command = [
        sys.executable,
        "-m",
        "titans_dna.cli",
        "benchmark",
        "--root",
        "gb",
        "--label_column",
        "class",
        *TINY.split(),
    ]
    done = subprocess.run([*command, "--seeds", "2", "--out", "b"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "b"
    found = read(out / "benchmark.csv")
    assert [*found] == ["demo_human_or_worm", "human_nontata_promoters", "own_set"]
    assert "train has one class only" in found["demo_human_or_worm"]["note"]
    assert found["human_nontata_promoters"]["note"] == "part of the set: not comparable"
    assert found["own_set"]["note"] == "not in the published table"
    for name in ("human_nontata_promoters", "own_set"):
        row, results = found[name], json.loads((out / name / "results.json").read_text())["results"]
        assert (row["train_rows"], row["test_rows"]) == ("20", "8")
        for run, kinds in zip(results, (("all", "unseen"),) * 3, strict=True):
            for kind in kinds:
                values = [one["accuracy"] for one in run[kind]]
                head = f"{run['model']} {kind}"
                assert float(row[f"{head} mean"]) == pytest.approx(sum(values) / len(values))
                assert len(values) == (2 if run["model"] == "Titans (ours)" else 1)
                spread = statistics.stdev(values) if len(values) > 1 else None
                assert row[f"{head} sd"] == "" if spread is None else float(row[f"{head} sd"]) == pytest.approx(spread)
    row = found["human_nontata_promoters"]
    assert (row["published_train_rows"], row["published_test_rows"]) == ("27097", "9034")
    assert (row["Caduceus-Ph (published)"], row["Titans LMM (published)"]) == ("0.946", "0.966")
    text = (out / "benchmark.md").read_text()
    assert text.split("\n\n")[0] in done.stdout
    assert "| (0.946) |" in text
    assert "best epoch on the test split" in text


def test_gue_goes_on_after_an_interruption(tmp_path, monkeypatch, capsys):
    """Stopped in the second of three sets; what was finished is not touched again, and more seeds are added to it."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("prom/prom_core_tata", "prom/prom_core_all", "other")):
        for split, count in (("train", 20), ("dev", 6), ("test", 8)):
            table(tmp_path / "GUE" / name / f"{split}.csv", rows(count, number), "sequence,label")
    kept, seen = benchmarking.finetune, []

    def stop(options, resume, **more):
        seen.append((Path(options.run.out).name, resume))
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return kept(options, resume=resume, **more)

    monkeypatch.setattr(benchmarking, "finetune", stop)
    base = ["--suite", "GUE", "--root", "GUE", *TINY.split(), "--out", "b"]
    status, _, err = call(capsys, *base)
    assert status == 143
    assert err.splitlines()[-1] == (
        "titans-dna: interrupted; what is done is kept; continue with: titans-dna benchmark --resume --out b"
    )
    status, _, err = call(capsys, *base)
    assert (status, err) == (
        2, "titans-dna: error: --out: b holds another run (benchmark.yaml); add --resume, or name another one\n"
    )  # fmt: skip
    status, _, err = call(capsys, "--resume", "--out", "b", "--lr", "0.1")
    assert (status, err) == (2, "titans-dna: error: --resume: --lr: got 0.1, but the run to resume has 0.0\n")

    status, said, err = call(capsys, "--resume", "--out", "b")
    assert status == 0, err
    assert seen == [("other", False), ("prom_core_all", False), ("prom_core_all", False), ("prom_core_tata", False)]
    found = read(tmp_path / "b" / "benchmark.csv")
    assert {row["metric"] for row in found.values()} == {"mcc"}
    assert found["prom/prom_core_tata"]["DNABERT-2 (published)"] == "0.7417"
    results = json.loads((tmp_path / "b" / "other" / "results.json").read_text())["results"]
    assert float(found["other"]["Titans (ours) all mean"]) == pytest.approx(results[0]["all"][0]["mcc"])

    status, _, said = call(capsys, "--resume", "--out", "b", "--seeds", "2", "--only", "other")
    assert (status, seen[4:]) == (0, [("other", True)])
    assert "seed 0: done before" in said
    assert read(tmp_path / "b" / "benchmark.csv")["other"]["Titans (ours) all sd"] != ""


def test_sets_are_found_one_or_two_levels_deep(root):
    assert [*find_sets(str(root.parent), ())] == [
        "gb/demo_human_or_worm", "gb/human_nontata_promoters", "gb/own_set"
    ]  # fmt: skip
    assert find_sets(str(root.parent), ("own_set",)) == {"gb/own_set": root / "own_set"}
    assert [*find_sets(str(root), ("own_set", "demo_human_or_worm"))] == ["demo_human_or_worm", "own_set"]


def test_whether_the_rows_are_the_published_ones():
    published = load_published("genomic_benchmarks")
    for train, test, wanted in (
        (20843, 6948, "complete set"),
        (20842, 6948, "part of the set: not comparable"),
        (20843, 196, "part of the set: not comparable"),
    ):
        rows = {"train": train - 2000, "valid": 2000, "test": test}
        assert note(published, SetResult("human_enhancers_cohn", {"rows": rows})) == wanted
    gue = load_published("GUE")
    assert (gue.key("GUE/tf/0"), gue.key("prom/prom_300_all"), gue.key("0"), gue.key("x")) == (
        "tf/0", "prom_300_all", None, None
    )  # fmt: skip


@pytest.mark.parametrize("suite", ["genomic_benchmarks", "GUE"])
def test_published_figures_are_of_known_sets(suite):
    published = load_published(suite)
    assert len({model.name for model in published.models}) == len(published.models)
    for model in published.models:
        assert model.scores.keys() <= published.sizes.keys()
        assert all(0 < value < 1 for value in model.scores.values())


def test_published_figures_add_up():
    """To the means over groups of sets that the same paper prints, cut off after two digits of a percentage."""
    scores = {model.name: model.scores for model in load_published("GUE").models}
    for model, group, mean in (
        ("DNABERT-2", "H", 55.98),
        ("DNABERT-2", "mouse/", 67.99),
        ("DNABERT-2", "tf/", 70.10),
        ("DNABERT-2", "prom_300", 84.21),
        ("DNABERT-2", "prom_core", 70.52),
        ("NT-2500M-multi", "H", 58.06),
        ("NT-2500M-multi", "prom_300", 88.14),
        ("NT-2500M-multi", "prom_core", 71.62),
    ):
        values = [100 * value for name, value in scores[model].items() if name.startswith(group)]
        assert sum(values) / len(values) == pytest.approx(mean, abs=0.01), (model, group)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the repository")
def test_the_shared_sets():
    """GUE's are whole, those of GenomicBenchmarks are parts."""
    published = load_published("GUE")
    for name, path in find_sets(str(SHARED / "gue"), ()).items():
        key = published.key(name)
        assert key is not None
        assert any(model.scores.get(key) for model in published.models)
        assert (path / "test.csv.gz").is_file()
    assert len(find_sets(str(SHARED / "genomic_benchmarks"), ())) == 8


BAD = {
    "no root": ("--root nope", "--root: nope: no such directory"),
    "a file": ("--root gb/own.txt", "--root: gb/own.txt is a file"),
    "no sets": ("--root empty", "--root: empty holds no data sets"),
    "only": ("--root gb --only x own_set", "--only: 'x' is not in gb, which holds demo_human_or_worm,"),
    "gue without root": ("--suite GUE", "--root: got none, want the directory that holds the sets of GUE"),
    "suite": ("--suite BEND --root gb", "--suite: got BEND, want one of 'genomic_benchmarks', 'GUE'"),
    "no column": (
        "--root gb --only human_nontata_promoters",
        "--root: none of 1 data sets can be used",
    ),
    "one class": ("--root gb --only demo_human_or_worm --label_column class", "train has one class only, 'a'"),
    "no such model": ("--root gb --model nope", "nope"),
    "fine-tuned": ("--root gb --model tuned", "--model: tuned holds a fine-tuned model"),
    "two models": ("--root gb --model tuned --preset tiny", "--model: got it and --preset, want one of the two"),
    "nothing to resume": ("--root gb --resume", "--resume: b holds no run of titans-dna benchmark to resume"),
    "not empty": ("--root gb --out gb", "--out: gb is not empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(root, capsys, case):
    (root.parent / "empty").mkdir()
    (root / "own.txt").write_text("x")
    question = Question("binary", ("a", "b"))
    backbone = TitansDNA(TitansConfig.preset("tiny", variant="lmm"))
    torch.manual_seed(0)
    save(FineTuned(backbone, question, NucleotideTokenizer()), "tuned")
    before = {*root.parent.rglob("*")}
    arguments, message = BAD[case]
    options = arguments.split()
    options += [] if "--out" in options else ["--out", "b"]
    options += [] if "--model" in options else ["--preset", "tiny"]
    status, _, err = call(capsys, *options)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert {*root.parent.rglob("*")} == before
