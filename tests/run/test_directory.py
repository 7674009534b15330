"""The directory of a run: one policy for what is there, one process at a time, one word on how to go on."""

import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from titans_dna.run.directory import RunDirectory, check_output
from titans_dna.run.options import Options, group, option
from titans_dna.run.signals import Stopped


@dataclass(frozen=True)
class Numbers:
    """Numbers"""

    steps: int = option(3, "how many")
    speed: int = option(1, "how fast", free=True)


@dataclass(frozen=True)
class Some(Options):
    numbers: Numbers = group(Numbers)


def begun(path, **more):
    with RunDirectory(path, "sing", **more) as home:
        home.check(False)
        home.open(Some(), {"fingerprint": "a", "split": "b"})
    return path


def test_a_new_one_or_an_empty_one(tmp_path):
    begun(tmp_path / "above" / "new")
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "empty")
    assert RunDirectory(tmp_path / "empty", "sing").options() == {"steps": 3, "speed": 1}
    assert {one.name for one in (tmp_path / "empty").iterdir()} == {".lock", "data.json", "run.yaml"}


def test_what_is_ours_is_named_and_what_is_somebodys_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    begun(tmp_path / "run")
    begun(tmp_path / "suite", record="suite.yaml")
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    for name, resume, record, message in (
        ("file", False, "run.yaml", "--out: .*file is a file, want a directory"),
        ("file/below", False, "run.yaml", "--out: .*file is a file, want a directory"),
        ("full", False, "run.yaml", r"full is not empty \(README.md\), want a new or an empty directory"),
        ("run", False, "run.yaml", r"run holds another run \(run.yaml\); add --resume, or name another one"),
        ("suite", False, "run.yaml", r"suite is not empty \(data.json\)"),
        ("suite", False, "suite.yaml", r"suite holds another run \(suite.yaml\)"),
        ("full", True, "run.yaml", r"full holds no run of titans-dna sing to resume \(run.yaml is missing\)"),
        ("nowhere", True, "run.yaml", "nowhere holds no run of titans-dna sing"),
    ):
        with pytest.raises(OSError, match=message):
            RunDirectory(tmp_path / name, "sing", record=record).check(resume)
    assert {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()} == before


def test_a_run_that_goes_on_is_the_same_run(tmp_path):
    path = begun(tmp_path / "run")
    home = RunDirectory(path, "sing")
    home.check(True, Some(Numbers(speed=7)))
    with pytest.raises(ValueError, match="--resume: --steps: got 4, but the run to resume has 3"):
        home.check(True, Some(Numbers(steps=4)))
    named = {"fingerprint": "--fasta", "split": "--bed", "tokenizer": "--tokenizer"}
    about = {"fingerprint": "a", "split": "b", "tokenizer": "c"}
    home.check_same(about, named, since=("tokenizer",))
    with pytest.raises(ValueError, match=r"--resume: --tokenizer is not that of the run in .*: its tokenizer differs"):
        home.check_same(about, named)
    with pytest.raises(ValueError, match="--bed is not that of the run"):
        home.check_same({**about, "split": "x"}, named, since=("split", "tokenizer"))
    (path / "data.json").write_text("[]")
    with pytest.raises(ValueError, match=r"data\.json is missing or damaged"):
        home.check_same(about, named)


def test_one_process_at_a_time(tmp_path):
    with RunDirectory(tmp_path / "run", "sing") as home:
        home.check(False)
        other = RunDirectory(tmp_path / "run", "sing")
        other.check(False)
        home.open(Some())
        with pytest.raises(ValueError, match="run is in the hands of another process, want one at a time"):
            other.open(Some())
    # The first has ended meanwhile: what it left is not written over.
    with pytest.raises(FileExistsError, match="run holds another run"), other:
        other.open(Some())
    with RunDirectory(tmp_path / "run", "sing") as again:
        again.check(True)
        again.open(Some())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_worker_does_not_hold_it(tmp_path):
    home = RunDirectory(tmp_path / "run", "sing")
    home.check(False)
    home.open(Some())
    fork = multiprocessing.get_context("fork")
    ready, release = fork.Event(), fork.Event()
    worker = fork.Process(target=lambda: (ready.set(), release.wait(60)))
    worker.start()
    try:
        assert ready.wait(60)
        home._release()  # as when the process is killed
        with RunDirectory(tmp_path / "run", "sing") as again:
            again.check(True)
            again.open(Some())
    finally:
        release.set()
        worker.join()


