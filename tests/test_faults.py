"""What goes wrong around a run: no room to write, a reader that leaves, a second process, a signal at any moment. Each is one
line, what was there stands, nothing half-written is left, and afterwards the run goes on to what it would have been."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from titans_dna import checkpoint
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import NucleotideTokenizer

SMALL = ["--preset", "tiny", "--variant", "lmm"]
RUNS = {
    "embed": "embed --model model --fasta g.fa --out out.npy",
    "embed each base": "embed --model model --fasta g.fa --pool none --out out.npy",
    "embed to parquet": "embed --model model --fasta g.fa --out out.parquet",
    "embed to h5": "embed --model model --fasta g.fa --out out.h5",
    "remember": "remember --model model --fasta g.fa --track out.bedgraph --bin 10 --out out.state",
    "predict": "predict --model tuned --fasta g.fa --out out.csv",
    "predict bases": "predict --model bases --fasta g.fa --out out.bed",
    "evaluate": "evaluate --model tuned --data d.csv --out out",
    "context": "context --model model --fasta g.fa --contexts 64 128 --places 4 --target 32 --out out",
    "pretrain": "pretrain --fasta g.fa --preset tiny --variant lmm --context 64 --steps 4 --block 100 --valid_every 2 "
    "--save_every 2 --out out",
    "finetune": "finetune --preset tiny --variant lmm --data d.csv --epochs 2 --baselines kmers --threads 1 --out out",
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("given"), random.Random(0)
    torch.manual_seed(0)
    backbone = TitansDNA(TitansConfig.preset("tiny", variant="lmm")).eval()
    checkpoint.save(backbone, folder / "model", NucleotideTokenizer())
    for name, unit in (("tuned", "sequence"), ("bases", "base")):
        question = Question("binary", ("0", "1"), unit)
        checkpoint.save(FineTuned(backbone, question, NucleotideTokenizer()), folder / name)
    texts = ["".join(draw.choices("ACGT", k=n)) for n in (700, 500, 300, 200)]
    (folder / "g.fa").write_text("".join(f">c{i}\n{text}\n" for i, text in enumerate(texts)))
    rows = ["".join(draw.choices("ACGT", k=40)) for _ in range(60)]
    (folder / "d.csv").write_text("sequence,label\n" + "".join(f"{row},{i % 2}\n" for i, row in enumerate(rows)))
    return folder


@pytest.fixture
def place(given, tmp_path, monkeypatch):
    shutil.copytree(given, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@contextmanager
def room(size):
    """No file may grow beyond `size` bytes: what a full disk does, in this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.err


def written(place):
    """Files of a run, but for those whose bytes are times of day."""
    spared = ("given", "events.out", "metrics.csv", "checkpoint.pt", "hparams", ".lock", "loss.png", "README.md")
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and "out" in path.relative_to(place).parts[0]]
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in files if not any(name in path.name for name in spared)
    }  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_no_room_is_one_line_and_with_room_it_goes_on(place, capsys, name, tmp_path):
    command = RUNS[name].split()
    assert run(capsys, *command)[0] == 0
    wanted = written(place)
    largest = max(path.stat().st_size for path in place.rglob("*") if path.is_file() and "out" in str(path))
    stopped = 0
    for size in (0, 100, largest // 8, largest // 2, largest - 1):
        for path in place.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with room(size):
            status, said = run(capsys, *command)
        assert not [*place.rglob("*.tmp")]
        if status == 0:
            continue
        stopped += 1
        assert status == 2, said
        line = said.splitlines()[-1]
        assert line.startswith("titans-dna: error: --out: "), said
        assert "Traceback" not in said
        assert "Exception" not in said
        begun = "continue with" in line
        assert run(capsys, *command, *(["--resume"] if begun else []))[0] == 0, (size, line)
        assert written(place) == wanted, size
    assert stopped >= 3


@pytest.mark.parametrize("arguments", [["--help"], ["embed", "--help"], ["embed", "--print_config"], []])
def test_a_full_standard_output_is_said(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "titans_dna.cli", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "titans-dna: error: standard output: No space left on device\n")


def test_a_reader_that_has_had_enough_is_no_error():
    command = f"{sys.executable} -m titans_dna.cli embed --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() in ("0", "141")
    assert done.stderr == ""


def start(command, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "titans_dna.cli", *command.split()], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, **more,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["embed", "pretrain"])
def test_the_second_of_two_processes_has_one_line(place, name):
    both = [start(RUNS[name]) for _ in range(2)]
    said = [one.communicate()[1] for one in both]
    assert sorted(one.returncode for one in both) in ([0, 2], [0, 0])
    if {one.returncode for one in both} == {0, 2}:
        second = said[[one.returncode for one in both].index(2)]
        assert len(second.splitlines()) == 1 or "another process" in second.splitlines()[-1], second
    assert not [*place.rglob("*.tmp")]


ROUNDS = int(os.environ.get("TITANS_DNA_FAULT_ROUNDS", "1"))


@pytest.mark.parametrize("name", ["embed", *([] if ROUNDS == 1 else [one for one in RUNS if one != "embed"])])
def test_a_signal_at_any_moment_is_one_line(place, name):
    began = time.monotonic()
    whole = start(RUNS[name])
    assert whole.communicate()[1] is not None
    assert whole.returncode == 0
    lasts, draw = time.monotonic() - began, random.Random(name)
    for i in range(ROUNDS):
        for path in place.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        process = start(RUNS[name])
        time.sleep(0.1 + draw.random() * lasts)
        asked = time.monotonic()
        process.send_signal(number)
        said = process.communicate()[1]
        if process.returncode == 0:
            continue
        assert process.returncode == 128 + number, (said, process.returncode)
        assert said.splitlines()[-1].startswith("titans-dna: interrupted"), said
        assert "Traceback" not in said
        assert time.monotonic() - asked < (5 if ROUNDS > 1 else 30)  # other tests run beside this one
        assert not [*place.rglob("*.tmp")]
        last = said.splitlines()[-1]
        again = start(RUNS[name] + (" --resume" if "continue with" in last else ""))
        why = again.communicate()[1]
        assert again.returncode == 0, (last, why)
