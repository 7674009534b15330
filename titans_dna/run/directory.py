"""The directory of a run: whose it is, what is to be done there, and who is at work in it.

One policy for every verb. A directory for results is new or empty; a run of ours is gone on with by `--resume`; what is
somebody's is never touched. An output that is a file has such a directory beside it, `OUT.partial`, until it is whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from titans_dna.config import read_yaml
from titans_dna.run.files import check_writable, write_text
from titans_dna.run.options import Options
from titans_dna.run.signals import FULL, Stopped

RUN, DATA, LOCK = "run.yaml", "data.json", ".lock"


class RunDirectory:
    """A run's directory, held by this process alone from `open` on, until the context ends or the process dies.

    verb: whose run it is. record: the file with its options. flag: the option that names it. aside: of an output that is a
    file, beside which it stands until that is whole; `finish` takes it away. first: whether this process is the one of its
    group that checks, holds and writes; the others read. command: what it is called by, by default titans-dna and the verb.

    The order of its use: `check` before anything is read, `options` where a run goes on, `open` before anything is written.
    """

    def __init__(
        self,
        path: str | Path,
        verb: str,
        *,
        record: str = RUN,
        flag: str = "--out",
        aside: Path | None = None,
        first: bool = True,
        command: str = "",
    ) -> None:
        self.path, self.verb, self.record, self.flag, self.aside = Path(path), verb, record, flag, aside
        self.first, self.command = first, command or f"titans-dna {verb}"
        self._lock: int | None = None
        self._new = self._made = self._kept = False

    @classmethod
    def beside(cls, out: str | Path, verb: str) -> RunDirectory:
        """The directory of what is done of a file that is not whole yet."""
        return cls(partial(out), verb, aside=Path(out))

    def check(self, resume: bool, options: Options | None = None) -> None:
        """Whether a run may begin here, or go on, with these options where they are given.

        Raises FileExistsError for what is somebody's or a run of its own, FileNotFoundError where there is nothing to go on
        with, ValueError for an option that is not that of the run, OSError where nothing can be written.
        """
        if not self.first:
            return
        path = self.path
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{self.flag}: {path} is a file, want a directory")
        if resume:
            found = self.options()
            if options is not None and (different := options.difference(found)):
                raise ValueError(f"--resume: {different}")
        else:
            self._check_empty()
        self._new, self._kept = not resume, resume
        above = next(one for one in (path, *path.absolute().parents) if one.exists())
        if not above.is_dir():
            raise NotADirectoryError(f"{self.flag}: {path}: {above} is a file, want a directory")
        check_writable(above, self.flag)

    def options(self) -> dict[str, Any]:
        """The options of the run that is here. Raises FileNotFoundError where there is none, ValueError for a damaged file."""
        path = self.path / self.record
        if not path.is_file():
            raise FileNotFoundError(
                f"--resume: {self.path} holds no run of {self.command} to resume ({self.record} is missing)"
            )
        try:
            values = read_yaml(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: got no mapping of options, want what {self.command} wrote")
        return values

    def open(self, options: Options, about: dict[str, Any] | None = None) -> None:
        """Hold the directory, which is made where it is missing, and write down what is to be done: the options, and `about`,
        plain values on data and model.

        Raises ValueError where another process holds it, and FileExistsError where one has been here since `check`.
        """
        if not self.first:
            return
        self.hold()
        if self._new:
            self._check_empty()
            self._new = False
        if about is not None:
            write_text(self.path / DATA, json.dumps(about, indent=2) + "\n")
        text = yaml.safe_dump(options.resolved().to_dict(), sort_keys=False)
        write_text(self.path / self.record, f"# titans-dna {version('titans-dna')}{_torch()}\n{text}")
        self._kept = True

    def hold(self) -> None:
        """Hold the directory without a word in it. The lock goes with the process, however it ends."""
        if self._lock is not None:
            return
        self._made = not self.path.exists()
        while self._lock is None:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Unless another process took the directory away before the lock was ours.
                if os.path.samestat(os.fstat(lock), os.stat(self.path / LOCK)):
                    self._lock = lock
                    _HELD.add(lock)
            except BlockingIOError:
                raise ValueError(
                    f"{self.flag}: {self.path} is in the hands of another process, want one at a time"
                ) from None
            except FileNotFoundError:
                pass
            finally:
                if self._lock is None:
                    os.close(lock)

    def check_same(self, about: dict[str, Any], named: dict[str, str], since: Iterable[str] = ()) -> None:
        """ValueError where data or model are not those that the run began with.

        named: what is compared, keys of `about`, each with the flags that it comes from. since: those of them that version
        0.1.0 did not write down; where they are missing they are not compared.
        """
        path = self.path / DATA
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise ValueError(f"--resume: {path} is missing or damaged") from None
        if not isinstance(saved, dict):
            raise ValueError(f"--resume: {path} is missing or damaged")
        for name, given in named.items():
            if saved.get(name) != about[name] and not (name in since and name not in saved):
                raise ValueError(
                    f"--resume: {given} is not that of the run in {self.path}: its {name.replace('_', ' ')} differs"
                )

    def clear(self, names: Iterable[str] = ()) -> None:
        """Nothing has come of it: take away what `open` wrote and files of these names, and the directory where it is new."""
        for name in (*names, self.record, DATA, LOCK):
            (self.path / name).unlink(missing_ok=True)
        if self._made and not any(self.path.iterdir()):
            self.path.rmdir()
        self._kept = False

    def finish(self, files: Sequence[Path]) -> None:
        """Move files of these names to where they belong, in this order, and take the directory away."""
        for file in files:
            (self.path / file.name).replace(file)
        shutil.rmtree(self.path)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The run around another one, as a benchmark around a set's, has the last word.
        where = self.aside or self.path
        again = f"what is done is kept; continue with: {self.command} --resume --out {where}" if self._kept else ""
        if isinstance(error, Stopped):
            error.advice = again or error.advice or "nothing was written"
        if self._lock is not None and self._made and not self._kept:
            # What was only held leaves nothing behind.
            with suppress(OSError):
                (self.path / LOCK).unlink()
                self.path.rmdir()
        self._release()
        if isinstance(error, OSError) and error.errno in FULL and error.filename is not None:
            said = f"{self.flag}: {error.filename}: {error.strerror}"
            raise OSError(f"{said}; {again or 'nothing was kept'}") from None

    def _check_empty(self) -> None:
        path = self.path
        held = [one for one in path.iterdir() if one.name != LOCK] if path.is_dir() else []
        if held and (path / self.record).is_file():
            raise FileExistsError(
                f"{self.flag}: {path} holds another run ({self.record}); add --resume, or name another one"
            )
        if held:
            raise FileExistsError(
                f"{self.flag}: {path} is not empty ({min(held).name}), want a new or an empty directory"
            )

    def _release(self) -> None:
        if self._lock in _HELD:
            _HELD.remove(self._lock)
            os.close(self._lock)
        self._lock = None


_HELD: set[int] = set()


def _forked() -> None:
    # A data worker may outlive a killed process for some seconds, and must not hold its directory meanwhile.
    for lock in _HELD:
        os.close(lock)
    _HELD.clear()


os.register_at_fork(after_in_child=_forked)


def partial(out: str | Path) -> Path:
    """Where what is done of an output is kept until it is whole."""
    out = Path(out) if Path(out).name else Path(out).absolute()
    return out.with_name(out.name + ".partial")


def check_output(
    files: Sequence[Path], *, inputs: Iterable[str | Path | None], overwrite: bool, flag: str = "--out"
) -> None:
    """Whether files may be written: OSError or ValueError for a missing or read-only directory, a directory in a file's
    place, one of the inputs, or a file that is there already, unless it may be replaced."""
    given = [Path(one) for one in inputs if one and Path(one).exists()]
    for file in files:
        if not file.parent.is_dir():
            raise FileNotFoundError(f"{flag}: {file.parent}: no such directory")
        if file.is_dir():
            raise IsADirectoryError(f"{flag}: {file} is a directory, want a file to write")
        if file.exists() and any(file.samefile(one) for one in given):
            raise ValueError(f"{flag}: {file} is one of the inputs, want another name")
        if file.exists() and not overwrite:
            raise ValueError(f"{flag}: {file} exists, want another name, or --overwrite to replace it")
    check_writable(files[0].parent, flag)


def _torch() -> str:
    # The version that computes the run, without the time that its import takes.
    try:
        return f", torch {version('torch')}"
    except ModuleNotFoundError:
        return ""
