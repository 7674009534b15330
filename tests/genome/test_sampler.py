"""Which windows a batch holds: brute force over small genomes, and properties over many draws."""

import itertools
from collections import Counter

import numpy as np
import pytest

from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import Interval
from titans_dna.genome.sampler import (
    LaneSampler,
    LengthWarmup,
    WindowSampler,
    allowed_starts,
    find_gaps,
    validation_plans,
)

ONE = [Interval("a", 100, 1100)]
SEVERAL = [Interval("a", 100, 700), Interval("b", 0, 37), Interval("a", 900, 1200), Interval("c", 5, 6)]


def plans(kind, number, intervals=SEVERAL, **arguments):
    sampler = kind(intervals, **{"context": 50, "batch_size": 4, "seed": 7, **arguments})
    return list(itertools.islice(sampler, number))


KINDS = [
    pytest.param(WindowSampler, {}, id="windows"),
    pytest.param(WindowSampler, {"context": 48, "warmup": LengthWarmup(12, 3)}, id="warmup"),
    pytest.param(LaneSampler, {"lane": 200}, id="lanes"),
]


@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_batch_is_a_function_of_seed_and_number(kind, extra):
    whole = plans(kind, 40, **extra)
    assert [plan.batch for plan in whole] == list(range(40))
    for start in (1, 5, 39):
        assert plans(kind, 40 - start, start=start, **extra) == whole[start:]
    assert plans(kind, 40, seed=8, **extra) != whole
    assert plans(kind, 99, start=7, batches=12, **extra) == whole[7:12]
    sampler = kind(SEVERAL, **{"context": 50, "batch_size": 4, "seed": 7, "batches": 6, **extra})
    assert list(sampler) == list(sampler) == whole[:6]


@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_ranks_share_the_draw_of_one_large_batch(kind, extra):
    together = plans(kind, 12, batch_size=6, **extra)
    apart = [plans(kind, 12, batch_size=2, rank=rank, world_size=3, **extra) for rank in range(3)]
    for whole, parts in zip(together, zip(*apart, strict=True), strict=True):
        assert sum((part.windows for part in parts), ()) == whole.windows
        assert {part.reset for part in parts} == {whole.reset}


@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_no_base_outside_the_intervals(kind, extra):
    inside = {(one.contig, base) for one in SEVERAL if one.end - one.start > 1 for base in range(one.start, one.end)}
    drawn = [window for plan in plans(kind, 600, **extra) for window in plan.windows]
    touched = {(window.contig, base) for window in drawn for base in range(window.start, window.end)}
    assert touched == inside
    assert {window.reverse for window in drawn} == {True, False}
    forward = plans(kind, 30, reverse_complement=False, **extra)
    assert not any(window.reverse for plan in forward for window in plan.windows)


def test_windows_have_full_length_where_the_interval_allows_it():
    for plan in plans(WindowSampler, 300):
        for window in plan.windows:
            assert window.end - window.start == (37 if window.contig == "b" else 51)


def test_windows_cover_uniformly():
    """1,000 bases, windows of 51: flat inside, within 0.5 to 1.5 at the borders, intervals by their length."""
    windows = [window for plan in plans(WindowSampler, 2000, ONE, batch_size=32) for window in plan.windows]
    cover = np.zeros(1001)
    for window in windows:
        cover[window.start - 100] += 1
        cover[window.end - 100] -= 1
    cover = np.cumsum(cover)[:1000] / (len(windows) * 51 / 1000)
    # 64,000 windows, 3,264 over each base: a standard deviation of 1.8 % a base, 0.5 to 1.5 at the very borders.
    np.testing.assert_allclose(cover[51:-51], 1, atol=0.09)
    assert 0.45 < cover.min() < 0.55
    assert 1.4 < cover.max() < 1.6
    assert abs(np.mean([window.reverse for window in windows]) - 0.5) < 0.01
    drawn = Counter(window[0] for plan in plans(WindowSampler, 2000, batch_size=8) for window in plan.windows)
    assert abs(drawn["b"] / drawn.total() - 37 / 937) < 0.01


