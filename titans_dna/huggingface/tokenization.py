"""The tokenisers behind the interface of transformers' tokenisers, from the same tokenizer.json."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizer

from titans_dna.tokens import vocabulary as voc
from titans_dna.tokens.tokenizer import Tokenizer, load_tokenizer


class TitansDNATokenizer(PreTrainedTokenizer):
    """Ids are those of `titans_dna`'s own `encode`: no special ids are added, and no text stands for one.

    Batches are padded on the right. `decode` writes special ids by name, or leaves them out with
    `skip_special_tokens`, and [UNK] as N.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, tokenizer_file: str | Path, **kwargs: Any) -> None:  # what transformers itself keeps
        """Raises what `load_tokenizer` raises."""
        self.titans: Tokenizer = load_tokenizer(tokenizer_file)
        """The tokeniser of titans_dna."""
        self._names = _names(self.titans)
        self._ids = {name: i for i, name in enumerate(self._names)}
        special = {"bos": voc.BOS, "unk": voc.UNK, "sep": voc.SEP, "pad": voc.PAD, "cls": voc.CLS, "mask": voc.MASK}
        fixed = {f"{name}_token": voc.SPECIALS[i] for name, i in special.items()}
        super().__init__(**{**kwargs, **fixed, "special_tokens_pattern": "none"})

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> TitansDNATokenizer:
        """As in transformers; tokenizer.json is enough."""
        # Without these, transformers would look into tokenizer.json for what its own tokenisers have there.
        return super().from_pretrained(*args, **{**kwargs, "added_tokens_decoder": {}})

    @property
    def vocab_size(self) -> int:
        return self.titans.vocab_size

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Names of the tokens."""
        return [self._names[i] for i in self.titans.encode(text).tolist()]

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> BatchEncoding:
        """With `return_offsets_mapping`, the place of each token in its text too, (0, 0) for padding."""
        wanted = kwargs.pop("return_offsets_mapping", False)
        found = super()._encode_plus(text, text_pair, *args, **kwargs)
        if not wanted:
            return found
        texts = [text] if isinstance(text, str) else list(text)
        if text_pair is not None or not all(isinstance(one, str) for one in texts):
            raise ValueError("return_offsets_mapping: got pairs, words or ids, want texts")
        kind = kwargs.get("return_tensors")
        rows = found["input_ids"] if kind or not isinstance(text, str) else [found["input_ids"]]
        offsets = np.zeros((len(texts), max(map(len, rows), default=0), 2), np.int64)
        for place, one, row in zip(offsets, texts, rows, strict=True):
            real, spans = np.asarray(row) != voc.PAD, self.titans.spans(one)
            number = int(real.sum())
            kept = spans[len(spans) - number :] if self.truncation_side == "left" else spans[:number]
            place[: len(row)][real] = kept
        listed = [list(map(tuple, place[: len(row)].tolist())) for place, row in zip(offsets, rows, strict=True)]
        found["offset_mapping"] = offsets if kind else listed[0] if isinstance(text, str) else listed
        return BatchEncoding(found.data, tensor_type=kind) if kind else found

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}tokenizer.json"
        self.titans.save(path)
        return (str(path),)

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Raises ValueError for a token that the vocabulary lacks: it is the model's, and does not grow."""
        for token in new_tokens or ():
            if str(token) not in self._ids:
                raise ValueError(f"new_tokens: got {str(token)!r:.60}, want none: the vocabulary does not grow")
        return super()._add_tokens(new_tokens, special_tokens)

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, voc.UNK)

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Letters, as `decode` without special ids."""
        return self.titans.decode([self._convert_token_to_id(token) for token in tokens])

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, *args: Any, **kwargs: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if skip_special_tokens:
            return self.titans.decode(ids)
        runs = ((special, list(run)) for special, run in groupby(ids, lambda i: i < voc.UNK))
        return "".join(
            "".join(voc.SPECIALS[i] for i in run) if special else self.titans.decode(run) for special, run in runs
        )


def _names(tokenizer: Tokenizer) -> list[str]:
    """A name for each id: what it spells, with the id behind where that is another's name already."""
    names = dict.fromkeys([*voc.SPECIALS, *voc.LETTERS])
    for i in range(len(names), tokenizer.vocab_size):
        text = tokenizer.decode([i])
        names[f"{text}#{i}" if text in names else text] = None
    return list(names)
