"""The table of a benchmark: a row per set, ours, the baselines and what is published side by side."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from titans_dna.run.files import replacing
from titans_dna.tasks.published import Published, PublishedModel

MARKDOWN, CSV = "benchmark.md", "benchmark.csv"
PARTIAL, COMPLETE, UNKNOWN = "part of the set: not comparable", "complete set", "not in the published table"


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
    with replacing(directory / MARKDOWN) as aside:
        aside.write_text(table + "\n" + _legend(published, shown) + notes, encoding="utf-8")
    with replacing(directory / CSV) as aside, open(aside, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows(_plain(published, sets, names, shown))
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
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one in sets:
        found = note(published, one)
        sizes = ["–", "–"] if one.results is None else [f"{rows:,}" for rows in _size(one.results["rows"])]
        ours = [_cell(_score(one, name, kind, published.metric)) for name in names for kind in ("all", "unseen")]
        # Brackets: a figure that is about other rows than ours.
        form = "{:.3f}" if found == COMPLETE else "({:.3f})"
        others = [_figure(model, published.key(one.name), form) for model in shown]
        lines.append(f"| {' | '.join([one.name, *sizes, *ours, *others, found.replace('|', '/')])} |")
    return "\n".join(lines) + "\n"


def _plain(published: Published, sets: Sequence[SetResult], names: list[str], shown: list[PublishedModel]):
    columns = [(name, kind) for name in names for kind in ("all", "unseen")]
    heads = [f"{name} {kind} {what}" for name, kind in columns for what in ("mean", "sd")]
    sizes = ("train_rows", "test_rows", "published_train_rows", "published_test_rows")
    yield ["data_set", "metric", *sizes, *heads, *(f"{model.name} (published)" for model in shown), "note"]
    for one in sets:
        key = published.key(one.name)
        rows = ("", "") if one.results is None else _size(one.results["rows"])
        scores = [_score(one, name, kind, published.metric) for name, kind in columns]
        ours = [value for score in scores for value in (score or ("", ""))]
        others = [_figure(model, key, "{}") for model in shown]
        wanted = published.sizes[key] if key else ("", "")
        cells = [one.name, published.metric, *rows, *wanted, *ours, *others, note(published, one)]
        yield ["" if cell in (None, "–") else cell for cell in cells]


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
        return "–"
    return f"{score.mean:.3f}" + ("" if score.deviation is None else f" ± {score.deviation:.3f}")


def _figure(model: PublishedModel, key: str | None, form: str) -> str:
    return form.format(model.scores[key]) if key in model.scores else "–"


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
