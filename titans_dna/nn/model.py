"""The language model: embedding (→ stem, k-mers) → blocks → norm → head (+ k-mers). State in, state out; nothing is stored
between calls."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import titans_dna
from titans_dna.config import TitansConfig
from titans_dna.nn.blocks import build_blocks
from titans_dna.nn.counts import Counts
from titans_dna.nn.entry import Entry, KmerHead, Looked
from titans_dna.nn.layers import RMSNorm
from titans_dna.nn.memory import NeuralMemory
from titans_dna.nn.packing import pack
from titans_dna.tokens.tokenizer import Tokenizer
from titans_dna.tokens.vocabulary import BASE

NO_TOKENIZER = "model: has no tokenizer, want one from titans_dna.load, or set model.tokenizer"


class Output(NamedTuple):
    """What one call returns."""

    hidden: Tensor
    """[b, t, width], after the last norm."""
    logits: Tensor
    """[b, t, vocab_size]; position t predicts token t + 1."""
    state: tuple[Any, ...]
    """An entry for each of `TitansDNA.parts`; passed back, the sequence goes on exactly. Empty after a packed call."""


class TitansDNA(nn.Module):
    """A causal Titans language model (arXiv 2501.00663, section 4)."""

    tokenizer: Tokenizer | None = None
    """What makes ids of sequences for it; `titans_dna.load` sets it. The model itself takes ids."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        """Keep only each block's input in training and compute the rest again in the backward."""
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.entry = Entry(config) if config.stem or config.kmers or config.counts else None
        self.blocks = nn.ModuleList(build_blocks(config))
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.kmer_head = KmerHead(config) if config.kmers or config.counts else None
        self.logit_scale = initialise(self, config)

    @property
    def counts(self) -> Counts | None:
        """What `config.counts` asks; None: nothing is known, and the model answers without."""
        return None if self.entry is None else self.entry.counts

    @counts.setter
    def counts(self, counts: Counts | None) -> None:
        if self.entry is None or not self.config.counts:
            raise ValueError("counts: got some for a model whose config.counts asks none")
        self.entry.counts = counts

    def forward(
        self,
        ids: Tensor,
        state: tuple[Any, ...] | None = None,
        cu_seqlens: Tensor | None = None,
        own: Tensor | None = None,
    ) -> Output:
        """ids: whole numbers [b, t], t >= 1, below vocab_size. state: what the call before returned; None is a fresh start.

        The tokens of a sequence may come in one call or in pieces of any length: the outputs are the same.
        cu_seqlens: whole numbers [n + 1] with ids [1, t]: n sequences packed end to end, sequence i being tokens
            cu_seqlens[i] to cu_seqlens[i + 1]; 0 first, never falling (a sequence may be empty), t last. Each gives what
            it gives alone, as a row [1, t_i] from a fresh start. No state goes in, and none comes out: it is ().
        own: in training, ids [b, t] that follow each and are among what `counts` counted: one occurrence of each is left out.
        Raises ValueError on another shape or kind, a state of another model, or a state beside cu_seqlens.
        """
        hidden, after, looked = self._read(ids, state, -1, cu_seqlens, own)
        return Output(hidden, self._logits(hidden, looked), after)

    def logits(self, hidden: Tensor, ids: Tensor, state: tuple[Any, ...] | None = None) -> Tensor:
        """[b, n, vocab_size] of the hidden states [b, n, width] that `features(ids, state)` gave of the last n of its ids."""
        looked = None if self.entry is None else self.entry.look(ids, None if state is None else state[0])
        return self._logits(hidden, looked)

    def _logits(self, hidden: Tensor, looked: Looked | None) -> Tensor:
        logits = self.head(hidden) * self.logit_scale
        if self.kmer_head is None or looked is None or not logits.shape[2]:
            return logits
        votes = self.kmer_head(hidden, looked)
        return logits + F.pad(votes, (BASE, logits.shape[2] - BASE - votes.shape[2]))

    def parts(self, layer: int = -1) -> list[nn.Module]:
        """What has an entry of the state, in its order: stem and k-mers, where there are such, and the blocks up to `layer`."""
        blocks = self.blocks if layer == -1 else self.blocks[: layer + 1]
        return [*blocks] if self.entry is None else [self.entry, *blocks]

    def features(
        self,
        ids: Tensor,
        state: tuple[Any, ...] | None = None,
        layer: int = -1,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """The forward pass without the head: [b, t, width] and the state, which has one entry for each part that ran.

        layer: -1, the output of the last block after the last norm (`Output.hidden`), or the number of the block, from
            0, whose output is wanted as it is; the blocks after it are left out.
        cu_seqlens: packed sequences, as `forward` has them.
        Raises what `forward` raises, and ValueError for a block that the model lacks.
        """
        return self._read(ids, state, layer, cu_seqlens)[:2]

    def _read(
        self,
        ids: Tensor,
        state: tuple[Any, ...] | None,
        layer: int,
        cu_seqlens: Tensor | None,
        own: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Any, ...], Looked | None]:
        if ids.ndim != 2 or ids.shape[1] < 1 or ids.is_floating_point():
            raise ValueError(f"ids: got {ids.dtype} {list(ids.shape)}, want whole numbers [b, t] with t at least 1")
        if not -1 <= layer < len(self.blocks):
            raise ValueError(f"layer: got {layer}, want -1 (after the last norm) or 0 to {len(self.blocks) - 1}")
        parts = self.parts(layer)
        if state is not None and cu_seqlens is not None:
            raise ValueError("state: got one beside cu_seqlens, want None: every packed sequence starts afresh")
        packing = None if cu_seqlens is None else pack(cu_seqlens, ids)
        if state is None:
            state = (None,) * len(parts)
        if len(state) != len(parts):
            raise ValueError(f"state: got {len(state)} parts, want {len(parts)}")
        x, after, looked = self.embedding(ids.long()), [], None
        for block, before in zip(parts, state, strict=True):
            if isinstance(block, Entry):
                looked = block.look(ids, before, packing, own)
                x, new = block(looked, x, before)
            elif self.activation_checkpointing and torch.is_grad_enabled():
                x, new = checkpoint(block, x, before, packing, use_reentrant=False)
            else:
                x, new = block(x, before, packing)
            after.append(new)
        return self.norm(x) if layer == -1 else x, tuple(after) if packing is None else (), looked

    def parameter_count(self) -> int:
        """Number of learned values, a tied embedding counted once."""
        return sum(p.numel() for p in self.parameters())

    def embed(self, *arguments: Any, **options: Any) -> Any:
        """Deprecated: `titans_dna.embed(model, …)`."""
        _deprecated("model.embed(…)", "titans_dna.embed(model, …)")
        return titans_dna.embed(self, *arguments, **options)

    @classmethod
    def from_pretrained(cls, source: Any) -> TitansDNA:
        """Deprecated: `titans_dna.load(source)`."""
        _deprecated("TitansDNA.from_pretrained(…)", "titans_dna.load(…)")
        return titans_dna.load(source, TitansDNA)

    def push_to_hub(self, *arguments: Any, **options: Any) -> str:
        """Deprecated: `titans_dna.push(model, …)`."""
        _deprecated("model.push_to_hub(…)", "titans_dna.push(model, …)")
        return titans_dna.push(self, *arguments, **options)


