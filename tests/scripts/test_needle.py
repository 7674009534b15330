"""Needle in a genome: the task is as described, branching changes nothing, an oracle has it all, chance is chance."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench_needle import main
from needle.background import read_background, stretches
from needle.gates import read_gates
from needle.models import build, load_model, save_model
from needle.options import (
    MODELS,
    NeedleOptions,
    NeedleRunOptions,
    NeedleTaskOptions,
    NeedleTrainOptions,
)
from needle.probe import make_test, probe
from needle.results import Row, bases, count, read_rows, table, wilson, words, write_rows
from needle.run import bench_needle
from needle.train import length_at, train
from needle.words import draw_pairs, training_rows
from titans_dna.nn.model import Output
from titans_dna.tokens.vocabulary import BASE, RESERVED, SEP

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_needle.py"
SMALL = NeedleOptions(
    NeedleRunOptions(out="unused"),
    NeedleTaskOptions(needles=(1, 4), rows=(3, 2), distances=(100, 250, 700), piece=200),
    NeedleTrainOptions(steps=3, train_length=256, batch=1, width=16, layers=1, heads=2, chunk=8),
)


@pytest.fixture(scope="module")
def background():
    return read_background()


@pytest.fixture(scope="module")
def planted(background):
    return make_test(np.random.default_rng(3), background.test, SMALL.task)


def occurrences(row):
    """(start, end, key, value) of every pair in a row, values of 4."""
    for start in np.flatnonzero(row == SEP):
        mark = start + int(np.flatnonzero(row[start:] == RESERVED)[0])
        yield start, mark + 5, bytes(row[start + 1 : mark]), bytes(row[mark + 1 : mark + 5])


def mismatches(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True)) if len(one) == len(other) else 99


class TestSequences:
    def test_background_is_cut_in_two(self, background, tmp_path):
        assert len(background.train) == len(background.test) == 24251
        letters = np.random.default_rng(0).choice(list("ACGT"), size=10_000)
        (tmp_path / "a.fa").write_text(f">a\n{''.join(letters[:6000])}\n>b\nNNNN{''.join(letters[6000:])}RY\n")
        found = read_background([str(tmp_path / "a.fa")])
        ids = np.array([BASE + "ACGT".index(letter) for letter in letters])
        assert np.array_equal(found.train, ids[:5000])
        assert np.array_equal(found.test, ids[5000:])

    def test_stretches_begin_again(self):
        assert stretches(np.arange(5), np.array([3, -1]), 4).tolist() == [[3, 4, 0, 1], [4, 0, 1, 2]]

    def test_pairs_are_apart_and_distractors_are_near(self):
        for seed in range(20):
            pairs = draw_pairs(np.random.default_rng(seed), [4, 4, 6] * 4, 4, [True, False, True] * 4)
            assert len(pairs) == 20
            keys = [pair.key.tolist() for pair in pairs]
            near = {(i, j) for i in range(20) for j in range(i) if mismatches(keys[i], keys[j]) <= 1}
            real, at = set(), 0
            for has in [True, False, True] * 4:
                if has:
                    real.add((at + 1, at))
                    assert pairs[at].value.tolist() != pairs[at + 1].value.tolist()
                at += 1 + has
            # Two distractors may come near each other; no needle comes near another one, or another one's key.
            assert real <= near
            assert all(mismatches(keys[i], keys[j]) == 1 for i, j in real)

    def test_more_needles_than_keys(self):
        with pytest.raises(ValueError, match="--needles: got more than fit"):
            draw_pairs(np.random.default_rng(0), [2] * 5, 4, [False] * 5)

    def test_training_rows(self, background):
        ids, asked = training_rows(np.random.default_rng(1), background.train, 20, 512, (4, 6), 4)
        assert ids.shape == asked.shape == (20, 512)
        assert asked.any(axis=1).sum() > 10
        for row, mask in zip(ids, asked, strict=True):
            known, wanted = {}, np.zeros(512, dtype=bool)
            for _, end, key, value in occurrences(row):
                assert known.get(key, value) == value
                wanted[end - 4 : end] = key in known
                known[key] = value
                assert len(key) in (4, 6)
            assert np.array_equal(mask, wanted)

    def test_training_reads_nothing_of_the_test_half(self, background):
        ids, _ = training_rows(np.random.default_rng(1), background.train, 10, 256, (4,), 4)
        whole = background.train.tobytes() * 2
        held_out = background.test.tobytes() * 2
        for row in ids:
            for part in bytes(row).split(bytes([SEP])):
                free = part[9:] if part != bytes(row).split(bytes([SEP]))[0] else part  # behind the pair: 4 + 1 + 4
                assert free in whole
                assert len(free) < 30 or free not in held_out

    def test_test_rows(self, planted, background):
        assert [len(planted.planted), len(planted.questions)] == [5, 3 + 2 * 4]
        for question in planted.questions:
            row = planted.planted[question.row]
            found = list(occurrences(row))
            assert found[-1][1] == len(row)
            asked = [(key, value) for _, _, key, value in found if key == bytes(question.pair.key)]
            assert asked == [(bytes(question.pair.key), bytes(question.pair.value))]
            near = [key for _, _, key, _ in found if mismatches(key, bytes(question.pair.key)) == 1]
            assert len(near) == question.distractor
            inside = np.zeros(len(row), dtype=bool)
            for start, end, _, _ in found:
                inside[start:end] = True
            assert np.array_equal(planted.inside[question.row], inside)
        assert {len(question.pair.key) for question in planted.questions} == {4, 6, 8}
        assert sum(question.distractor for question in planted.questions) == 5
        # Where nothing is planted, and after it, the row is one stretch of the background.
        length = planted.planted.shape[1]
        whole = stretches(background.test, planted.starts - length, length)
        assert np.array_equal(planted.planted[~planted.inside], whole[~planted.inside])

    @pytest.mark.parametrize(("steps", "longest"), [(10, 256), (100, 1024), (100, 700), (1, 128)])
    def test_lengths_grow(self, steps, longest):
        lengths = [length_at(step, steps, longest) for step in range(1, steps + 1)]
        assert lengths == sorted(lengths)
        assert lengths[-1] == longest or steps == 1
        assert steps < 100 or lengths.count(longest) >= 50


class Oracle:
    """Keeps every token, and looks the key up where it stood first."""

    def __call__(self, ids, state=None):
        seen = ids if state is None else torch.cat([state[0], ids], dim=1)
        logits = torch.zeros(*ids.shape, 12)
        before = seen.shape[1] - ids.shape[1]
        for row, all_of_it in enumerate(seen.tolist()):
            for at in range(ids.shape[1]):
                text = all_of_it[: before + at + 1]
                if RESERVED in text[-5:]:
                    logits[row, at, self.look_up(text)] = 1
        return Output(logits, logits, (seen,))

    @staticmethod
    def look_up(text):
        start = len(text) - 1 - text[::-1].index(SEP)
        word = text[start:]
        return next(
            (text[i + len(word)] for i in range(start) if text[i : i + len(word)] == word),
            BASE,
        )


class Dice:
    """Any base, whatever it is asked."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, ids, state=None):
        logits = torch.rand(*ids.shape, 12, generator=self.generator)
        return Output(logits, logits, (ids[:, -1:],))


