"""The long-context benchmark at lengths of no interest: its files, its limits, going on, and what it refuses."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bench_long_context
from bench_long_context import Bench, parse
from long_context import check
from long_context.child import follow
from long_context.report import judge
from long_context.rows import make_row, these_settings
from titans_dna.nn.model import Output

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = ["--preset", "tiny", "--piece", "128", "--threads", "1"]


def table(folder):
    with (folder / "long_context.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def here(monkeypatch):
    """The script's run in this process, and how often it checked; what it measures has processes of its own all the same."""
    checks = []
    monkeypatch.setattr(bench_long_context, "check", lambda *arguments: checks.append(arguments) or "")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench_long_context.py", *map(str, arguments)])
        return Bench(parse()).run(), len(checks)

    return run


def test_three_files_and_going_on(tmp_path, here):
    asked = ["--out", tmp_path, "--passes", "forward", "--repeats", "1", *SMALL]
    command = [sys.executable, SCRIPTS / "bench_long_context.py", *asked, "--models", "lmm", "full", "--lengths", "384"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not measured: Forward, ours, LMM: peak at 16M" in done.stdout
    rows = table(tmp_path)
    assert [(row["model"], row["length"]) for row in rows] == [("lmm", "384"), ("full", "384")]
    for row in rows:
        assert (row["status"], row["finite"], row["repeats"], row["threads"]) == ("ok", "yes", "1", "1")
        assert float(row["tokens_per_second"]) > 0
        assert float(row["peak_mb"]) > float(row["peak_over_baseline_mb"]) > 0
    report = (tmp_path / "long_context.md").read_text()
    assert report.count("| ours, LMM |") == report.count("| Transformer++, full attention |") == 2
    assert (tmp_path / "long_context.png").read_bytes()[1:4] == b"PNG"

    path = tmp_path / "long_context.csv"
    path.write_text(path.read_text().replace(rows[0]["tokens_per_second"], "123456.0"))  # kept, not measured again
    assert here(*asked, "--models", "lmm", "full", "--lengths", "384") == (0, 0)
    assert here(*asked, "--models", "lmm", "--lengths", "512", "384", "256") == (0, 1)
    after = {(row["model"], row["length"]): row["tokens_per_second"] for row in table(tmp_path)}
    assert set(after) == {("full", "384"), *(("lmm", length) for length in ("256", "384", "512"))}
    assert after["lmm", "384"] == "123456.0"

    with pytest.raises(ValueError, match=r"piece=128.* want the same, another --out, or --fresh"):
        here(*asked, "--piece", "64")


def test_backward_in_pieces_stops_at_a_limit(tmp_path, here):
    asked = ["--out", tmp_path, "--models", "lmm", "--passes", "backward", "--repeats", "1", *SMALL]
    here(*asked, "--lengths", "256", "512", "--memory", "0.001")
    assert [row["status"] for row in table(tmp_path)] == ["over 0.001 GB"] * 2
    assert "| ours, LMM | over 0.001 GB | over 0.001 GB |" in (tmp_path / "long_context.md").read_text()
    here(*asked, "--lengths", "256")  # another limit: tried again
    assert {row["length"]: row["status"] for row in table(tmp_path)} == {"256": "ok", "512": "over 0.001 GB"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "argument --out: got none, want a directory"),
        (["--out", "x", "--lengths", "4q"], "argument --lengths: got '4q', want bases, such as 4096, 4k or 1M"),
        (["--out", "x", "--piece", "0"], "argument --piece: got '0', want a whole number, at least 1"),
        (["--out", "x", "--seconds", "nan"], "argument --seconds: got 'nan', want a number above 0"),
    ],
)
def test_bad_flags_are_named(arguments, message, here, capsys):
    with pytest.raises(SystemExit) as stop:
        here(*arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"bench_long_context.py: error: {message}\n"


def test_what_is_no_table_is_refused(tmp_path, here):
    (tmp_path / "long_context.csv").write_text("model,pass\nlmm,forward\n")
    with pytest.raises(ValueError, match="not a table of this program; want another --out, or --fresh"):
        here("--out", tmp_path)


CHILD = """
import json, sys, time
print(json.dumps({"start": True}), flush=True)
print("a library speaks")
print(json.dumps({"length": 8, "seconds": 1}), flush=True)
HOLD
"""


@pytest.mark.parametrize(
    ("hold", "last"),
    [
        ("held = bytearray(b'x' * (300 << 20)); time.sleep(60)", {"over": "memory"}),
        ("print(json.dumps({'length': 9, 'peak': 201}), flush=True); time.sleep(60)", {"over": "memory"}),
        ("time.sleep(60)", {"over": "seconds"}),
        ("raise SystemExit('out of luck')", {"failed": "out of luck"}),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {"failed": f"ended with status -{signal.SIGKILL}"}),
        ("", {"length": 8, "seconds": 1}),
    ],
)
def test_a_process_is_ended_at_its_limits(hold, last):
    found = list(follow([sys.executable, "-c", CHILD.replace("HOLD", hold)], memory=200, seconds=1))
    assert found[0] == {"length": 8, "seconds": 1}
    assert found[-1] == last


