"""What a fine-tuned model says: of sequences of any length, one answer each or one for each base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from titans_dna.nn.finetuned import FineTuned, Question, turned
from titans_dna.nn.pools import PooledHead, TokenHead
from titans_dna.reading.embed import Pooled
from titans_dna.reading.source import Source, TextSource, as_source
from titans_dna.reading.stream import Ids, Piece, calls, evaluating, finite, group, hidden, padded, read, stream
from titans_dna.run.progress import Progress
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import NucleotideTokenizer

PIECE = 4096
"""Bases of each row in a call of the model, of an answer for each base."""


def predict(
    model: FineTuned,
    sequences: Any,
    *,
    state: tuple[Any, ...] | None = None,
    batch_size: int = 64,
    batch_bases: int = 1 << 17,
    workers: int = 0,
) -> np.ndarray | list[np.ndarray]:
    """What a fine-tuned model says of sequences of any length, in their order: probabilities, float64 [n, classes], for
    regression values [n]; of a model with an answer for each base, a list of n arrays [bases, classes].

    model: as `titans_dna.load` gives it; it computes where its weights are. `answers` puts scores into words.
    sequences: as `embed` takes them: a sequence, an iterable of such, or the path of a sequence file.
    state: what `model.backbone` remembers already, as `titans_dna.remember` returns it; each sequence is read after that. An
        answer for each base is given in windows of their own, as long as those of the training, and takes none.
    batch_size, batch_bases, workers: sequences and bases side by side, and processes that read; they change speed and
        memory, and no score.

    Raises ValueError for a sequence that is empty or holds a letter that is no nucleotide code, or a value out of range;
    what `open_genome` raises for a file, and FloatingPointError where a score is not finite.
    """
    for name, value, low in (("batch_size", batch_size, 1), ("batch_bases", batch_bases, 1), ("workers", workers, 0)):
        if value < low:
            raise ValueError(f"{name}: got {value}, want at least {low}")
    if model.question.unit == "sequence":
        source = as_source(sequences)
        return score_all(model, source, batch_size=batch_size, batch_bases=batch_bases, workers=workers, state=state)
    if state is not None:
        raise ValueError(
            "state: got one for a model with an answer for each base, from windows of their own; want None"
        )
    source = as_source(sequences)
    found: list[list[np.ndarray]] = [[] for _ in source.lengths]
    windows = Windows(source.lengths, model.question.window)
    for some in windows.together(0, len(windows), batch_bases):
        for (number, *_), scores in zip(some, score_windows(model, source, some, batch_bases)[1], strict=True):
            found[number].append(scores)
    return [np.concatenate(parts) for parts in found]


def check_one(model: FineTuned, source: str) -> None:
    """ValueError for an ensemble, whose members would need a state each."""
    if model.others:
        raise ValueError(f"--state: {source} is {len(model.members)} models, which need a state each; want it left out")


def answers(question: Question, scores: np.ndarray) -> list[str] | list[float]:
    """What scores of sequences amount to: the likeliest class, the classes of 0.5 and more joined by `;`, or the value."""
    if question.task == "regression":
        return scores.tolist()
    if question.task == "multilabel":
        holds = (scores >= 0.5).tolist()
        return [";".join(name for name, one in zip(question.classes, row, strict=True) if one) for row in holds]
    return [question.classes[number] for number in scores.argmax(axis=1).tolist()]


def score_sequences(
    model: FineTuned, sequences: Sequence[bytes], *, batch_size: int = 64, batch_bases: int = 1 << 17, title: str = ""
) -> np.ndarray:
    """Scores of sequences of at least one base, in their order: [n, classes], for regression [n].

    batch_size, batch_bases: sequences and bases side by side; they change speed and memory, and no score. title: of the
    progress; none: silent.
    """
    source = TextSource(list(sequences))
    with _progress(title, source.lengths) as progress:
        return score_all(model, source, batch_size=batch_size, batch_bases=batch_bases, progress=progress)


def score_all(
    model: FineTuned,
    source: Source,
    *,
    batch_size: int = 64,
    batch_bases: int = 1 << 17,
    workers: int = 0,
    progress: Callable[[float], object] = lambda bases: None,
    state: tuple[Any, ...] | None = None,
) -> np.ndarray:
    """Scores in the order of the source: float64 [n, classes], for regression [n]. state: of one row, which each sequence
    goes on from."""
    found = np.empty((len(source.lengths), *score_shape(model.question)))
    batches = score_groups(source.lengths, batch_size, batch_bases)
    for numbers, scores in score_batches(
        model, source, batches, batch_bases=batch_bases, workers=workers, progress=progress, state=state
    ):
        found[numbers] = scores
    return found


def score_shape(question: Question) -> tuple[int, ...]:
    """Of the scores of one sequence: [classes], for regression a number."""
    return () if question.task == "regression" else (question.outputs,)


def score_groups(lengths: np.ndarray, batch_size: int, batch_bases: int) -> list[list[int]]:
    """Numbers of the sequences that are scored side by side, longest first; lengths [n] in bases."""
    return group(lengths, rows=batch_size, piece=max(1, batch_bases // batch_size))


def score_batches(
    model: FineTuned,
    source: Source,
    batches: Sequence[Sequence[int]],
    *,
    batch_bases: int = 1 << 17,
    workers: int = 0,
    progress: Callable[[float], object] = lambda bases: None,
    state: tuple[Any, ...] | None = None,
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Each batch of sequence numbers, and their scores, float64. `progress` is told of bases."""
    members = model.members
    if state is not None and len(members) > 1:
        raise ValueError(f"state: got one for {len(members)} models whose mean is the answer, want None")
    each = [
        _score_batches(one, source, batches, batch_bases, workers, lambda bases: progress(bases / len(members)), state)
        for one in members
    ]
    for found in zip(*each, strict=True):
        yield found[0][0], np.mean([scores for _, scores in found], axis=0)


