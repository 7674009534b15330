"""What others reached on the data sets of a suite, from `published.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import yaml


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
