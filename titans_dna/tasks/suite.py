"""A suite of data sets: those below a directory, what others reached on them, and the table of a benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from titans_dna.labels.files import TABLES, default_root, folders, suffix
from titans_dna.run.tables import NONE, markdown, write_csv, write_text

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
