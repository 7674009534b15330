"""A calibration beside a real process, and the verb."""

import json
import math
import shlex
import subprocess
import sys

import pytest
import torch
import yaml

from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA, map_state
from titans_dna.planning import calibrate as calibration
from titans_dna.planning import run as planning
from titans_dna.planning.calibrate import bytes_a_parameter, calibrate, rough
from titans_dna.planning.estimate import Settings, estimate
from titans_dna.planning.probe import machine_memory

# What titans-dna pretrain does to a window, on random bases: bytes that it takes beyond a first small step.
REAL = """
import torch
torch.set_num_threads(1)
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.planning.probe import Peak
from titans_dna.train.loss import loss_sums
from titans_dna.train.piecewise import piecewise_loss
model = TitansDNA(TitansConfig.preset("tiny", variant="lmm"))
optimiser = torch.optim.AdamW(model.parameters())
def step(tokens, piece):
    ids, weight = torch.randint(4, 8, (1, tokens + 1)), torch.ones(1, tokens + 1)
    def of_piece(logits, at):
        return loss_sums(logits, ids[:, 1:][:, at], weight[:, 1:][:, at], torch.ones(12))
    piecewise_loss(model, ids[:, :-1], of_piece, piece)[0].weighted.backward()
    optimiser.step()
    return Peak("cpu").highest()
step(64, 32)
print(-step(64, 32) + step(8192, 4096))
"""


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.mark.skipif(sys.platform != "linux", reason="a measurement in a process of its own takes long elsewhere")
def test_a_prediction_beside_what_a_real_process_takes():
    known = calibrate(TitansConfig.preset("tiny", variant="lmm"), ["pieces"], 2048, "cpu", 1, seconds=100)
    expected = estimate(known, Settings(8192, 4096, 1, 1, False))
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True)
    assert expected.training - expected.process == pytest.approx(int(done.stdout), rel=0.35)
    assert (expected.training - expected.process - int(done.stdout)) / expected.training < 0.2
    assert 1e-6 < known.modes["pieces"].seconds < 1e-2
    assert known.state == state_bytes(TitansConfig.preset("tiny", variant="lmm"), 512)


def state_bytes(config, tokens):
    """Logical bytes of the tensors, one that stands twice counted once."""
    with torch.no_grad():
        state = TitansDNA(config)(torch.zeros(1, tokens, dtype=torch.long)).state
    sizes = {}

    def note(x):
        sizes[id(x)] = x.nbytes
        return x

    map_state(note, state)
    return sum(sizes.values())


def test_the_table_knows_the_state_and_no_time():
    config = TitansConfig.preset("small", variant="lmm")
    known = rough(config, ["whole", "pieces", "again", "read"], "cpu")
    assert known.state == state_bytes(config, 64)
    assert known.modes["again"].token < known.modes["pieces"].token
    assert bytes_a_parameter("read") == 4
    assert math.isnan(estimate(known, Settings(2**20, 8192, 1, 1, False)).bases_per_second)


MIXED = TitansConfig.preset(
    "tiny", layers=3, mixers=["conv", "conv", "mag"], conv_dilations=[1, 3], stem=4, kmers=[3, 7], counts=[4]
)


@pytest.mark.parametrize(
    "config", [MIXED, TitansConfig.preset("tiny", layers=3, restart=64)], ids=["mixers", "restart"]
)
def test_blocks_that_differ_are_measured_together(config):
    known = calibrate(config, ["whole", "again"], 512, "cpu", 1, seconds=1)
    assert known.state == state_bytes(config, 512)
    assert known.parameters == config.parameters
    assert known.modes["again"].seconds > 0
    assert rough(config, ["whole"], "cpu").state == state_bytes(config, 64)


@pytest.mark.parametrize(
    "flags",
    [
        "--preset small --variant mag",
        "--preset small --model.mixers conv mal --model.layers 2",
        "--preset mini --model.layers 6 --model.stem 3",
        "--preset base --devices 2",
        "--preset mini --model.mixers --model.conv_dilations --variant mac",
        "--preset tiny --variant lmm",
        "--preset small-0.1.0",
    ],
)
def test_the_command_of_a_plan_makes_the_model_that_was_planned(capsys, tmp_path, flags):
    given = ["plan", *flags.split(), "--length", "64k", "--no_calibration", "--memory", "80GB"]
    line = call(capsys, *given)[1].splitlines()[-1].partition(": titans-dna ")[2]
    planned = yaml.safe_load(call(capsys, *given, "--print_config")[1])["model"]
    words = line.replace("GENOME", "lambda").replace("DIR", str(tmp_path / "run")).split()
    made = yaml.safe_load(call(capsys, *words, "--print_config")[1])["model"]
    assert made == planned