def test_others_of_a_group_only_read(tmp_path):
    path = begun(tmp_path / "run")
    before = sorted(os.listdir(path))
    with RunDirectory(path, "sing") as first, RunDirectory(path, "sing", first=False) as other:
        first.check(True)
        first.open(Some())
        other.check(False)
        other.open(Some(), {"fingerprint": "z"})
        other.check_same({"fingerprint": "a"}, {"fingerprint": "--fasta"})
    assert sorted(os.listdir(path)) == before


def test_nothing_is_left_of_what_came_to_nothing(tmp_path):
    for name in ("new", "empty", "kept"):
        path = tmp_path / name
        if name != "new":
            path.mkdir()
        with RunDirectory(path, "sing") as home:
            home.check(False)
            home.open(Some(), {})
            (path / "table.md").touch()
            if name == "kept":
                (path / "mine").touch()
            home.clear(["table.md"])
    assert sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")) == ["empty", "kept", "kept/mine"]


def stop_in(home, resume, opened, inner=None):
    """What comes out of a signal in a run, or in one inside it."""
    with pytest.raises(Stopped) as stopped, home:  # noqa: PT012
        home.check(resume)
        if opened:
            home.open(Some())
        raise Stopped(signal.SIGTERM) if inner is None else stop_in(*inner)
    return stopped.value


@pytest.mark.parametrize(
    ("opened", "resume", "advice"),
    [
        (False, False, "nothing was written"),
        (True, False, "what is done is kept; continue with: titans-dna sing --resume --out run"),
        (False, True, "what is done is kept; continue with: titans-dna sing --resume --out run"),
    ],
)
def test_how_to_go_on(tmp_path, monkeypatch, opened, resume, advice):
    monkeypatch.chdir(tmp_path)
    if resume:
        begun("run")
    stopped = stop_in(RunDirectory("run", "sing"), resume, opened)
    assert (stopped.advice, stopped.status) == (advice, 143)


def test_the_run_around_another_has_the_last_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, opened in enumerate((True, False)):
        inner = (RunDirectory(f"suite/{i}", "sing"), False, opened)
        stopped = stop_in(RunDirectory("suite", "choir", record="choir.yaml"), bool(i), True, inner)
        assert stopped.advice == "what is done is kept; continue with: titans-dna choir --resume --out suite"


def test_an_output_has_its_partial_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stop_in(RunDirectory.beside("a.npy", "sing"), False, True).advice.endswith(
        "titans-dna sing --resume --out a.npy"
    )
    with RunDirectory.beside("a.npy", "sing") as home:
        home.check(True)
        home.open(Some())
        (home.path / "a.npy").write_text("done")
        home.finish([tmp_path / "a.npy"])
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.npy", "done")]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    """The second one is told; the lock of one that is killed is free at once, and nothing of its run is lost."""
    code = (
        "import sys, time; from titans_dna.run.directory import RunDirectory;"
        f"run = RunDirectory({str(tmp_path)!r}, 'sing'); run.hold(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is in the hands of another process, want one at a time"):
            RunDirectory(tmp_path, "sing").hold()
        other.send_signal(signal.SIGKILL)
    begun(tmp_path)


def test_check_output(tmp_path):
    out, source = tmp_path / "out.npy", tmp_path / "in.fa"
    source.write_text(">a\nA\n")
    check_output([out], inputs=[source, None], overwrite=False)
    out.write_text("x")
    check_output([out], inputs=[source], overwrite=True)
    for files, overwrite, message in (
        ([out], False, "out.npy exists, want another name, or --overwrite"),
        ([source], True, "is one of the inputs"),
        ([tmp_path / "no" / "out"], False, "no such directory"),
        ([tmp_path], True, "is a directory, want a file"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            check_output(files, inputs=[source], overwrite=overwrite)
