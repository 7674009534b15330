"""`titans-dna benchmark`: the data sets of a suite, the same fine-tuning on each, and one table beside what others reached."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from titans_dna.checkpoint import open_model
from titans_dna.labels.files import TABLES, default_root, folders, suffix
from titans_dna.nn.model import TitansDNA
from titans_dna.run.device import choose_device
from titans_dna.run.directory import RUN, RunDirectory
from titans_dna.run.files import NONE, markdown, write_csv, write_text
from titans_dna.run.progress import say
from titans_dna.tasks.finetune import check_started, finetune
from titans_dna.tasks.fit import check_tune
from titans_dna.tasks.results import ENSEMBLE, JSON, OURS
from titans_dna.tasks.use_options import BenchmarkOptions

MARKDOWN, CSV = "benchmark.md", "benchmark.csv"
PARTIAL, COMPLETE, UNKNOWN = "part of the set: not comparable", "complete set", "not in the published table"


def find_sets(root: str | None, only: Sequence[str]) -> dict[str, Path]:
    """Name → directory of each set, sorted by name, which is its path below the root: `human_nontata_promoters`, `tf/0`.

    root: by default where the genomic_benchmarks package keeps its sets.
    only: names, or their last parts; none for all.

    Raises ValueError where there is no set, or none of such a name; FileNotFoundError, NotADirectoryError.
    """
    top = default_root() if root is None else Path(root).expanduser()
    if not top.exists():
        raise FileNotFoundError(f"--root: {top}: no such directory")
    if not top.is_dir():
        raise NotADirectoryError(f"--root: {top} is a file, want a directory of data sets")
    found = {path.relative_to(top).as_posix(): path for path in _sets(top)}
    if not found:
        raise ValueError(f"--root: {top} holds no data sets, want <set>/train/<class>/*.txt or <set>/train.csv in it")
    if not only:
        return found
    chosen = {name: path for name, path in found.items() if name in only or path.name in only}
    missing = [name for name in only if name not in chosen and all(path.name != name for path in chosen.values())]
    if missing:
        raise ValueError(f"--only: {missing[0]!r} is not in {top}, which holds {', '.join(found)}")
    return chosen


class PublishedModel(NamedTuple):
    """One model's figures."""

    name: str
    source: str
    protocol: str
    scores: dict[str, float]
    """By data set."""


@dataclass(frozen=True)
class Published:
    """A suite."""

    metric: str
    """As `metrics.evaluate` calls it."""
    sizes: dict[str, tuple[int, int]]
    """Rows of the complete set: train and validation together, and test."""
    models: tuple[PublishedModel, ...]

    def key(self, name: str) -> str | None:
        """What a set found as `name`, a path below the root, is called here; None where it is not known."""
        parts = name.split("/")
        return next((one for one in ("/".join(parts[-2:]), parts[-1]) if one in self.sizes), None)


