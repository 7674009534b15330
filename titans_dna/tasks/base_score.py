"""Scores of every base of a sequence: streamed through the model from both ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from titans_dna.nn.finetuned import FineTuned, turned
from titans_dna.nn.heads import TokenHead
from titans_dna.reading.embed import evaluating
from titans_dna.tasks.within import within
from titans_dna.tokens.nucleotide import NucleotideTokenizer
from titans_dna.tokens.strands import reverse_complement

PIECE = 4096
"""Bases of each row in a call of the model."""


def score_bases(
    model: FineTuned, sequences: Sequence[bytes], *, batch_bases: int = 1 << 15, piece: int = PIECE
) -> list[np.ndarray]:
    """Probabilities of each base of sequences: float64 [bases, classes] each, in their order.

    batch_bases, piece: bases side by side, and of each row in a call; they change speed and memory, and no score. The
    hidden states of a batch are all in memory, 4 × width bytes a base and strand.
    """
    assert isinstance(model.head, TokenHead), "a question about bases"
    lengths = np.array([len(one) for one in sequences])
    found: list[np.ndarray] = [np.empty(0)] * len(sequences)
    with evaluating(model):
        for part in within(lengths, batch_bases):
            letters = [sequences[i] for i in part]
            ids, widths = (one.to(model.backbone.norm.weight.device) for one in rows_of(letters))
            hidden = _streamed(model, ids, piece)
            if model.question.both_strands:
                other = rows_of([reverse_complement(one) for one in letters])[0].to(ids.device)
                hidden = torch.cat([hidden, turned(_streamed(model, other, piece), widths.sum(1))], dim=-1)
            scores = model.scores(model.head(hidden))
            for row, number in enumerate(part):
                found[number] = scores[row, : lengths[number]]
    return found


def rows_of(sequences: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Ids and widths [b, t] of upper-case letters, a token a base, padded on the right."""
    tokenizer = NucleotideTokenizer()
    ids = np.full((len(sequences), max(map(len, sequences))), tokenizer.pad_id, dtype=np.int64)
    widths = np.zeros_like(ids)
    for row, letters in enumerate(sequences):
        ids[row, : len(letters)] = tokenizer.encode(letters)
        widths[row, : len(letters)] = 1
    return torch.from_numpy(ids), torch.from_numpy(widths)


def _streamed(model: FineTuned, ids: Tensor, piece: int) -> Tensor:
    state, hidden = None, []
    for part in ids.split(piece, dim=1):
        one, state = model.backbone.features(part, state)
        hidden.append(one)
    return torch.cat(hidden, dim=1)