class TestProbe:
    def test_oracle_and_chance(self, background):
        task = dataclasses.replace(SMALL.task, rows=(2, 12), distances=(40, 120))
        test = make_test(np.random.default_rng(4), background.test, task)
        for answers in probe(Oracle(), test, background.test, task.distances, 100):
            assert len(answers) == 2 + 48
            assert all(all(answer.right) for answer in answers)
        dice = [one for part in probe(Dice(), test, background.test, (5, 50, 70), 100) for one in part]
        share = np.mean([answer.right for answer in dice])
        assert abs(share - 0.25) < 0.07  # 600 bases

    @pytest.mark.parametrize("name", ["lmm", "mac", "mag", "mal", "transformer-window", "transformer-full"])
    def test_branches_leave_no_trace(self, name, planted, background):
        """Asked at three distances, the answers at the last are those of a stream that is asked there alone, in one call
        with the question written at the stream's end."""
        torch.manual_seed(0)
        model = build(name, SMALL).eval()
        *_, last = probe(model, planted, background.test, (100, 250, 700), 200)
        (alone,) = probe(model, planted, background.test, (700,), 1000)
        assert [answer.right for answer in last] == [answer.right for answer in alone]
        assert [answer.question for answer in last] == [answer.question for answer in alone]
        assert {answer.distance for answer in last} == {700}
        stream = stretches(background.test, planted.starts, 700)
        for answer in last[::3]:
            row, pair = answer.question.row, answer.question.pair
            ids = np.concatenate([planted.planted[row], stream[row], pair.tokens()])
            with torch.no_grad():
                logits = model(torch.from_numpy(ids).long()[None]).logits[0, -5:-1, BASE : BASE + 4]
            assert (logits.argmax(-1).numpy() + BASE == pair.value).tolist() == answer.right

    def test_the_state_is_left_as_it_was(self, planted, background):
        torch.manual_seed(0)
        model = build("mag", SMALL).eval()
        seen = []

        def watched(ids, state=None):
            out = model(ids, state)
            seen.append((ids.shape, out.logits))
            return out

        asked = list(probe(watched, planted, background.test, (100, 250), 200))
        stream = [logits for shape, logits in seen if shape[1] > 14]
        assert len(asked) == 2
        rows = np.concatenate([planted.planted, stretches(background.test, planted.starts, 250)], axis=1)
        with torch.no_grad():
            whole = model(torch.from_numpy(rows).long()).logits
        torch.testing.assert_close(torch.cat(stream, dim=1), whole, rtol=1e-4, atol=1e-4)


