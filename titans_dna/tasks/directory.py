"""The directory of a fine-tuning run: what it is is written down before it begins, and checked when it goes on."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from titans_dna.run.files import replacing
from titans_dna.run.run_file import read_options
from titans_dna.tasks.options import FinetuneOptions

RUN, DATA, REPORT = "run.yaml", "data.json", "data_report.md"


def check_directory(directory: Path, options: FinetuneOptions, resume: bool) -> None:
    """Complain about an `--out` that cannot be used, or a run there that is another one."""
    if resume:
        if different := options.difference(read_run(directory)):
            raise ValueError(f"--resume: {different}")
        return
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"--out: {directory} is a file, want a directory")
    if directory.is_dir() and any(directory.iterdir()):
        if (directory / RUN).exists():
            raise FileExistsError(f"--out: {directory} holds another run; add --resume, or name another one")
        raise FileExistsError(f"--out: {directory} is not empty, want a new or an empty directory")


def read_run(directory: Path) -> dict[str, Any]:
    """Options of the run in a directory; raises what `read_options` raises."""
    return read_options(directory / RUN, "run")


def open_directory(directory: Path, options: FinetuneOptions, about: dict[str, Any], report: str) -> None:
    """Write options, fingerprints and the data report."""
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / DATA) as aside:
        aside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    with replacing(directory / REPORT) as aside:
        aside.write_text(report, encoding="utf-8")
    write_run(directory, options)


def write_run(directory: Path, options: FinetuneOptions) -> None:
    """Write the options, with absolute paths."""
    with replacing(directory / RUN) as aside:
        text = yaml.safe_dump(options.resolved().to_dict(), sort_keys=False)
        aside.write_text(f"# titans-dna {version('titans-dna')}, torch {torch.__version__}\n{text}", encoding="utf-8")


def check_same(directory: Path, about: dict[str, Any]) -> None:
    """ValueError where data or model are not those of the run in the directory."""
    path = directory / DATA
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"--resume: {path} is missing or damaged") from None
    for name, flags in (("fingerprint", "--data (or --annotation)"), ("model", "--model (or --preset)")):
        if not isinstance(saved, dict) or saved.get(name) != about[name]:
            raise ValueError(f"--resume: {flags} is not that of the run in {directory}: its fingerprint differs")