def test_goals_are_judged_by_their_figures():
    settings = these_settings("small", 8192, "cpu", 1)

    def row(model, pass_, length, rate, peak=100.0):
        mark = {"seconds": length / rate, "peak": peak, "baseline": 0.0, "parameters": 1, "finite": True}
        made = make_row((model, pass_, length), [mark], "ok", (16, 300), settings)
        return made.key, made

    rows = dict(
        [
            row("lmm", "forward", 16 << 10, 1000), row("lmm", "forward", 1 << 20, 960),
            row("mag", "forward", 16 << 10, 1000), row("mag", "forward", 1 << 20, 940),
            row("lmm", "forward", 64 << 10, 1000, 100), row("lmm", "forward", 16 << 20, 1000, 104),
            row("mag", "forward", 64 << 10, 1000, 100), row("mag", "forward", 16 << 20, 1000, 106),
            row("mac", "backward", 2048, 600), row("peer-mac", "backward", 2048, 100),
            row("mac", "backward", 4096, 600), row("peer-mac", "backward", 4096, 110),
        ]
    )  # fmt: skip
    goals = judge(rows)
    said = {line.split(": ", 1)[1].split(" (")[0]: line.split(":")[0] for line in goals}
    assert said["Forward, ours, LMM: tokens a second at 1M within 5 % of 16k"] == "met"
    assert said["Forward, ours, MAG: tokens a second at 1M within 5 % of 16k"] == "missed"
    assert said["Forward, ours, LMM: peak at 16M within 5 % of 64k"] == "met"
    assert said["Forward, ours, MAG: peak at 16M within 5 % of 64k"] == "missed"
    assert said["Forward, ours, MAL: peak at 16M within 5 % of 64k"] == "not measured"
    assert goals[-2] == (
        "met: Forward and backward, our MAC beside titans-pytorch's: at least 5 times at 2,048 (6.00 times)"
    )
    assert goals[-1] == "missed: The same, growing with length from 2,048 on (2k: 6.00, 4k: 5.45)"


def test_a_wrong_answer_is_not_measured(monkeypatch):
    class Forgetful(torch.nn.Module):
        """Looks one token back, but not over the start of a call."""

        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(12, 12)

        def forward(self, ids, state=None):
            x = self.embedding(ids)
            x = x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
            return Output(x, x, ())

    monkeypatch.setattr(check, "load", lambda name, preset: Forgetful)
    assert check.check(["lmm"], "tiny").startswith("lmm: streamed logits differ from those of one call by")
    monkeypatch.setattr(check, "streaming_error", lambda model, ids: 0.0)
    assert check.check(["lmm"], "tiny").startswith("lmm: the gradient in pieces differs from the plain one by")
    assert check.check(["peer-mac"], "tiny") == ""
