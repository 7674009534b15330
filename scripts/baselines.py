"""Baselines on every data set in a folder, as a Markdown table: majority, length alone, k-mers, the GenomicBenchmarks CNN.

    python scripts/baselines.py DIR [DIR ...] [--label class] [--seeds 1] [--no-cnn NAME ...] [--out FILE]

Each DIR is one data set or a folder of such, in any layout that `read_labelled` knows. A set without test rows, or with one
class only, is named in the table and left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from titans_dna.baselines.sequences import kmers, length, majority
from titans_dna.labels.data import LabelledData
from titans_dna.labels.read import read_labelled
from titans_dna.labels.report import deduplicated
from titans_dna.metrics import Estimate, evaluate, spread
from titans_dna.tasks.cnn import cnn

BASELINES: tuple[Callable[[LabelledData, int], np.ndarray], ...] = (majority, length, kmers, cnn)
SEEDED = (cnn,)
SHOWN = {"regression": ("pearson", "spearman", "mse"), "multilabel": ("macro_f1", "auroc", "auprc")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--label", default="label", help="column of the label, where the data are tables")
    parser.add_argument("--seeds", type=int, default=1, help="runs of what depends on the seed")
    parser.add_argument("--no-cnn", nargs="*", default=[], metavar="NAME", help="data sets to leave the CNN out of")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        "| data set | rows: train, valid, test (unseen in train) | baseline | scores (95 % interval) | on unseen rows | s |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for folder in (one for given in arguments.folders for one in data_sets(given)):
        try:
            data = read_labelled(folder, label=arguments.label, min_length=1)
            data.want_test()
        except (ValueError, OSError) as error:
            print(f"| {folder.name} | | left out: {str(error).replace(f'{folder}/', '')} | | | |", flush=True)
            continue
        table(folder.name, data, arguments.seeds, folder.name not in arguments.no_cnn)


def data_sets(folder: Path) -> list[Path]:
    """The folder itself, or what it holds."""
    inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    return [folder] if any(one.name.startswith("train") for one in folder.iterdir()) else inside


def table(name: str, data: LabelledData, seeds: int, with_cnn: bool) -> None:
    """Rows of one data set."""
    kept = set(deduplicated(data).test.sequences)
    unseen = np.array([i for i, letters in enumerate(data.test.sequences) if letters in kept])
    rows = f"{len(data.train):,}, {len(data.valid):,}, {len(data.test):,} ({len(unseen):,})"
    for baseline in BASELINES:
        if baseline is cnn and not with_cnn:
            continue
        start = time.perf_counter()
        runs = [baseline(data, seed) for seed in range(seeds if baseline in SEEDED else 1)]
        seconds = time.perf_counter() - start
        raw = [evaluate(data.task, data.test.labels, scores) for scores in runs]
        new = [evaluate(data.task, data.test.labels[unseen], scores[unseen], resamples=0) for scores in runs]
        print(
            f"| {name} | {rows} | {baseline.__name__} | {shown(data, raw)} | {shown(data, new)} | {seconds:.0f} |",
            flush=True,
        )


def shown(data: LabelledData, runs: list[dict[str, Estimate]]) -> str:
    """The metrics that matter, with the interval of one run or the spread of several."""
    found = []
    for name in SHOWN.get(data.task, ("accuracy", "mcc", "auroc")):
        one, over = runs[0][name], spread(runs)[name]
        range_ = f" ({one.low:.3f} to {one.high:.3f})" if np.isfinite(one.low) else ""
        found.append(f"{name} {over.mean:.3f}" + (f" ± {over.deviation:.3f}" if len(runs) > 1 else range_))
    return ", ".join(found)


if __name__ == "__main__":
    main()