def test_warmup_keeps_the_bases_of_a_batch():
    shapes = [
        (plan.context, len(plan.windows))
        for plan in plans(WindowSampler, 12, ONE, context=96, batch_size=2, warmup=LengthWarmup(12, 3))
    ]
    assert shapes == [(12, 16)] * 3 + [(24, 8)] * 3 + [(48, 4)] * 3 + [(96, 2)] * 3


@pytest.mark.parametrize("seed", range(30))
def test_allowed_starts_by_brute_force(seed):
    random = np.random.default_rng(seed)
    start, bases = int(random.integers(50)), int(random.integers(2, 60))
    width = int(random.integers(1, bases + 1))
    limit = int(random.integers(0, width + 1))
    unknown = np.repeat(random.random(bases) < 0.4, random.integers(1, 7, size=bases))[:bases]
    edges = np.flatnonzero(np.diff(unknown, prepend=False, append=False)).reshape(-1, 2) + start
    found = allowed_starts(edges, start, start + bases, width, limit)
    listed = [one for low, high in found for one in range(low, high)]
    assert listed == [start + i for i in range(bases - width + 1) if unknown[i : i + width].sum() <= limit]


def test_find_gaps(tmp_path, monkeypatch):
    monkeypatch.setattr("titans_dna.genome.sampler._PIECE", 5)
    path = tmp_path / "gaps.fa"
    path.write_text(">a\nNNACGTuUNNNNNNNNNNNNacgtRyA\nCN\n>b\nACGT\n")
    genome = open_genome(path, cache_dir=tmp_path / "cache")
    intervals = [Interval("a", 0, 29), Interval("b", 0, 4), Interval("a", 1, 15), Interval("a", 10, 12)]
    found = [runs.tolist() for runs in find_gaps(genome, intervals)]
    assert found == [[[0, 2], [8, 20], [24, 26], [28, 29]], [], [[1, 2], [8, 15]], [[10, 12]]]


@pytest.mark.parametrize(("kind", "extra", "width"), [(WindowSampler, {}, 51), (LaneSampler, {"lane": 100}, 101)])
@pytest.mark.parametrize("max_n", [0.0, 0.2, 0.5, 1.0])
def test_n_limit(kind, extra, width, max_n):
    """Runs of N at the border, in the middle, and short ones; every allowed place comes up, no other does."""
    unknown = np.zeros(1200, bool)
    for low, high in [(100, 180), (300, 301), (400, 460), (500, 505), (1150, 1200)]:
        unknown[low:high] = True
    runs = np.flatnonzero(np.diff(unknown, prepend=False, append=False)).reshape(-1, 2)
    intervals = [Interval("a", 100, 700), Interval("a", 900, 1200)]
    gaps = [runs[:4], runs[4:]]
    allowed = {
        start
        for one in intervals
        for start in range(one.start, one.end - width + 1)
        if unknown[start : start + width].sum() <= max_n * width
    }
    drawn = plans(kind, 4000, intervals, max_n=max_n, gaps=gaps, reverse_complement=False, **extra)
    first = [window for plan in drawn if plan.reset for window in plan.windows]
    assert {window.start for window in first} == allowed


def lane_walks(tours, **arguments):
    """The windows of each lane, by tour and row."""
    found = plans(LaneSampler, 4 * tours, **arguments)
    for tour in zip(*[iter(found)] * 4, strict=True):
        assert [plan.reset for plan in tour] == [True, False, False, False]
        yield from zip(*(plan.windows for plan in tour), strict=True)


def test_lanes_are_contiguous():
    """Without its shared bases a lane is one stretch: upward on the forward strand, downward on the other."""
    short = Counter()
    for walk in lane_walks(300, lane=200):
        filled = [window for window in walk if window.end > window.start]
        assert walk[: len(filled)] == tuple(filled)
        assert len({(window.contig, window.reverse) for window in walk}) == 1
        for here, there in itertools.pairwise(filled):
            if here.reverse:
                assert there.end == here.start + 1
            else:
                assert there.start == here.end - 1
        sizes = [window.end - window.start for window in filled]
        assert sizes == ([37] if walk[0].contig == "b" else [51] * 4)
        short[walk[0].contig] += 1
    assert short["b"] > 0


