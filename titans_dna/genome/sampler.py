"""Which bases make up batch n: a pure function of (seed, n), so a killed run resumes with the very same batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np

from titans_dna.genome.genome import Genome
from titans_dna.genome.intervals import Interval
from titans_dna.run.progress import Progress
from titans_dna.tokens.vocabulary import base_digits


class Plan(NamedTuple):
    """What one batch holds: `windows` of at most `context` + 1 bases, one per row.

    batch: the batch's number. reset: the model starts from a fresh state here; otherwise row r continues row r of
    the batch before.
    """

    batch: int
    context: int
    reset: bool
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class LengthWarmup:
    """Sequence-length warm-up at constant bases per batch: the context doubles every `stage_batches` batches.

    From `start_context` up to the sampler's own context, which must be start_context * 2**n; the batch size is that
    of the sampler times context / (context of the stage). Source: HyenaDNA (arXiv 2306.15794), section 3.2.
    """

    start_context: int
    stage_batches: int

    def __post_init__(self) -> None:
        for name in ("start_context", "stage_batches"):
            _at_least_one(name, getattr(self, name))

    def stages(self, context: int) -> list[int]:
        """The context of each stage, the final one last."""
        doublings = max(context // self.start_context, 1).bit_length() - 1
        if self.start_context << doublings != context:
            raise ValueError(
                f"start_context: got {self.start_context}, want the context ({context}) or its half, quarter, …"
            )
        return [self.start_context << stage for stage in range(doublings + 1)]


@dataclass(eq=False)
class Sampler:
    """What `WindowSampler` and `LaneSampler` share: arguments, and the drawing of stretches of the genome.

    Iterating gives the plans of the batches `start`, `start` + 1, … up to `batches` (None: endless). There is no
    other state: the sampler of a resumed run is the same one with another `start`.
    With several ranks every rank takes its own rows of one draw of world_size * batch_size stretches.

    Raises ValueError naming the argument, the value got and the value wanted.
    """

    intervals: Sequence[Interval]
    """Where to draw from; no base outside of them is ever read. Those shorter than 2 bases are left out."""
    _: KW_ONLY
    context: int
    """Training bases of a window. A window holds one more, the target of the last, where its interval has it."""
    batch_size: int
    """Windows per batch and rank."""
    seed: int
    """0 <= seed < 2**64."""
    reverse_complement: bool = True
    """Read either strand, chosen by a coin."""
    max_n: float = 0.5
    """Largest share of letters other than A, C, G, T in a stretch, 0 to 1; counted where `gaps` says so."""
    gaps: Sequence[np.ndarray] | None = None
    """Of `find_gaps(genome, intervals)`; None: there are none."""
    start: int = 0
    """Number of the first batch."""
    batches: int | None = None
    """Number of batches of the whole run, those before `start` included."""
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("context", "batch_size", "world_size"):
            _at_least_one(name, getattr(self, name))
        if not 0 <= self.max_n <= 1:
            raise ValueError(f"max_n: got {self.max_n}, want 0 to 1")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed: got {self.seed}, want 0 <= seed < 2**64")
        if self.start < 0:
            raise ValueError(f"start: got {self.start}, want at least 0")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank: got {self.rank}, want 0 <= rank < {self.world_size}, the world size")
        if self.gaps is not None and len(self.gaps) != len(self.intervals):
            raise ValueError(f"gaps: got {len(self.gaps)} arrays, want one for each of {len(self.intervals)} intervals")
        longest = longest_interval(self.intervals)
        if self.context > longest:
            raise ValueError(f"context: got {self.context}, want at most {longest}, the longest interval in bases")

    def __iter__(self) -> Iterator[Plan]:
        numbers = itertools.count(self.start) if self.batches is None else range(self.start, self.batches)
        return map(self.plan, numbers)

    def plan(self, batch: int) -> Plan:
        """Batch number `batch` of this rank."""
        raise AssertionError("a sampler defines plan")

    def _draw(self, stretches: Stretches, number: int, batch_size: int) -> list[Window]:
        # A counter-based generator: draw `number` needs none of the draws before it. Its raw words, unlike numpy's
        # distributions, are the same in every version of numpy.
        generator = np.random.Philox(key=self.seed, counter=[0, number, 0, 0])
        words = generator.random_raw(2 * batch_size * self.world_size).reshape(-1, 2)
        return stretches.pick(words[self.rank * batch_size :][:batch_size], reverse_complement=self.reverse_complement)

    def _stretches(self, width: int) -> Stretches:
        return Stretches(self.intervals, width, max_n=self.max_n, gaps=self.gaps)


@dataclass(eq=False)
class WindowSampler(Sampler):
    """Independent windows of `context` + 1 bases at random places of the intervals, on a random strand.

    Drawn as `Stretches` says: uniformly over the bases of the intervals, never across a border of an interval. One
    shorter than a window gives itself as a whole.
    """

    warmup: LengthWarmup | None = None
    """Begin with shorter windows, and as many more of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._stages = [self.context] if self.warmup is None else self.warmup.stages(self.context)
        self._widths = {context: self._stretches(context + 1) for context in self._stages}

    def plan(self, batch: int) -> Plan:
        """Batch number `batch` of this rank."""
        stage = 0 if self.warmup is None else batch // self.warmup.stage_batches
        context = self._stages[min(stage, len(self._stages) - 1)]
        rows = self.batch_size * (self.context // context)
        return Plan(batch, context, True, tuple(self._draw(self._widths[context], batch, rows)))


@dataclass(eq=False)
class LaneSampler(Sampler):
    """Contiguous lanes: row r of a batch continues row r of the batch before, so the model's state can be carried.

    A lane is a stretch of `lane` bases (and a last target) drawn as a window of that length would be; a reverse lane
    walks the reverse complement, from the stretch's end to its start. Successive windows share one base: the target
    of the last input is the first input of the next window. All lanes of a tour begin and end together; a lane in an
    interval shorter than `lane` ends early, and its row is empty from then on. Tours are no longer than the longest
    interval asks for.
    """

    _: KW_ONLY
    lane: int
    """Bases over which the state is carried, a multiple of `context`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lane < self.context or self.lane % self.context:
            raise ValueError(f"lane: got {self.lane}, want a multiple of the context, {self.context}")
        targets = min(self.lane, longest_interval(self.intervals) - 1)
        self.tour_batches = -(-targets // self.context)
        self._lanes = self._stretches(self.lane + 1)

    def plan(self, batch: int) -> Plan:
        """Batch number `batch` of this rank; the first of each `tour_batches` has `reset`."""
        tour, step = divmod(batch, self.tour_batches)
        lanes = self._draw(self._lanes, tour, self.batch_size)
        return Plan(batch, self.context, step == 0, tuple(self._cut(lane, step) for lane in lanes))

    def _cut(self, lane: Window, step: int) -> Window:
        bases = lane.end - lane.start
        first, last = step * self.context, min((step + 1) * self.context + 1, bases)
        if last - first < 2:
            return Window(lane.contig, lane.start, lane.start, lane.reverse)
        if lane.reverse:
            return Window(lane.contig, lane.end - last, lane.end - first, True)
        return Window(lane.contig, lane.start + first, lane.start + last, False)


def validation_plans(
    intervals: Sequence[Interval],
    *,
    context: int,
    batch_size: int,
    max_bases: int | None = None,
    wanted: Callable[[Window], bool] = lambda window: True,
) -> list[Plan]:
    """Windows that tile the intervals in order, on the forward strand, the same each time.

    Successive windows share one base, so that every base of an interval but its first is a target exactly once; the
    last window of an interval is shorter. With more than `max_bases` targets, evenly spaced windows are kept, about
    that many bases in all and at least one window; in place of one that is not `wanted`, as it has nothing but N, the next
    that is.

    Raises ValueError for a context, batch size or max_bases below 1 and where no interval has 2 bases.
    """
    for name, value in (("context", context), ("batch_size", batch_size), ("max_bases", max_bases)):
        if value is not None:
            _at_least_one(name, value)
    longest_interval(intervals)
    windows = [
        Window(interval.contig, start, min(start + context + 1, interval.end))
        for interval in intervals
        for start in range(interval.start, interval.end - 1, context)
    ]
    targets = sum(window.end - window.start - 1 for window in windows)
    if max_bases is not None and targets > max_bases:
        keep = max(len(windows) * max_bases // targets, 1)
        first = [index * len(windows) // keep for index in range(keep)] + [len(windows)]
        windows = [
            next((one for one in windows[start:end] if wanted(one)), windows[start])
            for start, end in itertools.pairwise(first)
        ]
    rows = [tuple(windows[first : first + batch_size]) for first in range(0, len(windows), batch_size)]
    return [Plan(number, context, True, row) for number, row in enumerate(rows)]


def longest_interval(intervals: Sequence[Interval]) -> int:
    """Bases of the longest interval; ValueError where none has the 2 bases that an input and its target need."""
    longest = max((interval.end - interval.start for interval in intervals), default=0)
    if longest < 2:
        raise ValueError(f"intervals: got {len(intervals)}, the longest of {longest} bases, want one of at least 2")
    return longest


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: got {value}, want at least 1")


_PIECE = 1 << 22


class Window(NamedTuple):
    """A stretch of one contig, 0-based half-open; `reverse` reads its reverse complement. start == end is empty."""

    contig: str
    start: int
    end: int
    reverse: bool = False


class Stretches:
    """The stretches of `width` bases inside the intervals, where an interval that is shorter gives itself as a whole.

    gaps: of `find_gaps(genome, intervals)`, or None where there are none. Only stretches whose share of gap bases is
    at most `max_n` count; they are found once and exactly, so that no draw ever has to be repeated.

    A stretch is drawn by drawing a base uniformly from all bases of the intervals: the stretch is centred on it, then
    moved inward where it would cross a border of the interval. So bases within one width of a border come up 0.5 to
    1.5 times as often as all others.

    Raises ValueError where no stretch is left.
    """

    def __init__(
        self, intervals: Sequence[Interval], width: int, *, max_n: float, gaps: Sequence[np.ndarray] | None
    ) -> None:
        self._intervals = intervals
        self._half = width // 2
        rows = []
        for index, interval in enumerate(intervals):
            start, end = interval.start, interval.end
            if end - start < 2:
                continue
            bases = min(width, end - start)
            runs = np.empty((0, 2), np.int64) if gaps is None else gaps[index]
            # The small constant undoes the rounding of a product such as 0.29 * 100.
            for low, high in allowed_starts(runs, start, end, bases, int(max_n * bases + 1e-6)).tolist():
                centre_low = start if low == start else low + self._half
                centre_high = end if high == end - bases + 1 else high + self._half
                rows.append((index, bases, start, end - bases, centre_low, centre_high))
        if not rows:
            raise ValueError(
                f"max_n: got {max_n}, but no stretch of {width} bases has that few letters other than A, C, G, T; "
                "want a larger share, a shorter context or other intervals"
            )
        self._index, self._bases, self._first, self._last, self._centre, high = np.array(rows, np.int64).T
        self._upto = np.cumsum(high - self._centre)
        self._before = self._upto - (high - self._centre)

    def pick(self, words: np.ndarray, *, reverse_complement: bool) -> list[Window]:
        """One stretch for each pair of random 64-bit words, uint64 [n, 2]: its place, and its strand."""
        drawn = (words[:, 0] % np.uint64(self._upto[-1])).astype(np.int64)
        row = np.searchsorted(self._upto, drawn, side="right")
        centre = self._centre[row] + drawn - self._before[row]
        start = np.clip(centre - self._half, self._first[row], self._last[row])
        reverse = (words[:, 1] & np.uint64(1)).astype(bool) & reverse_complement
        columns = (self._index[row], start, start + self._bases[row], reverse)
        return [
            Window(self._intervals[index].contig, start, end, strand)
            for index, start, end, strand in zip(*(column.tolist() for column in columns), strict=True)
        ]


def find_gaps(genome: Genome, intervals: Sequence[Interval]) -> list[np.ndarray]:
    """Runs of letters other than A, C, G, T, U (either case), one int64 array [runs, 2] of (start, end) per interval.

    Positions are on the contig, 0-based half-open. Reads every base of the intervals once, piece by piece.
    """
    found: list[np.ndarray] = []
    with Progress("searching for gaps of N", float(sum(map(len, intervals)))) as progress:
        for interval in intervals:
            found.append(_find_runs(genome, interval))
            progress.add(len(interval))
    return found


def allowed_starts(runs: np.ndarray, start: int, end: int, width: int, limit: int) -> np.ndarray:
    """Starts of the windows of `width` bases inside [start, end) that hold at most `limit` bases of `runs`.

    runs: int64 [n, 2], sorted, no two touching; width: at most end - start. Returns sorted half-open ranges [m, 2].

    The gap bases in a window are a piecewise linear function of its start, of slope -1, 0 or 1, that bends only where
    a border of the window meets a border of a run: it is enough to look at those.
    """
    stop = end - width + 1
    if not len(runs):
        return np.array([[start, stop]], np.int64)
    edges = runs.ravel()
    bends = np.unique(np.clip(np.concatenate([[start, stop], edges, edges - width]), start, stop))
    upto = np.cumsum(np.diff(runs))
    upto = np.stack([upto - np.diff(runs)[:, 0], upto], axis=1).ravel()
    excess = np.interp(bends + width, edges, upto) - np.interp(bends, edges, upto) - limit
    left, right = excess[:-1].astype(np.int64), excess[1:].astype(np.int64)
    low = bends[:-1] + np.maximum(left, 0)
    high = np.where(right > 0, bends[1:] - right + 1, bends[1:])
    kept = ((left <= 0) | (right <= 0)) & (low < high)
    return np.stack([low, high], axis=1)[kept]


def _find_runs(genome: Genome, interval: Interval) -> np.ndarray:
    flips, inside = [], False
    for low in range(interval.start, interval.end, _PIECE):
        letters = genome.fetch(interval.contig, low, min(low + _PIECE, interval.end))
        unknown = base_digits(letters) > 3
        flips.append(low + np.flatnonzero(np.diff(unknown, prepend=inside)))
        inside = bool(unknown[-1])
    return np.concatenate([*flips, [interval.end] * inside]).astype(np.int64).reshape(-1, 2)