class TestModels:
    @pytest.mark.parametrize("name", MODELS)
    def test_learns_saves_and_loads(self, name, background, tmp_path):
        torch.manual_seed(0)
        model = build(name, SMALL)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        steps = train(model, background.train, SMALL, seed=0)
        assert [step.number for step in steps] == [1, 2, 3]
        assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
        save_model(model, tmp_path)
        again = load_model(name, SMALL, tmp_path).eval()
        ids = torch.randint(7, 11, (2, 50))
        assert torch.equal(again(ids).logits, model.eval()(ids).logits)
        (tmp_path / "model.safetensors").write_bytes(b"junk")
        with pytest.raises(ValueError, match=r"model\.safetensors: truncated or damaged"):
            load_model(name, SMALL, tmp_path)

    def test_no_memory_is_never_written(self, background):
        torch.manual_seed(0)
        model = build("lmm-no-memory", SMALL)
        train(model, background.train, SMALL, seed=0)
        (state,) = model.eval()(torch.randint(7, 11, (2, 100))).state
        for weight, first in zip(state.scan.memory, model.blocks[0].memory.initial_memory, strict=True):
            assert torch.equal(weight, first.expand_as(weight))
        (state,) = build("lmm", SMALL)(torch.randint(7, 11, (2, 100))).state
        assert not torch.equal(state.scan.memory[0][0], state.scan.memory[0][1])

    def test_gates(self, planted):
        """Gates that are set by hand are read back, at needles and elsewhere."""
        for name in ("lmm", "mac", "mag"):
            model = build(name, SMALL).eval()
            with torch.no_grad():
                for block in model.blocks:
                    block.memory.gates.weight.zero_()
                    block.memory.gates.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0, -7.0, -10.0]))
            found = read_gates(model, planted)
            assert found.rate_background == found.rate_needle == pytest.approx(0.5)
            # Forgetting is in proportion to writing, which is at half of its largest.
            assert found.forget_needle == pytest.approx((9.11e-4 + 4.54e-5) / 4, rel=1e-2)
            assert found.half_life == pytest.approx(2 * 0.6931 / 4.54e-5, rel=1e-2)
        assert read_gates(build("transformer-full", SMALL), planted) is None
        assert read_gates(build("lmm-no-forgetting", SMALL), planted).half_life == float("inf")


class TestResults:
    def test_wilson(self):
        """Against the interval of Agresti and Coull's example: 0 of 20, and 15 of 20."""
        assert wilson(0, 20)[1:3] == pytest.approx((0, 0.1611), abs=1e-4)
        assert wilson(15, 20)[:3] == pytest.approx((0.75, 0.5313, 0.8881), abs=1e-4)

    def test_counts(self, planted, background, tmp_path):
        answers = [one for part in probe(Oracle(), planted, background.test, (10, 30), 100) for one in part]
        rows = count("oracle", 0, answers)
        assert sum(row.words for row in rows) == 22
        assert words(rows).value == bases(rows).value == 1
        assert bases(rows).n == 88
        write_rows(tmp_path / "a.csv", rows)
        assert read_rows(tmp_path / "a.csv") == rows
        (tmp_path / "a.csv").write_text("model,seed\nlmm,x\n")
        with pytest.raises(ValueError, match="damaged"):
            read_rows(tmp_path / "a.csv")

    def test_table(self):
        rows = [Row("a", 0, 1, 4, 0, 1000, 2, 1, 8, 4), Row("a", 1, 1, 4, 0, 1000, 2, 1, 8, 8)]
        rows.append(Row("b", 0, 1, 4, 0, 4000, 1, 0, 4, 0))
        assert table(rows, "far", bases).splitlines() == [
            "| far | 1,000 | 4,000 |",
            "|---|---|---|",
            "| a | 75 (51 to 90) | – |",
            "| b | – | 0 (0 to 49) |",
        ]