def tokenizer_of(model: TitansDNA, missing: str = NO_TOKENIZER) -> Tokenizer:
    """The model's tokenizer; ValueError with the message `missing` for a model without one."""
    if model.tokenizer is None:
        raise ValueError(missing)
    return model.tokenizer


def weights_fingerprint(model: nn.Module, skip: Sequence[str] = ()) -> str:
    """32 hexadecimal digits that change with any weight, its name or its shape, but for names that hold one of `skip`."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        if any(part in name for part in skip):
            continue
        digest.update(f"{name}\t{list(weight.shape)}\t{weight.dtype}\n".encode())
        digest.update(weight.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def initialise(model: nn.Module, config: TitansConfig) -> float:
    """Draw the weights of a language model with `embedding` and `head`, tie the two where the configuration says so, and
    return the factor of its logits.

    Linear layers get standard deviation 1/√fan_in, those that end a residual branch a smaller one with depth.
    """
    branch = (2 * config.layers) ** -0.5
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            scale = branch if name.endswith((".output", ".down")) else 1.0
            nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
    embedding, head = model.get_submodule("embedding"), model.get_submodule("head")
    assert isinstance(embedding, nn.Embedding)
    assert isinstance(head, nn.Linear)
    nn.init.normal_(embedding.weight)
    nn.init.normal_(head.weight, std=0.1 * config.width**-0.5)
    for module in model.modules():
        if isinstance(module, NeuralMemory):
            module.initialise(branch)
        elif isinstance(module, (Entry, KmerHead)):
            module.initialise()
    if not config.tie_embeddings:
        return 1.0
    # The embedding has unit variance, and the residual stream still holds the last token's: without the scale the model
    # would begin by being sure that every token repeats.
    head.weight = embedding.weight
    return 1 / config.width


def map_state(fn: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply `fn` to every tensor of floating point in a state; the structure and the positions stay."""
    return _map_tensors(lambda x: fn(x) if x.is_floating_point() else x, state)


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of floating point in a state, in a fixed order; one that stands twice is there once."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_state(keep, state)
    return found


def take_rows(state: Any, rows: slice | Tensor) -> Any:
    """The state of some rows of the batch."""
    return _map_tensors(lambda x: x[rows], state)


def detach(state: Any) -> Any:
    """The same state, cut from the autograd graph (truncated backpropagation)."""
    return map_state(Tensor.detach, state)


def _map_tensors(fn: Callable[[Tensor], Tensor], state: Any, done: dict[int, Tensor] | None = None) -> Any:
    """A tensor that stands twice in the state, as a memory that is its own anchor, still does."""
    done = {} if done is None else done
    if isinstance(state, Tensor):
        if id(state) not in done:
            done[id(state)] = fn(state)
        return done[id(state)]
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return type(state)(*(_map_tensors(fn, getattr(state, f.name), done) for f in dataclasses.fields(state)))
    if isinstance(state, tuple):
        parts = [_map_tensors(fn, part, done) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} goes in the next release; use {new}", DeprecationWarning, stacklevel=3)
