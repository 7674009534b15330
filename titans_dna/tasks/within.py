"""Rows in groups that a bound on bases allows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def within(lengths: np.ndarray, bases: int) -> Iterator[np.ndarray]:
    """Places of rows, the longest first, in runs whose padded bases are at most `bases`, or single ones."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, bases // max(1, int(lengths[order[start]])))
        yield order[start : start + rows]
        start += rows
