"""`titans-dna benchmark`: the same fine-tuning on every data set of a suite, and one table of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from titans_dna.checkpoint import open_model
from titans_dna.nn.model import TitansDNA
from titans_dna.run.device import choose_device
from titans_dna.run.directory import RUN, RunDirectory
from titans_dna.run.progress import say
from titans_dna.tasks.finetune import check_started, finetune
from titans_dna.tasks.fit import check_tune
from titans_dna.tasks.results import JSON, OURS
from titans_dna.tasks.suite import CSV, MARKDOWN, SetResult, find_sets, load_published, write_benchmark
from titans_dna.tasks.use_options import BenchmarkOptions

BENCHMARK = "benchmark.yaml"


class BenchmarkResult(NamedTuple):
    """How a benchmark ended."""

    directory: Path
    diverged: tuple[str, ...]
    """Sets with a seed whose loss stopped being finite."""
    table: str
    """Markdown."""


def benchmark(options: BenchmarkOptions, *, resume: bool = False) -> BenchmarkResult:
    """Fine-tune on each data set, in a directory of its own, and write `benchmark.md` and `benchmark.csv`.

    A set that cannot be read is named in the table with the reason. With `resume`, sets that are finished stay as they
    are, and an unfinished one goes on where it was.

    Raises ValueError or OSError with one line for any other fault of the input, and where no set can be read, and
    `Stopped` where a signal came.
    """
    with RunDirectory(options.run.out, "benchmark", record=BENCHMARK) as home:
        home.check(resume, options)
        choose_device(options.run.accelerator)
        check_tune(options.tune.tune)
        if options.tune.model is not None:
            open_model(options.tune.model, TitansDNA)
        sets = find_sets(options.sets.root, options.sets.only)
        published = load_published(options.sets.suite)
        home.open(options)
        done: list[SetResult] = []
        diverged: list[str] = []
        table = ""
        for number, (name, data) in enumerate(sets.items(), 1):
            result, failed = _run_set(options, name, data, f"{name} ({number} of {len(sets)})")
            done.append(result)
            diverged += [name] * failed
            table = write_benchmark(home.path, published, done, _notes(options))
        if all(one.results is None for one in done):
            if not resume:
                home.clear((MARKDOWN, CSV))
            raise ValueError(
                f"--root: none of {len(done)} data sets can be used; the first, {done[0].name}: {done[0].reason}"
            )
        for one in done:
            if one.results is None:
                say(f"{one.name}: not run: {one.reason}")
        return BenchmarkResult(home.path, tuple(diverged), table)


def _run_set(options: BenchmarkOptions, name: str, data: Path, title: str) -> tuple[SetResult, bool]:
    """A set's results; whether a seed diverged."""
    place = Path(options.run.out) / name
    known = _finished(place, options)
    if known is not None:
        check_started(options.of(data, place))
        say(f"{title}\ndone before")
        return SetResult(name, known), False
    try:
        found = finetune(options.of(data, place), resume=(place / RUN).exists(), title=title)
    except (ValueError, OSError) as error:
        # Options and model have been checked: what finetune refuses before it writes anything is the data.
        if (place / RUN).exists():
            raise
        return SetResult(name, None, " ".join(str(error).split())), False
    return SetResult(name, json.loads((place / JSON).read_text(encoding="utf-8"))), bool(found.diverged)


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


def _notes(options: BenchmarkOptions) -> str:
    tune, train = options.tune, options.train
    start = f"{tune.preset} from scratch" if tune.preset else f"{tune.model}, --tune {tune.tune}"
    return (
        f"- {OURS}: {start}; {train.seeds} seed(s), the validation split (or {options.sets.valid_fraction:.0%} of train) "
        f"for early stopping, test read at the end; at most {train.epochs:g} epochs. Options: {BENCHMARK}; each set's run "
        "is in its directory.\n"
    )
