"""Labels of bases from end to end: a genome whose features are rich in G and C."""

import csv
import io
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tasks.test_finetune import FAST, done, run
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.genome.intervals import Interval
from titans_dna.metrics import Estimate, evaluate_segments
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.tasks.fit import _smooth
from titans_dna.tasks.predict import IntervalWriter
from titans_dna.tasks.score import score_bases, smooth_rows, smoothed
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import NucleotideTokenizer


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """12,000 bases, features of 40 to 80 bases on either strand in a BED file."""
    folder = tmp_path_factory.mktemp("genome")
    rng = np.random.default_rng(0)
    letters = rng.choice(list("ACGT"), size=12_000, p=[0.45, 0.05, 0.05, 0.45])
    rows, start = [], 0
    while (start := start + int(rng.integers(40, 80))) < 11_900:
        end = start + int(rng.integers(40, 80))
        letters[start:end] = rng.choice(list("ACGT"), size=end - start, p=[0.05, 0.45, 0.45, 0.05])
        rows.append(f"chr\t{start}\t{end}\tisland\t0\t+")
        start = end
    (folder / "genome.fa").write_text(">chr\n" + "".join(letters) + "\n")
    (folder / "islands.bed").write_text("\n".join(rows) + "\n")
    return folder


def test_bases_from_end_to_end(tmp_path, genome):
    out = tmp_path / "run"
    done("--preset", "tiny", "--variant", "lmm", "--fasta", genome / "genome.fa", "--annotation", genome / "islands.bed",
         "--context", 128, "--block", 600, "--out", out, *FAST[2:], "--epochs", 6, "--baselines", "majority")  # fmt: skip
    values = json.loads((out / "results.json").read_text())
    assert values["label_map"] == {"none": 0, "island": 1}
    ours, majority = values["results"]
    said = (out / "results.md").read_text()
    assert "| model | within, bases | segment precision | segment recall |" in said
    assert ours["all"][0]["end_recall_30"] > 0.6 > 0 == majority["all"][0]["end_recall_30"]
    assert majority["model"] == "majority"
    assert ours["all"][0]["mcc"] > 0.6
    with open(out / "predictions.bed") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    islands = np.zeros(12_000, dtype=bool)
    for line in (genome / "islands.bed").read_text().splitlines():
        _, start, end, *_ = line.split("\t")
        islands[int(start) : int(end)] = True
    found = np.zeros_like(islands)
    for contig, start, end, name, score, strand in rows:
        assert (contig, name, strand) == ("chr", "island", ".")
        assert 500 <= int(score) <= 1000
        found[int(start) : int(end)] = True
    assert islands[found].mean() > 0.7
    written = tmp_path / "islands.bed"
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--model", str(out), "--fasta", str(genome / "genome.fa"), "--out", str(written)])
    assert ended.value.code == 0
    again = {tuple(line.split("\t")[:3]) for line in written.read_text().splitlines()}
    assert len(again) > len(rows)
    # Windows of whole contigs tile the genome as those of blocks of 600 do not, but most of the test features are there.
    assert sum(tuple(row[:3]) in again for row in rows) > len(rows) // 4
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--model", str(out), "--fasta", str(genome / "genome.fa"), "--out", str(tmp_path / "x.csv")])
    assert ended.value.code == 2


def test_runs_of_a_class_go_on_over_windows():
    out = io.StringIO()
    writer = IntervalWriter(out, ("none", "CDS+", "CDS-"))
    scores = np.eye(3)[[0, 1, 1, 1]] * 0.9
    writer.add(Interval("c", 10, 14), b"ACGT", scores)
    writer.add(Interval("c", 14, 18), b"ANGT", np.eye(3)[[1, 1, 2, 0]] * 0.5)
    writer.add(Interval("d", 18, 19), b"A", np.eye(3)[[2]])
    writer.close()
    assert out.getvalue() == "c\t11\t15\tCDS+\t800\t+\nc\t16\t17\tCDS-\t500\t-\nd\t18\t19\tCDS-\t1000\t-\n"
    assert writer.written == 3


