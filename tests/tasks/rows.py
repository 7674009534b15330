"""Rows that a small model learns in a few steps: which of two words stands in them."""

import csv

import numpy as np

WORDS = {"a": "TATATATA", "b": "GCGCGCGC", "c": "AACCTTGG"}


def sequence(label, rng, low=30, high=60):
    letters = "".join(rng.choice(list("ACGT"), size=int(rng.integers(low, high))))
    place = int(rng.integers(len(letters)))
    return letters[:place] + WORDS[label] * 2 + letters[place:]


def write_rows(path, labels, n, seed, cell=lambda label: label, column="label"):
    """A CSV file of n rows, the labels in turn."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("sequence", column))
        for i in range(n):
            label = labels[i % len(labels)]
            writer.writerow((sequence(label, rng), cell(label)))
    return path


def write_splits(folder, labels=("a", "b"), train=48, test=20, cell=lambda label: label):
    """train.csv and test.csv in a directory, as GUE has them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.csv", labels, train, 1, cell)
    write_rows(folder / "test.csv", labels, test, 2, cell)
    return folder
