"""The run directory: whose it is, one process at a time, and what it says when it is left early."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from titans_dna.run.directory import LOCK, RunDirectory, check_output, partial
from titans_dna.run.options import Options, group, option
from titans_dna.run.signals import Stopped


@dataclass(frozen=True)
class Toy:
    """Toy"""

    fasta: tuple[str, ...] = option((), "Files.", path=True)
    steps: int = option(3, "Steps.", least=1)


@dataclass(frozen=True)
class ToyOptions(Options):
    """A toy."""

    toy: Toy = group(Toy)


def opened(path, about=None):
    run = RunDirectory(path, "toy")
    run.check(resume=False)
    run.open(ToyOptions(Toy(steps=5)), about)
    return run


def test_a_new_or_empty_directory_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/er"):
        with opened(tmp_path / name) as run:
            assert run.options() == {"fasta": [], "steps": 5}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("x"), "is a file, want a directory"),
        (lambda path: (path.mkdir(), (path / "README.md").write_text("mine")), "is not empty (README.md)"),
        (lambda path: opened(path).__exit__(None, None, None), "holds another run (run.yaml); add --resume"),
    ],
)
def test_what_is_there_is_never_touched(tmp_path, make, message):
    path = tmp_path / "out"
    make(path)
    before = path.read_text() if path.is_file() else sorted(one.name for one in path.iterdir())
    with pytest.raises(FileExistsError) as error:
        RunDirectory(path, "toy").check(resume=False)
    assert message in str(error.value)
    assert before == (path.read_text() if path.is_file() else sorted(one.name for one in path.iterdir()))


def test_a_lock_alone_is_no_run(tmp_path):
    """What a process leaves that died before it wrote anything."""
    (tmp_path / LOCK).touch()
    with opened(tmp_path):
        pass


def test_resume_wants_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--resume: .* holds no run of titans-dna toy to resume \(run.yaml"):
        RunDirectory(tmp_path / "none", "toy").check(resume=True)
    with opened(tmp_path / "one"):
        pass
    RunDirectory(tmp_path / "one", "toy").check(resume=True)


def test_a_file_on_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file is a file, want a directory"):
        RunDirectory(tmp_path / "file" / "out", "toy").check(resume=False)


@pytest.mark.parametrize("text", ["- 1", "a: [", "3"])
def test_damaged_options(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"run\.yaml: (not valid YAML|got no mapping)"):
        RunDirectory(tmp_path, "toy").options()


def test_one_process_at_a_time(tmp_path):
    """The second one is told; the lock of one that is killed is free at once, and nothing of its run is lost."""
    code = (
        "import sys, time; from titans_dna.run.directory import RunDirectory;"
        f"run = RunDirectory({str(tmp_path)!r}, 'toy'); run.hold(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is in the hands of another process, want one at a time"):
            RunDirectory(tmp_path, "toy").hold()
        other.send_signal(signal.SIGKILL)
    with opened(tmp_path):
        pass


def test_the_lock_goes_with_the_context(tmp_path):
    for _ in range(2):
        with RunDirectory(tmp_path, "toy") as run:
            run.hold()
            with pytest.raises(ValueError, match="another process"):
                RunDirectory(tmp_path, "toy").hold()


def test_fingerprints(tmp_path):
    about = {"fingerprint": "abc", "model": "def"}
    with opened(tmp_path, about) as run:
        run.check_same(about, {"fingerprint": "--data", "model": "--model"})
        with pytest.raises(ValueError, match=r"--resume: --model is not that of the run in .*: its model differs"):
            run.check_same({**about, "model": "xyz"}, {"fingerprint": "--data", "model": "--model"})
        (tmp_path / "data.json").write_text("{")
        with pytest.raises(ValueError, match=r"data\.json is missing or damaged"):
            run.check_same(about, {"model": "--model"})


def test_advice(tmp_path):
    """Before anything is written, and after."""
    with pytest.raises(Stopped) as early, RunDirectory(tmp_path, "toy"):
        raise Stopped(signal.SIGTERM)
    assert (early.value.advice, early.value.status) == ("nothing was written", 143)
    with pytest.raises(Stopped) as late, opened(tmp_path / "out"):
        raise Stopped
    assert late.value.advice.endswith(f"continue with: titans-dna toy --resume --out {tmp_path / 'out'}")
    assert late.value.status == 130


def test_beside_a_file(tmp_path):
    out = tmp_path / "vectors.npy"
    with RunDirectory.beside(out, "toy") as run:
        run.open(ToyOptions(Toy()))
        assert run.path == partial(out)
        (run.path / out.name).write_text("whole")
        run.finish([out])
    assert out.read_text() == "whole"
    assert os.listdir(tmp_path) == ["vectors.npy"]


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