def test_scores_of_bases_do_not_depend_on_company_or_pieces():
    torch.manual_seed(0)
    for variant in ("lmm", "mac", "mag", "mal"):
        backbone = TitansDNA(TitansConfig.preset("tiny", variant=variant))
        model = FineTuned(backbone, Question("binary", ("none", "x"), "base"), NucleotideTokenizer()).eval()
        torch.nn.init.normal_(model.head.output.weight)
        rng = np.random.default_rng(1)
        sequences = [bytes(rng.choice(list(b"ACGT"), size=n).astype(np.uint8)) for n in (100, 1, 37)]
        alone = [score_bases(model, [one])[0] for one in sequences]
        for options in (dict(batch_bases=1), dict(batch_bases=1000, piece=7), dict(batch_bases=100)):
            for one, other in zip(score_bases(model, sequences, **options), alone, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
        # The reverse complement has the same two halves of features, the other way round.
        half = backbone.config.width
        weight = model.head.output.weight
        weight.data = torch.cat([weight[:, half:], weight[:, :half]], dim=1)
        turned = score_bases(model, [reverse_complement(sequences[0])])[0]
        np.testing.assert_allclose(turned[::-1], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--annotation", "BED"], "--annotation: got it, or --fasta, alone"),
        (["--fasta", "FA", "--annotation", "BED", "--data", "x.csv"], "--data: got it with --annotation"),
        (["--fasta", "FA", "--annotation", "BED", "--features", "gene"], "gene"),
        (["--fasta", "FA", "--annotation", "BED", "--test_contigs", "chr"], "--valid_contigs"),
        (["--fasta", "FA", "--annotation", "FA"], "genome.fa"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, genome, change, message):
    given = [one.replace("BED", str(genome / "islands.bed")).replace("FA", str(genome / "genome.fa")) for one in change]
    status, _, errors = run("--preset", "tiny", "--out", tmp_path / "run", *given)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_smoothing_is_the_sum_over_all_paths():
    rng = np.random.default_rng(0)
    step = rng.random((3, 3)) + np.eye(3) * 3
    step /= step.sum(1, keepdims=True)
    question = Question(
        "multiclass", ("none", "x", "y"), "base", transitions=tuple(map(tuple, step.tolist())), trust=0.7
    )
    scores = rng.dirichlet(np.ones(3), (2, 6))
    there = np.array([[True] * 6, [True] * 4 + [False] * 2])
    found = smoothed(scores, there, question)
    shares = np.linalg.matrix_power(step, 10**6)[0]
    for row, length in ((0, 6), (1, 4)):
        want = np.zeros((length, 3))
        for path in itertools.product(range(3), repeat=length):
            weight = shares[path[0]] * np.prod([step[a, b] for a, b in itertools.pairwise(path)])
            weight *= np.prod([(scores[row, t, one] / shares[one]) ** 0.7 for t, one in enumerate(path)])
            want[range(length), path] += weight
        np.testing.assert_allclose(found[row, :length], want / want.sum(1, keepdims=True), atol=1e-9)
    alone = smoothed(scores[1:, :4], there[1:, :4], question)
    np.testing.assert_allclose(found[1, :4], alone[0], atol=1e-12)


def test_specks_go_and_segments_stay():
    question = Question("binary", ("none", "x"), "base", transitions=((0.99, 0.01), (0.01, 0.99)), trust=0.3)
    likely = np.full((1, 400), 0.1)
    likely[0, 50], likely[0, 200:300] = 0.9, 0.9
    likely[0, 250] = 0.1
    found = smoothed(np.stack([1 - likely, likely], axis=-1), np.ones((1, 400), bool), question)[0, :, 1] > 0.5
    assert found[203:297].all()
    assert not found[:197].any()
    assert not found[303:].any()


@pytest.mark.parametrize("transitions", [((0.5, 0.5),), ((0.5, 0.6), (0.5, 0.5)), ((1.0, 0.0), (0.5, 0.5))])
def test_transitions_that_are_none(transitions):
    with pytest.raises(ValueError, match=r"transitions: got .*, want 2 rows that add up to 1"):
        Question("binary", ("none", "x"), "base", transitions=transitions)


def test_the_price_of_a_change_is_chosen_for_bases_and_segments():
    """Specks that cost few bases but many segments go; where nothing is gained, nothing is smoothed."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(40) % 2, 100)

    class Some:
        def __init__(self, said):
            self.said = said

        def scores(self, model, split):
            return self.said

        def smoothed(self, scores, split, question):
            return smooth_rows([scores], question)[0]

        def metrics(self, scores, split):
            return {"mcc": Estimate(float((scores.argmax(1) == truth).mean()), 0, 0)}

        def loss(self, scores, split):
            return 0.0

        def segments(self, scores, split):
            return evaluate_segments(truth, scores.argmax(1), np.zeros(len(truth)))["segment_precision_30"]

    plain = Question("binary", ("none", "x"), "base")
    for specks in (0.0, 0.03):
        likely = np.where(rng.random(len(truth)) < specks, 0.8 - 0.6 * truth, 0.05 + 0.9 * truth)
        examples, model = Some(np.stack([1 - likely, likely], axis=1)), SimpleNamespace(question=plain)
        _smooth(model, examples, lambda found: found["mcc"], whole=True)
        assert bool(model.question.transitions) is (specks > 0)
        found = examples.smoothed(examples.said, "valid", model.question)
        assert examples.segments(found, "valid") == 1
