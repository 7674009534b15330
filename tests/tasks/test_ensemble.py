"""Several seeds as one model: its answer is the mean of theirs."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import titans_dna
from tests.tasks.rows import write_splits
from tests.tasks.test_finetune import FAST, done, predictions, pretrained, run
from titans_dna.checkpoint import load, save
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.reading.stream import padded
from titans_dna.tokens.vocabulary import NucleotideTokenizer

__all__ = ["pretrained"]


def test_an_ensemble_answers_with_the_mean_of_its_seeds(tmp_path, pretrained, capsys):
    """Whatever way it is asked, and after a run that was stopped between two seeds; Muon on the way."""
    data, out = write_splits(tmp_path / "data", train=40, test=8), tmp_path / "run"
    options = ["--model", pretrained, "--data", data, *FAST, "--epochs", 2, "--rc", "false", "--optimizer", "muon",
               "--out", out]  # fmt: skip
    status, _, errors = run(*options, "--seeds", 2, "--ensemble", 3)
    assert (status, errors) == (
        2,
        "titans-dna: error: --ensemble: got 3 with --seeds 2, want --seeds 1 or --ensemble 0\n",
    )
    assert "| Titans (ours), ensemble | 1 |" in done(*options, "--ensemble", 3)
    model, each = load(out), [load(out / f"seed-{seed}") for seed in range(3)]
    assert [len(one.members) for one in (model, *each)] == [3, 1, 1, 1]
    sequences = ["ACGTTGCA" * 5, "TTGACA", "GGGCCCATAT" * 9]
    wanted = np.mean([titans_dna.predict(one, sequences) for one in each], axis=0)
    assert np.array_equal(titans_dna.predict(model, sequences), wanted)
    assert not np.array_equal(titans_dna.predict(each[0], sequences), wanted)
    with open(data / "test.csv", newline="") as file:
        rows = titans_dna.predict(model, [row["sequence"] for row in csv.DictReader(file)])
    told = [[float(row[f"probability_{name}"]) for name in "ab"] for row in predictions(out)]
    assert np.allclose(rows, told, atol=1e-6)
    ids, widths = padded([one.encode() for one in sequences], NucleotideTokenizer())
    with torch.inference_mode():
        said = model(Batch(ids, widths, torch.zeros(3)))
    assert np.allclose(model.scores(said) / wanted, 1, atol=1e-4)
    save(model, tmp_path / "again")
    assert np.array_equal(titans_dna.predict(load(tmp_path / "again"), sequences), wanted)
    state = titans_dna.remember(model.backbone, "ACGT" * 20)
    with pytest.raises(ValueError, match="state: got one for 3 models whose mean is the answer, want None"):
        titans_dna.predict(model, sequences, state=state)
    titans_dna.save_state(tmp_path / "a.state", state.state, model.backbone)
    (tmp_path / "s.fa").write_text(">s\nACGTACGT\n")
    given = f"--state {tmp_path / 'a.state'} --out {tmp_path}"
    for line, flag in (
        (f"predict --model {out} --fasta {tmp_path / 's.fa'} {given}/p.csv", "--state"),
        (f"evaluate --model {out} --data {data / 'test.csv'} {given}/e", "--state"),
        (f"remember --model {out} --fasta {tmp_path / 's.fa'} --out {tmp_path}/b.state", "--model"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        assert ended.value.code == 2
        assert f"titans-dna: error: {flag}: {out} is 3 models" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".partial", ".csv", "b.state"))]
    weights = load_file(out / "finetuned.safetensors")
    last = load_file(out / "seed-2" / "finetuned.safetensors")["head.output.weight"]
    assert torch.equal(weights["others.1.head.output.weight"], last)
    values = json.loads((out / "finetuned.json").read_text())
    other = {**values["others"][0], "classes": ["a", "c"]}
    for others, said in (([], "others.0"), ([other], "others: got another question")):
        (out / "finetuned.json").write_text(json.dumps({**values, "others": others}))
        with pytest.raises(ValueError, match=said):
            load(out)


def test_an_ensemble_labels_bases_with_the_mean_of_its_seeds(tmp_path, pretrained):
    rng = np.random.default_rng(0)
    letters = "".join(rng.choice(list("ACGT"), 6000))
    (tmp_path / "g.fa").write_text(f">c\n{letters}\n")
    (tmp_path / "f.bed").write_text("".join(f"c\t{at}\t{at + 150}\tgene\n" for at in range(100, 5800, 400)))
    out = tmp_path / "run"
    done("--model", pretrained, "--annotation", tmp_path / "f.bed", "--fasta", tmp_path / "g.fa", "--block", 600,
         "--context", 200, "--steps", 2, "--baselines", "none", "--ensemble", 2, "--out", out)  # fmt: skip
    model, each = load(out), [load(out / f"seed-{seed}") for seed in range(2)]
    wanted = np.mean([titans_dna.predict(one, [letters[:900]])[0] for one in each], axis=0)
    assert np.array_equal(titans_dna.predict(model, [letters[:900]])[0], wanted)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_the_answer_to_other_questions_is_the_mean_too(task):
    """A regression's members have learned in units of their own."""
    torch.manual_seed(0)
    classes = ("x", "y", "z") if task == "multilabel" else ()
    members = []
    for number in range(3):
        question = Question(task, classes, both_strands=False, mean=float(number), deviation=1.0 + number)
        model = FineTuned(TitansDNA(TitansConfig.preset("tiny", variant="lmm")), question, NucleotideTokenizer())
        torch.nn.init.normal_(model.head.output.weight)
        members.append(model.double().eval())
    first = members[0]
    ids, widths = padded([b"ACGTTGCA" * 5, b"TTGACA"], NucleotideTokenizer())
    batch = Batch(ids, widths, torch.zeros(2))
    with torch.inference_mode():
        wanted = np.mean([one.scores(one(batch)) for one in members], axis=0)
        first.others = torch.nn.ModuleList(members[1:])
        np.testing.assert_allclose(first.scores(first(batch)), wanted, rtol=1e-9)