@pytest.mark.parametrize(("bases", "filled"), [(2, [2]), (11, [11]), (12, [11, 2]), (21, [11, 11]), (45, [11] * 4)])
def test_lane_ends_with_its_interval(bases, filled):
    """A single base left over is no target: the row is empty from there on."""
    intervals = [Interval("a", 3, 3 + bases), Interval("b", 0, 41)]
    walks = list(lane_walks(60, intervals=intervals, context=10, lane=40))
    sizes = {tuple(window.end - window.start for window in walk) for walk in walks if walk[0].contig == "a"}
    assert sizes == {tuple(filled + [0] * (4 - len(filled)))}


def test_tours_end_with_the_longest_interval():
    sampler = LaneSampler(SEVERAL, context=50, lane=50_000, batch_size=2, seed=0)
    assert sampler.tour_batches == 12
    assert [plan.reset for plan in itertools.islice(sampler, 25)] == [i % 12 == 0 for i in range(25)]


def test_validation_has_each_target_once():
    found = validation_plans(SEVERAL, context=50, batch_size=3)
    windows = [window for plan in found for window in plan.windows]
    targets = Counter((window.contig, base) for window in windows for base in range(window.start + 1, window.end))
    wanted = [(one.contig, base) for one in SEVERAL for base in range(one.start + 1, one.end)]
    assert targets == Counter(wanted)
    assert list(targets) == wanted
    assert max(window.end - window.start for window in windows) == 51
    assert not any(window.reverse for window in windows)
    assert {len(plan.windows) for plan in found[:-1]} == {3}
    assert all(plan.reset and plan.batch == number for number, plan in enumerate(found))


@pytest.mark.parametrize("max_bases", [1, 300, 5_000, 20_000])
def test_validation_is_thinned_evenly(max_bases):
    intervals = [Interval("a", 0, 10_001)]
    windows = [
        w for plan in validation_plans(intervals, context=100, batch_size=8, max_bases=max_bases) for w in plan.windows
    ]
    kept = [window.start for window in windows]
    assert len(kept) == min(max(max_bases // 100, 1), 100)
    assert max(np.diff([*kept, 10_000])) <= -(-100 // len(kept)) * 100
    assert all(start % 100 == 0 for start in kept)


WRONG = [
    ({"context": 0}, "context: got 0"),
    ({"context": 601}, "context: got 601, want at most 600"),
    ({"batch_size": 0}, "batch_size: got 0"),
    ({"seed": -1}, "seed: got -1"),
    ({"max_n": 1.5}, "max_n: got 1.5"),
    ({"start": -1}, "start: got -1"),
    ({"rank": 2, "world_size": 2}, "rank: got 2"),
    ({"intervals": []}, "intervals: got 0"),
    ({"intervals": [Interval("a", 5, 6)]}, "want one of at least 2"),
    ({"gaps": []}, "gaps: got 0 arrays, want one for each of 4"),
    ({"intervals": ONE, "gaps": [np.array([[100, 1100]])]}, "max_n: got 0.5, but no stretch of 51 bases"),
    ({"kind": LaneSampler, "lane": 75}, "lane: got 75, want a multiple of the context, 50"),
    ({"kind": LaneSampler, "lane": 0}, "lane: got 0"),
    ({"warmup": LengthWarmup(20, 3)}, "start_context: got 20"),
    ({"warmup": LengthWarmup(100, 3)}, "start_context: got 100"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        plans(**{"kind": WindowSampler, "number": 1, **arguments})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LengthWarmup(0, 3), "start_context: got 0"),
        (lambda: LengthWarmup(8, 0), "stage_batches: got 0"),
        (lambda: validation_plans(ONE, context=0, batch_size=1), "context: got 0"),
        (lambda: validation_plans(ONE, context=9, batch_size=0), "batch_size: got 0"),
        (lambda: validation_plans(ONE, context=9, batch_size=1, max_bases=0), "max_bases: got 0"),
        (lambda: validation_plans([], context=9, batch_size=1), "intervals: got 0"),
    ],
)
def test_wrong_arguments_elsewhere(call, message):
    with pytest.raises(ValueError, match=message):
        call()