def _score_batches(
    model: FineTuned,
    source: Source,
    batches: Sequence[Sequence[int]],
    batch_bases: int,
    workers: int,
    progress: Callable[[float], object],
    state: tuple[Any, ...] | None,
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Of one member."""
    head, both = model.head, model.question.both_strands
    assert isinstance(head, PooledHead), "a question about sequences"

    def carried(numbers: Sequence[int]) -> _Answered:
        return _Answered(model, head, len(numbers) * (1 + both))

    taken = stream(
        model.backbone, source, batches, carried,
        together=batch_bases, rc=both, state=state, workers=workers, progress=progress, whole=model,
    )  # fmt: skip
    for numbers, pooled in taken:
        with evaluating(model):
            found = finite(model.scores(pooled.out()))
        yield numbers, (found[::2] + found[1::2]) / 2 if both else found


class _Answered(Pooled):
    """What the head says of each row, and the k-mers."""

    def __init__(self, model: FineTuned, head: PooledHead, rows: int) -> None:
        super().__init__(head, rows)
        self._votes = None if model.kmers is None else Pooled(model.kmers_of, rows)

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        super().add(piece)
        if self._votes is not None:
            self._votes.add(piece._replace(out=piece.ids))

    def out(self) -> torch.Tensor:
        """What is said of each row, [rows, outputs]."""
        found = super().out()
        return found if self._votes is None else found + self._votes.out().to(found.dtype)


def score_bases(
    model: FineTuned,
    sequences: Sequence[bytes],
    *,
    kept: Sequence[slice] | None = None,
    batch_bases: int = 1 << 15,
    piece: int = PIECE,
    title: str = "",
) -> list[np.ndarray]:
    """Probabilities of each base of sequences: float64 [bases, classes] each, in their order.

    sequences: upper-case letters. kept: which bases of each are wanted, what is around them being read; None: all.
    batch_bases, piece: bases side by side, and of each row in a call; they change speed and memory, and no score. The hidden
        states of a batch are all in memory, 4 × width bytes a base and strand. title: of the progress; none: silent.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(sequences)
    lengths = np.array([len(one) for one in sequences])
    with evaluating(model), _progress(title, lengths) as progress:
        for part in group(lengths, bases=batch_bases):
            letters = [sequences[i] for i in part]
            wanted = [slice(len(one)) for one in letters] if kept is None else [kept[i] for i in part]
            each = [_score_bases(one, letters, wanted, piece) for one in model.members]
            for number, *scores in zip(part, *each, strict=True):
                found[number] = np.mean(scores, axis=0)
            progress(float(lengths[part].sum()))
    return found


def _score_bases(model: FineTuned, letters: list[bytes], kept: list[slice], piece: int) -> list[np.ndarray]:
    """What one member says of the wanted bases of rows that are read together."""
    assert isinstance(model.head, TokenHead), "a question about bases"
    states, widths = _hidden(model, letters, piece)
    if model.question.both_strands:
        back, _ = _hidden(model, [reverse_complement(one) for one in letters], piece)
        states = torch.cat([states, turned(back, widths.sum(1))], dim=-1)
    scores = finite(model.scores(model.head(states)))
    return smooth_rows([row[wanted] for row, wanted in zip(scores, kept, strict=True)], model.question)


def smooth_rows(rows: list[np.ndarray], question: Question) -> list[np.ndarray]:
    """Scores of rows [bases, classes], smoothed where the question asks it, each alone."""
    if not question.transitions:
        return rows
    sizes = np.array([len(row) for row in rows])
    there = np.arange(sizes.max()) < sizes[:, None]
    together = np.zeros((*there.shape, question.outputs))
    together[there] = np.concatenate(rows)
    return [row[:size] for row, size in zip(smoothed(together, there, question), sizes, strict=True)]


def smoothed(scores: np.ndarray, there: np.ndarray, question: Question) -> np.ndarray:
    """What each base is, given what is said of all bases of its row: forward and backward over a Markov chain of the classes.

    scores: probabilities [rows, t, classes]. there [rows, t]: False in the padding behind a row. A row is smoothed alone.
    """
    step = np.array(question.transitions)
    shares = np.linalg.matrix_power(step, 1 << 20)[0]  # what the chain tends to
    seen = np.where(there[..., None], (np.maximum(scores, 1e-9) / shares) ** question.trust, 1.0)
    forward, backward = np.empty_like(seen), np.ones_like(seen)
    now = np.tile(shares, (len(seen), 1))
    for t in range(seen.shape[1]):
        now = (now if t == 0 else now @ step) * seen[:, t]
        now /= now.sum(1, keepdims=True)
        forward[:, t] = now
    for t in range(seen.shape[1] - 2, -1, -1):
        now = (backward[:, t + 1] * seen[:, t + 1]) @ step.T
        backward[:, t] = now / now.sum(1, keepdims=True)
    both = forward * backward
    return both / both.sum(2, keepdims=True)


@contextmanager
def _progress(title: str, lengths: np.ndarray) -> Iterator[Callable[[float], object]]:
    """What is told of bases that are done."""
    if not title:
        yield lambda bases: None
        return
    with Progress(title, float(lengths.sum())) as progress:
        yield progress.add


class Windows:
    """The sequences of a source in windows of `window` bases, each sequence from its start: by number, (number of the
    sequence, start, end)."""

    def __init__(self, lengths: np.ndarray, window: int) -> None:
        self._lengths, self._window = lengths, window
        self._last = np.cumsum(-(-lengths // window))

    def __len__(self) -> int:
        return int(self._last[-1]) if len(self._last) else 0

    def __getitem__(self, number: int) -> tuple[int, int, int]:
        sequence = int(np.searchsorted(self._last, number, side="right"))
        length = int(self._lengths[sequence])
        start = (number - int(self._last[sequence]) + -(-length // self._window)) * self._window
        return sequence, start, min(start + self._window, length)

    def together(self, first: int, last: int, bases: int) -> Iterator[list[tuple[int, int, int]]]:
        """Windows [first, last), as many at a time as `bases` bases are."""
        step = max(1, bases // self._window)
        for at in range(first, last, step):
            yield [self[number] for number in range(at, min(at + step, last))]


def score_windows(
    model: FineTuned, source: Source, windows: Sequence[tuple[int, int, int]], batch_bases: int
) -> tuple[list[bytes], list[np.ndarray]]:
    """Letters of windows, upper-case with T for U, and the probabilities of their bases, [bases, classes] each."""
    margin, letters, kept = model.question.margin, list[bytes](), list[slice]()
    for number, start, end in windows:
        first, last = max(0, start - margin), min(int(source.lengths[number]), end + margin)
        letters.append(source.part(number, first, last).upper().replace(b"U", b"T"))
        kept.append(slice(start - first, end - first))
    scores = score_bases(model, letters, kept=kept, batch_bases=batch_bases)
    return [one[wanted] for one, wanted in zip(letters, kept, strict=True)], scores


class _Kept:
    """Takes the hidden states of all."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def add(self, piece: Piece) -> None:
        self.found.append(piece.out)


def _hidden(model: FineTuned, letters: list[bytes], piece: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [b, t, width] and widths [b, t] of sequences, the shorter ones with padding to the end."""
    ids, widths = padded(letters, NucleotideTokenizer())
    kept, device = _Kept(), model.backbone.norm.weight.device
    read(hidden(model.backbone), calls([Ids(row) for row in ids.numpy()], piece), kept, device=device)
    return torch.cat(kept.found, dim=1), widths.to(device)