BAD = {
    "no out": ("", "--out: got none"),
    "model": ("--out x --models lmm rnn", "--models: got 'rnn', want some of lmm, mac"),
    "model twice": ("--out x --models lmm lmm", "--models: got lmm lmm, want each name once"),
    "distances": ("--out x --distances 4000 1000", "--distances: got 4000 1000, want whole numbers"),
    "no number": ("--out x --needles one", "--needles: got one, want int"),
    "rows": ("--out x --rows 1 2", "--rows: got 1 2, want a number from 1 on for each of the 3 of --needles"),
    "heads": ("--out x --width 64 --heads 3", "--heads: got 3, want an even head width"),
    "length": ("--out x --train_length 100", "--train_length: got 100, want at least 256"),
    "no keys": ("--out x --key_lengths 1", "--needles: got more than fit"),
    "file": ("--out x --fasta nope.fa", "nope.fa: no such file"),
    "short": ("--out x --fasta short.fa", "--fasta: got 400 bases A, C, G and T, want at least 8,192"),
    "taken": ("--out full", "--out: full is not empty (a), want a new or an empty directory"),
    "nothing to resume": ("--out full --resume", "full holds no run of python scripts/bench_needle.py to resume"),
    "another run": ("--out run --resume --steps 7", "--resume: --steps: got 7, but the run to resume has 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.fa").write_text(">a\n" + "ACGT" * 100 + "\n")
    for name in ("full", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "run" / "run.yaml").write_text("steps: 5\n")
    arguments, wanted = BAD[case]
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("bench_needle.py: error: ")
    assert error.count("\n") == 1
    assert wanted in error
    assert not (tmp_path / "x").exists()


def test_from_end_to_end(tmp_path):
    """The verb trains, tests and reports; killed after a model, it goes on and leaves what is done alone."""
    out = tmp_path / "run"
    arguments = [
        sys.executable, str(SCRIPT), "--out", str(out), "--models", "lmm",
        "transformer-full", "--steps", "2", "--train_length", "256", "--batch", "1", "--width", "16", "--layers", "1",
        "--needles", "1", "2", "--rows", "2", "1", "--distances", "50", "300", "--full_limit", "100", "--threads", "1",
    ]  # fmt: skip
    first = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "lmm, seed 0: 300 bases later" in first.stderr
    assert "| transformer-full |" in first.stdout
    with open(out / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["model"], row["distance"]) for row in rows} == {
        ("lmm", "50"), ("lmm", "300"), ("transformer-full", "50"),
    }  # fmt: skip
    assert sum(int(row["words"]) for row in rows if row["model"] == "lmm") == 8
    about = json.loads((out / "lmm-0" / "about.json").read_text())
    assert about["half_life"] > 0
    assert (out / "needle.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "needle.md").read_text()
    assert "24,251 bases to train" in report
    weights = (out / "lmm-0" / "model.safetensors").stat().st_mtime_ns
    (out / "lmm-0" / "results.csv").unlink()
    before = (out / "results.csv").read_text()
    second = subprocess.run([*arguments, "--resume"], capture_output=True, text=True, check=True)
    assert "step" not in second.stderr
    assert (out / "lmm-0" / "model.safetensors").stat().st_mtime_ns == weights
    assert (out / "results.csv").read_text() == before


def test_equal_cpu_time(tmp_path):
    """With --seconds as many steps are done as a measurement says, and the report says both."""
    out = tmp_path / "run"
    train_options = dataclasses.replace(SMALL.train, seconds=0.4)
    run_options = NeedleRunOptions(out=str(out), models=("lmm-deep",), threads=1)
    bench_needle(dataclasses.replace(SMALL, run=run_options, train=train_options))
    about = json.loads((out / "lmm-deep-0" / "about.json").read_text())
    assert 1 <= about["steps"] < 400
    text = (out / "needle.md").read_text()
    assert "Training: 0.4 CPU seconds of 256 tokens a step" in text
    assert f"| {about['steps']} | " in text


def test_one_point():
    """`python scripts/needle.py`: one line of JSON, and one line for what there is not."""
    point = SCRIPT.with_name("needle.py")
    line = [sys.executable, str(point), "--steps", "2", "--distance", "300", "--rows", "1", "1", "1", "--json"]
    found = subprocess.run([*line, "--variant", "lmm-deep"], capture_output=True, text=True, check=True)
    values = json.loads(found.stdout)
    assert values["variant"] == "lmm-deep"
    assert values["bases"] == 4 * (1 + 4 + 16)
    assert 0 <= values["low"] <= values["accuracy"] <= values["high"] <= 1
    assert values["cpu_seconds"] > values["train_cpu_seconds"] > 0
    wrong = subprocess.run([*line, "--variant", "lstm"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].endswith(
        "--variant: got 'lstm', want one of lmm, mac, mag, mal, lmm-token-gates, "
        "lmm-silu-keys, lmm-no-price, lmm-no-momentum, lmm-no-forgetting, lmm-deep, lmm-no-memory, lmm-0.1.0, "
        "transformer-window, transformer-full"
    )