def test_the_command_of_a_plan_has_the_mixers(capsys):
    status, out, _ = call(
        capsys, "plan", "--preset", "tiny", "--length", "1Mi", "--no_calibration", "--model.mixers", "conv", "lmm"
    )
    assert status == 0
    assert "model: tiny, conv-lmm, " in out
    line = next(line for line in out.splitlines() if "titans-dna pretrain" in line)
    assert "--preset tiny --model.mixers conv lmm --context 1048576" in line
    words = shlex.split(line[line.index("pretrain") :].replace("GENOME", "lambda"))
    status, out, _ = call(capsys, *words, "--print_config")  # it can be run
    assert status == 0
    assert "- conv\n  - lmm\n" in out


def test_the_verb_in_words_and_as_json(capsys):
    status, out, _ = call(
        capsys, "plan", "--preset", "tiny", "--length", "1Mi", "--no_calibration", "--memory", "80GB",
        "--accelerator", "cuda", "--devices", 4, "--model.chunk", 32, "--variant", "mac",
    )  # fmt: skip
    assert status == 0
    assert "not measured" in out
    assert "extrapolated to a GPU" in out or "from a table" in out
    assert "--variant mac --model.chunk 32 --context 1048576 --batch_size 1" in out
    assert "--devices 4 --strategy ddp" in out
    status, out, _ = call(capsys, "plan", "--preset", "tiny", "--length", "1Mi", "--no_calibration", "--json")
    plan = json.loads(out)
    assert status == 0
    assert plan["fits"] is True
    assert plan["memory_bytes"]["peak"] <= plan["memory_bytes"]["limit"]
    assert plan["seconds_per_step"] is None


def test_what_does_not_fit_ends_with_1_and_says_what_it_needs(capsys):
    status, out, _ = call(capsys, "plan", "--preset", "base", "--length", "1M", "--no_calibration", "--memory", "1GB")
    assert status == 1
    assert "MORE THAN 900 MB" in out
    assert "nothing fits: these are the smallest settings, and need" in out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "--length: got none, want the bases of a window, such as 1M"),
        (["--length", "1X"], "--length: got '1X', want a number of bases"),
        (["--length", "1M", "--memory", "much"], "--memory: got 'much', want an amount of memory"),
        (["--length", "1M", "--piece", "big"], "--piece: got 'big', want a number of bases"),
        (["--length", "1M", "--bases", "0"], "--bases: got '0', want a number of bases"),
        (["--length", "1M", "--devices", "0"], "--devices: got 0, want at least 1"),
        (["--length", "1M", "--preset", "huge"], "preset: got 'huge', want one of tiny"),
        (["--length", "1M", "--model.heads", "3"], "--model.heads: got 3, want an even head width"),
        (["--length", "1M", "--pass", "write"], "--pass: got write, want one of"),
        (["--length", "1M", "--length", "2M"], "--length: got it 2 times, want it once"),
        (["--length", "1M", "--pass", "read", "--activation_checkpointing", "yes"], "--activation_checkpointing: got"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, wanted):
    status, out, err = call(capsys, "plan", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("titans-dna: error: ")
    assert wanted in err
    assert err.count("\n") == 1


def test_the_machine_has_memory():
    available, total = machine_memory("cpu")
    assert 0 < available <= total


def test_a_calibration_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(calibration, "LONGEST", 0.5)
    with pytest.raises(RuntimeError, match=r"not done after 0 s, which takes 40 s or so"):
        calibrate(TitansConfig.preset("tiny").replace(vocab_size=16), ["whole"], 4096, "cpu", 1)


@pytest.mark.parametrize(
    ("taken", "threads", "busy"), [(0.4, 2, False), (1.2, 2, True), (1.2, 1, False), (2.1, 0, True)]
)
def test_a_busy_machine_is_said(monkeypatch, taken, threads, busy):
    monkeypatch.setattr(planning.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(planning.os, "getloadavg", lambda: (taken, 0, 0))
    assert bool(planning.load(threads)) is busy
