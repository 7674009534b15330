"""Where it counts at which place a base stands, `--pool auto` puts all bases side by side; elsewhere it takes the mean."""

import numpy as np
import pytest

from tests.tasks.test_finetune import done
from titans_dna.baselines.sequences import MOST_PLACES, places_tell
from titans_dna.checkpoint import load
from titans_dna.labels.read import read_labelled


def at_a_place(rng, length=50):
    letters = rng.choice(list("ACGT"), length)
    label = int(rng.integers(2))
    letters[20:24] = list("TATA") if label else list("ATAT")
    return "".join(letters), label


def by_composition(rng, length=50):
    label = int(rng.integers(2))
    share = [0.35, 0.15, 0.15, 0.35] if label else [0.25] * 4
    return "".join(rng.choice(list("ACGT"), length, p=share)), label


def anywhere(rng, length=50):
    return at_a_place(rng, length + int(rng.integers(3)))


def by_chance(rng, length=50):
    return "".join(rng.choice(list("ACGT"), length)), int(rng.integers(2))


def write(folder, draw, train=200):
    for seed, (split, rows) in enumerate((("train", train), ("valid", 80), ("test", 40))):
        rng = np.random.default_rng(seed)
        lines = ["{},{}\n".format(*draw(rng)) for _ in range(rows)]
        (folder / f"{split}.csv").write_text("sequence,label\n" + "".join(lines))
    return [str(folder / f"{split}.csv") for split in ("train", "valid", "test")]


@pytest.mark.parametrize(
    ("draw", "placed"),
    [(at_a_place, True), (by_composition, False), (anywhere, False), (by_chance, False)],
)
def test_places_tell_what_they_do(tmp_path, draw, placed):
    train, valid, test = write(tmp_path, draw)
    data = read_labelled([train], valid=valid, test=test)
    assert places_tell(data) is placed


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_places_of_other_answers(tmp_path, task):
    def draw(rng):
        letters, label = at_a_place(rng)
        return letters, ("x;y" if label else "y") if task == "multilabel" else label + 0.1 * rng.normal()

    train, valid, test = write(tmp_path, draw)
    assert places_tell(read_labelled([train], valid=valid, test=test, task=task))


def test_places_of_long_sequences_are_not_looked_at(tmp_path):
    train, valid, test = write(tmp_path, lambda rng: at_a_place(rng, MOST_PLACES + 1), train=20)
    assert not places_tell(read_labelled([train], valid=valid, test=test))


@pytest.mark.parametrize(
    ("draw", "flags", "pool"),
    [(at_a_place, "", "bins"), (by_composition, "", "mean"), (at_a_place, "--pool max", "max"),
     (at_a_place, "--kmers false --rc true", "bins")],
)  # fmt: skip
def test_the_pool_of_a_run(tmp_path, draw, flags, pool):
    train, valid, test = write(tmp_path, draw)
    out = tmp_path / "run"
    said = done("--preset", "tiny", "--variant", "lmm", "--data", train, "--valid", valid, "--test", test,
                "--baselines", "positions", "--steps", 40, "--out", out, *flags.split())  # fmt: skip
    question = load(out).question
    assert question.pool == pool
    if pool == "bins":
        assert (question.bins, question.stretch, question.both_strands) == (50, 1, bool(flags))
        assert "| Titans (ours) | 1 | 1.000" in said or "| Titans (ours) | 1 | 0.9" in said
