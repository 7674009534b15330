"""The test: plant, read on, and at each distance ask from a branch of the state.

The state of a model is a value, so one stream of background per row serves all distances: at each of them the questions
are put to the state at hand, what comes out is thrown away, and the stream goes on as if nobody had asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from needle.background import stretches
from needle.options import NeedleTaskOptions
from needle.words import Pair, draw_pairs
from titans_dna.nn.model import take_rows
from titans_dna.reading.source import Tokens
from titans_dna.reading.stream import Ids, calls, logits, read
from titans_dna.tokens.vocabulary import BASE

GAPS = (16, 48)
"""Bases of background before a planted pair: least, and one more than most."""
FOLD = 16
"""Questions put side by side, at most: with full attention each takes a copy of its row's cache."""


class Question(NamedTuple):
    """One needle of the test."""

    row: int
    pair: Pair
    needles: int
    """Needles of its row, distractors not counted."""
    distractor: bool
    """Whether another pair of the row has a key that differs in one base."""


class Test(NamedTuple):
    """Rows with planted pairs, and what they are asked."""

    planted: np.ndarray
    """uint8 [rows, n]; the last pair of each row ends with it."""
    inside: np.ndarray
    """bool [rows, n]: tokens of pairs."""
    starts: np.ndarray
    """[rows]: where in the background each row goes on."""
    questions: list[Question]


class Answer(NamedTuple):
    """One question at one distance."""

    question: Question
    distance: int
    right: list[bool]
    """For each base of the value, those before it given."""


def make_test(rng: np.random.Generator, background: np.ndarray, task: NeedleTaskOptions) -> Test:
    """Every second needle of a row, counted on from row to row, has a distractor, and key lengths take turns.

    Raises ValueError where the needles are more than the keys.
    """
    texts: list[list[Pair]] = []
    questions = []
    for needles, rows in zip(task.needles, task.rows, strict=True):
        for row in range(rows):
            turns = [row * needles + i for i in range(needles)]
            lengths = [task.key_lengths[turn // 2 % len(task.key_lengths)] for turn in turns]
            distracted = [turn % 2 == 1 for turn in turns]
            pairs = draw_pairs(rng, lengths, task.value_length, distracted)
            asked = iter(pairs)
            for has in distracted:
                questions.append(Question(len(texts), next(asked), needles, has))
                if has:
                    next(asked)
            texts.append([pairs[i] for i in rng.permutation(len(pairs))])
    gaps = [rng.integers(*GAPS, size=len(pairs)) for pairs in texts]
    length = max(
        sum(len(pair.tokens()) for pair in pairs) + int(gap.sum()) for pairs, gap in zip(texts, gaps, strict=True)
    )
    starts = rng.integers(len(background), size=len(texts))
    planted = stretches(background, starts - length, length)
    inside = np.zeros(planted.shape, dtype=bool)
    for row, marked, pairs, gap in zip(planted, inside, texts, gaps, strict=True):
        _plant(row, marked, pairs, gap)
    return Test(planted, inside, starts, questions)


@torch.no_grad()
def probe(
    model: Any,
    test: Test,
    background: np.ndarray,
    distances: tuple[int, ...],
    piece: int,
    said: Callable[[int], None] = lambda bases: None,
) -> Iterator[list[Answer]]:
    """The answers at each distance, from the nearest on.

    model: `model(ids [b, t], state)` → Output. piece: tokens of each row per call. said: told the bases of each row
    that were read since the last time.
    """
    call, rows = logits(model), len(test.planted)
    state = read(call, calls([Ids(row) for row in test.planted], piece))
    after = [_Background(background, int(start), distances[-1]) for start in test.starts]
    done = 0
    for distance in distances:
        part = calls(after, piece, done, distance)
        state = read(call, part, state=state, progress=lambda bases: said(int(bases) // rows))
        done = distance
        yield [
            Answer(question, distance, right)
            for fold in _folds(test.questions)
            for question, right in zip(fold, ask(model, state, fold), strict=True)
        ]


@torch.no_grad()
def ask(model: Any, state: Any, questions: list[Question]) -> list[list[bool]]:
    """For each question, whether the likeliest base is the value's, base for base. The keys are of one length."""
    rows = torch.tensor([question.row for question in questions])
    ids = torch.from_numpy(np.stack([question.pair.tokens() for question in questions])).long()
    values = len(questions[0].pair.value)
    logits = model(ids[:, :-1], take_rows(state, rows)).logits[:, -values:, BASE : BASE + 4]
    return (logits.argmax(-1) + BASE == ids[:, -values:]).tolist()


class _Background:
    """A row of background from a place on; see `reading.stream.Row`."""

    later = False

    def __init__(self, background: np.ndarray, start: int, tokens: int) -> None:
        self.background, self.start, self.tokens = background, start, tokens

    def take(self, start: int, stop: int) -> Tokens:
        return Tokens(stretches(self.background, np.array([self.start + start]), stop - start)[0], None)


def _plant(row: np.ndarray, inside: np.ndarray, pairs: list[Pair], gaps: np.ndarray) -> None:
    end = len(row)
    for pair, gap in zip(reversed(pairs), reversed(gaps.tolist()), strict=True):
        text = pair.tokens()
        row[end - len(text) : end] = text
        inside[end - len(text) : end] = True
        end -= len(text) + gap


def _folds(questions: list[Question]) -> Iterator[list[Question]]:
    """Groups of keys of one length."""
    by_length: dict[int, list[Question]] = {}
    for question in questions:
        by_length.setdefault(len(question.pair.key), []).append(question)
    for group in by_length.values():
        yield from (group[i : i + FOLD] for i in range(0, len(group), FOLD))