def load_published(suite: str) -> Published:
    """The figures of genomic_benchmarks or GUE."""
    text = (resources.files("titans_dna") / "tasks" / "published.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)[suite]
    models = [
        PublishedModel(name, part["source"], part["protocol"], scores)
        for part in values["sources"]
        for name, scores in part["models"].items()
    ]
    return Published(values["metric"], {name: tuple(rows) for name, rows in values["sizes"].items()}, tuple(models))


class SetResult(NamedTuple):
    """A set that has been run, or could not be."""

    name: str
    results: dict[str, Any] | None
    """As its `results.json` holds them."""
    reason: str = ""
    """Why it could not be run."""


class _Score(NamedTuple):
    mean: float
    deviation: float | None


def write_benchmark(directory: Path, published: Published, sets: Sequence[SetResult], notes: str) -> str:
    """`benchmark.md` and `benchmark.csv`; returns the table in Markdown. `notes` stands below it."""
    names = list(dict.fromkeys(run["model"] for one in sets for run in (one.results or {}).get("results", [])))
    shown = [model for model in published.models if any(published.key(one.name) in model.scores for one in sets)]
    table = _markdown(published, sets, names, shown)
    write_text(directory / MARKDOWN, table + "\n" + _legend(published, shown) + notes)
    write_csv(directory / CSV, *_plain(published, sets, names, shown))
    return table


def note(published: Published, one: SetResult) -> str:
    """Whether the rows are those that the published figures are about, or why there is no score."""
    if one.results is None:
        return f"not run: {one.reason}"
    key, rows = published.key(one.name), one.results["rows"]
    if key is None:
        return UNKNOWN
    return COMPLETE if published.sizes[key] == _size(rows) else PARTIAL


def _markdown(published: Published, sets: Sequence[SetResult], names: list[str], shown: list[PublishedModel]) -> str:
    heads = ["data set", "train", "test"]
    heads += [text for name in names for text in (name, f"{name}, unseen rows")]
    heads += [f"{model.name} (published)" for model in shown] + ["rows"]
    rows = []
    for one in sets:
        found = note(published, one)
        sizes = [NONE, NONE] if one.results is None else [f"{size:,}" for size in _size(one.results["rows"])]
        ours = [_cell(_score(one, name, kind, published.metric)) for name in names for kind in ("all", "unseen")]
        # Brackets: a figure that is about other rows than ours.
        form = "{:.3f}" if found == COMPLETE else "({:.3f})"
        others = [_figure(model, published.key(one.name), form) for model in shown]
        rows.append([one.name, *sizes, *ours, *others, found])
    return markdown(heads, rows)


def _plain(
    published: Published, sets: Sequence[SetResult], names: list[str], shown: list[PublishedModel]
) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows of the CSV file."""
    columns = [(name, kind) for name in names for kind in ("all", "unseen")]
    heads = [f"{name} {kind} {what}" for name, kind in columns for what in ("mean", "sd")]
    sizes = ("train_rows", "test_rows", "published_train_rows", "published_test_rows")
    heads = ["data_set", "metric", *sizes, *heads, *(f"{model.name} (published)" for model in shown), "note"]
    lines = []
    for one in sets:
        key = published.key(one.name)
        rows = ("", "") if one.results is None else _size(one.results["rows"])
        scores = [_score(one, name, kind, published.metric) for name, kind in columns]
        ours = [value for score in scores for value in (score or ("", ""))]
        others = [_figure(model, key, "{}") for model in shown]
        wanted = published.sizes[key] if key else ("", "")
        cells = [one.name, published.metric, *rows, *wanted, *ours, *others, note(published, one)]
        lines.append(["" if cell in (None, NONE) else cell for cell in cells])
    return heads, lines


def _size(rows: dict[str, int]) -> tuple[int, int]:
    return rows["train"] + rows["valid"], rows["test"]


def _score(one: SetResult, name: str, kind: str, metric: str) -> _Score | None:
    """Over the seeds; None where there is none, or it is not defined."""
    runs = [run[kind] for run in (one.results or {}).get("results", []) if run["model"] == name]
    values = [seed.get(metric) for run in runs for seed in run]
    if not values or None in values:
        return None
    return _Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _cell(score: _Score | None) -> str:
    if score is None:
        return NONE
    return f"{score.mean:.3f}" + ("" if score.deviation is None else f" ± {score.deviation:.3f}")


def _figure(model: PublishedModel, key: str | None, form: str) -> str:
    return form.format(model.scores[key]) if key in model.scores else NONE


def _legend(published: Published, shown: list[PublishedModel]) -> str:
    lines = [
        f"Metric: {published.metric.upper() if published.metric == 'mcc' else published.metric} on the test split; over "
        "several seeds mean ± standard deviation. Train counts the validation rows too. Unseen rows: the test rows that "
        "stand neither in train nor in validation, on either strand; – where there are none.",
    ]
    if shown:
        lines.append(
            "Published figures are about the complete sets; in brackets where the rows here are not those, and nothing "
            "then compares with them."
        )
    protocols: dict[tuple[str, str], list[str]] = {}
    for model in shown:
        protocols.setdefault((model.source, model.protocol), []).append(model.name)
    lines += [f"{', '.join(names)}: {source}; {protocol}." for (source, protocol), names in protocols.items()]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _sets(top: Path) -> Iterator[Path]:
    for folder in folders(top):
        if _is_set(folder):
            yield folder
        else:
            yield from filter(_is_set, folders(folder))


def _is_set(folder: Path) -> bool:
    tables = (one.name.partition(".")[0] == "train" and suffix(one) in TABLES for one in folder.iterdir())
    return (folder / "train").is_dir() or any(tables)


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
    wanted = {
        OURS,
        *[ENSEMBLE] * (train.ensemble > 0),
        *(name for name in options.run.baselines if name in values.get("baselines", ())),
    }
    same = seeds.get(OURS) == [*range(train.seed, train.seed + train.runs)]
    return values if same and wanted == seeds.keys() else None


def _notes(options: BenchmarkOptions) -> str:
    tune, train = options.tune, options.train
    start = f"{tune.preset} from scratch" if tune.preset else f"{tune.model}, --tune {tune.tune}"
    return (
        f"- {OURS}: {start}; {train.runs} seed(s), the validation split (or {options.sets.valid_fraction:.0%} of train) "
        f"for early stopping, test read at the end; at most {train.length}. Options: {BENCHMARK}; each set's run "
        "is in its directory.\n"
    )
