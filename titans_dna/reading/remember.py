"""Reading sequence of any length into a model's memory, and what each base cost to predict."""

from __future__ import annotations

from typing import Any, NamedTuple

from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.reading.bits import Bits
from titans_dna.reading.source import Strand, as_source
from titans_dna.reading.stream import calls, evaluating, logits, read, token_bases

PIECE = 8192
"""Bases of a call: enough that a call's fixed costs vanish, few enough for a processor's caches."""


class Read(NamedTuple):
    """What a model has read."""

    state: tuple[Any, ...]
    """After it; for `model(ids, state)`, `embed(…, state=…)`, or to go on reading."""
    bases: int
    """Letters read, those that are no A, C, G or T included."""
    bits_per_base: float
    """Mean over the A, C, G and T, each predicted from all that was read before it; the first base of each sequence is not
    counted. NaN where there is none."""


def remember(model: TitansDNA, sequences: Any, state: tuple[Any, ...] | None = None, *, piece: int = PIECE) -> Read:
    """Read sequences one after the other, as one, into a model's memory; memory use does not grow with their length.

    model: with a tokenizer, as `titans_dna.load` gives it. sequences: as `embed` takes them: a sequence, an iterable of such,
        or the path of a sequence file, whose records are read in order.
    state: what an earlier call returned or `load_state` gave; None starts afresh. It is not changed.
    piece: bases per call of the model; it changes speed and memory, and no number beyond rounding.

    Raises ValueError naming the argument, what `open_genome` raises for a file, and FloatingPointError where the model's
    output is not finite.
    """
    if piece < 1:
        raise ValueError(f"piece: got {piece}, want at least 1")
    tokenizer = tokenizer_of(model)
    source = as_source(sequences)
    if not len(source.lengths):
        raise ValueError("sequences: got none, want at least one")
    bits, tokens = Bits(tokenizer), max(1, piece // token_bases(tokenizer))
    with evaluating(model):
        for number in range(len(source.lengths)):
            bits.begin()
            row = Strand(source, number, tokenizer)
            state = read(logits(model), calls([row], tokens), bits, state, device=model.norm.weight.device)
    assert state is not None
    return Read(state, int(source.lengths.sum()), bits.per_base)
