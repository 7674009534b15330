"""`titans-dna benchmark`: the same fine-tuning on every data set of a suite, and one table of all."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from titans_dna.checkpoint import load
from titans_dna.run.device import choose_device
from titans_dna.run.files import replacing
from titans_dna.run.run_file import read_options
from titans_dna.tasks.adapters import check_tune
from titans_dna.tasks.benchmark_table import SetResult, write_benchmark
from titans_dna.tasks.directory import RUN
from titans_dna.tasks.opened import refuse_finetuned
from titans_dna.tasks.published import load_published
from titans_dna.tasks.results import JSON, OURS
from titans_dna.tasks.run import check_started, finetune
from titans_dna.tasks.suite import find_sets
from titans_dna.tasks.use_options import BenchmarkOptions

BENCHMARK = "benchmark.yaml"


class BenchmarkResult(NamedTuple):
    """How a benchmark ended."""

    directory: Path
    signal: int | None
    """The signal that interrupted it, if one did."""
    diverged: tuple[str, ...]
    """Sets with a seed whose loss stopped being finite."""
    table: str
    """Markdown."""


def benchmark(options: BenchmarkOptions, *, resume: bool = False) -> BenchmarkResult:
    """Fine-tune on each data set, in a directory of its own, and write `benchmark.md` and `benchmark.csv`.

    A set that cannot be read is named in the table with the reason. With `resume`, sets that are finished stay as they
    are, and an unfinished one goes on where it was.

    Raises ValueError or OSError with one line for any other fault of the input, and where no set can be read.
    """
    directory = Path(options.run.out)
    _check_directory(directory, options, resume)
    choose_device(options.run.accelerator)
    check_tune(options.tune.tune)
    if options.tune.model is not None:
        refuse_finetuned(options.tune.model)
        load(options.tune.model)
    sets = find_sets(options.sets.root, options.sets.only)
    published = load_published(options.sets.suite)
    new = not directory.exists()
    _open_directory(directory, options)
    done: list[SetResult] = []
    diverged: list[str] = []
    table = ""
    for number, (name, data) in enumerate(sets.items(), 1):
        print(f"{name} ({number} of {len(sets)})", flush=True)
        result, signal, failed = _run_set(options, name, data)
        if signal is not None:
            return BenchmarkResult(directory, signal, tuple(diverged), table)
        done.append(result)
        diverged += [name] * failed
        table = write_benchmark(directory, published, done, _notes(options))
    if all(one.results is None for one in done):
        if not resume:
            _close_directory(directory, new)
        raise ValueError(
            f"--root: none of {len(done)} data sets can be used; the first, {done[0].name}: {done[0].reason}"
        )
    return BenchmarkResult(directory, None, tuple(diverged), table)


def read_benchmark(directory: Path) -> dict[str, Any]:
    """Options of the benchmark in a directory; raises what `read_options` raises."""
    return read_options(directory / BENCHMARK, "benchmark")


def _run_set(options: BenchmarkOptions, name: str, data: Path) -> tuple[SetResult, int | None, bool]:
    """A set's results; the signal where it was interrupted; whether a seed diverged."""
    place = Path(options.run.out) / name
    known = _finished(place, options)
    if known is not None:
        check_started(options.of(data, place))
        print("done before", flush=True)
        return SetResult(name, known), None, False
    begun = (place / RUN).exists()
    try:
        found = finetune(options.of(data, place), resume=begun)
    except (ValueError, OSError) as error:
        # Options and model have been checked: what finetune refuses before it writes anything is the data.
        if (place / RUN).exists():
            raise
        reason = " ".join(str(error).split())
        print(f"not run: {reason}", flush=True)
        return SetResult(name, None, reason), None, False
    if found.signal is not None:
        return SetResult(name, None, "interrupted"), found.signal, False
    return SetResult(name, json.loads((place / JSON).read_text(encoding="utf-8"))), None, bool(found.diverged)


def _finished(place: Path, options: BenchmarkOptions) -> dict[str, Any] | None:
    """A set's results where they have all seeds and baselines that are wanted."""
    try:
        values = json.loads((place / JSON).read_text(encoding="utf-8"))
        seeds = {run["model"]: run["seeds"] for run in values["results"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    train = options.train
    wanted = {OURS, *(name for name in options.run.baselines if name in values.get("baselines", ()))}
    same = seeds.get(OURS) == [*range(train.seed, train.seed + train.seeds)]
    return values if same and wanted == seeds.keys() else None


def _check_directory(directory: Path, options: BenchmarkOptions, resume: bool) -> None:
    if resume:
        if different := options.difference(read_benchmark(directory)):
            raise ValueError(f"--resume: {different}")
        return
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"--out: {directory} is a file, want a directory")
    if directory.is_dir() and any(directory.iterdir()):
        if (directory / BENCHMARK).exists():
            raise FileExistsError(
                f"--out: {directory} holds another benchmark; add --resume, or name another directory"
            )
        raise FileExistsError(f"--out: {directory} is not empty, want a new or an empty directory")


def _open_directory(directory: Path, options: BenchmarkOptions) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / BENCHMARK) as aside:
        text = yaml.safe_dump(options.resolved().to_dict(), sort_keys=False)
        aside.write_text(f"# titans-dna {version('titans-dna')}\n{text}", encoding="utf-8")


def _close_directory(directory: Path, new: bool) -> None:
    """Nothing has been run: leave nothing behind."""
    for path in [*directory.glob("benchmark.*")]:
        path.unlink()
    if new and not any(directory.iterdir()):
        directory.rmdir()


def _notes(options: BenchmarkOptions) -> str:
    tune, train = options.tune, options.train
    start = f"{tune.preset} from scratch" if tune.preset else f"{tune.model}, --tune {tune.tune}"
    return (
        f"- {OURS}: {start}; {train.seeds} seed(s), the validation split (or {options.sets.valid_fraction:.0%} of train) "
        f"for early stopping, test read at the end; at most {train.epochs:g} epochs. Options: {BENCHMARK}; each set's run "
        "is in its directory.\n"
    )
