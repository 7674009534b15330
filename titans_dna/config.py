"""Model configuration: one frozen dataclass, validated, YAML both ways, presets by name; and the kinds of question."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

VARIANTS = ("lmm", "mac", "mag", "mal")
MIXERS = ("conv", "memory", *VARIANTS)
KEY_MAPS = ("silu", "cosine")
_LATER = (
    *("mixers", "conv_taps", "conv_dilations", "stem", "kmers", "kmer_width", "kmer_slots", "counts"),
    *("key_width", "key_map", "key_windows", "gate_context", "gate_speed", "half_life", "forget_on_write"),
    "attention_residual",
)
"""Fields that version 0.1.0 lacked."""
MIXED = 64
"""Hidden width of what gates the votes of counts."""
READS = ("after", "before", "anchor")
GATES = ("token", "chunk")
Task = Literal["binary", "multiclass", "multilabel", "regression"]
"""What is asked of a sequence or a base: one class of two, one of several, any number of them, or a number."""
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class TitansConfig:
    """Shape and switches of a Titans model (arXiv 2501.00663, section 4).

    Raises ValueError naming the field, the value got and the value wanted.
    """

    variant: str = "mac"
    """lmm (memory alone), mac (memory as context), mag (gated) or mal (layer)."""
    mixers: tuple[str, ...] = ()
    """What mixes the tokens in each block, one name for each of the `layers`: conv (a gated causal convolution, no memory),
    one of the variants, or memory, which stands for `variant`; none: `variant` in all of them."""
    vocab_size: int = 12
    """Number of token ids; 12 is the single-nucleotide vocabulary."""
    width: int = 128
    """Width of the residual stream."""
    layers: int = 2
    """Number of blocks."""
    heads: int = 4
    """Heads of the memory and of the attention; must divide `width`, and width / heads must be even (RoPE)."""
    ffn_width: int = 0
    """Hidden width of the SwiGLU feed-forward; 0 means 8/3 of `width`, rounded up to a multiple of 16."""
    memory_depth: int = 2
    """Layers of the memory MLP, L_M in the paper, 1 to 4; 1 is a linear memory (ablation)."""
    memory_expansion: int = 2
    """Hidden width of the memory MLP in units of the head width."""
    chunk: int = 64
    """Tokens that share one anchor, b in the paper; 1 is the fully online rule."""
    read: str = "after"
    """Which memory a token reads: after (M_t), before (M_{t-1}) or anchor (the chunk's first)."""
    gates: str = "token"
    """alpha, eta, theta per token, or one value per chunk (cheaper), taken at the chunk's first token."""
    momentum: bool = True
    """False drops the momentum: eta = 0 (ablation)."""
    forgetting: bool = True
    """False drops the weight decay of the memory: alpha = 0 (ablation)."""
    convolution: int = 4
    """Width of the causal depthwise convolution on the memory's q, k and v; 0 leaves it out (ablation)."""
    key_width: int = 0
    """Width of a head's keys and queries in the memory; 0: the head width. A linear memory tells about as many keys apart."""
    key_map: str = "silu"
    """What makes keys and queries, before they get unit length: silu, of a projection (the paper); or cosine, random Fourier
    features of it (Rahimi and Recht 2007), cos(U x + φ) with learned U and φ, which tell more keys apart in the same width."""
    key_windows: tuple[int, ...] = ()
    """Tokens that keys and queries begin by seeing, one number for each group of channels; none: all of the convolution's."""
    gate_context: bool = False
    """Gates see the convolution of the input too, not their token alone."""
    gate_speed: float = 1.0
    """How many times faster than its weights say the gate of the inner learning rate theta learns."""
    half_life: int = 0
    """Tokens (of written ones, with `forget_on_write`) that half is forgotten in at the start; 0: 760 to 15,000, by head."""
    forget_on_write: bool = False
    """Forget in proportion to writing: alpha is its own gate times theta over its largest."""
    conv_taps: int = 16
    """Width of the causal depthwise convolution that mixes the tokens of a conv block."""
    conv_dilations: tuple[int, ...] = ()
    """Tokens from one tap to the next, one number for each conv block, from the first; none: 1 in all of them."""
    stem: int = 0
    """Width of a causal depthwise convolution on the embedding, added to it; 0: none."""
    kmers: tuple[int, ...] = ()
    """Lengths k, 1 to 31, of learned look-ups: the last k bases give a vector to the first block, and a vote on the next base,
    gated by the last. For single nucleotides."""
    kmer_width: int = 16
    """Width of the vectors that k-mers give to the first block, projected up to `width`."""
    kmer_slots: int = 65536
    """Rows of a look-up at most, a power of two: k-mers of more kinds share them by a hash."""
    counts: tuple[int, ...] = ()
    """Numbers of last bases, 1 to 24, of which it is counted what followed them in the training sequence (pretrain
    --counts): to the first block, and as votes on the next base. The counts are kept beside the weights; without them
    nothing was ever seen."""
    attention: bool = True
    """False leaves the attention out of mac, mag and mal (ablation); lmm never has any."""
    attention_residual: bool = False
    """What attention gives is added to what it was given: of mac where the memory takes it (y = x + attention, eq. 23, of what
    is written; the gate takes attention alone), of mal at the end. Else the token is lost in near-uniform attention."""
    persistent: int = 8
    """Learned, input-independent tokens of mac, mag and mal; 0 leaves them out (ablation); lmm has none."""
    segment: int = 128
    """Attention segment of mac, in tokens."""
    window: int = 128
    """Sliding attention window of mag and mal, in tokens, the token itself included."""
    restart: int = 0
    """Tokens after which the memory of every block but the last begins again from its learned start, so that these stretches
    run side by side (local memories, as in TNT, arXiv 2511.07343); the last block's memory goes on. 0: none does."""
    max_norm: float = 4.0
    """Bound of memory and momentum at chunk ends: Frobenius norm at most max_norm * sqrt(head width); 0 is no bound."""
    theta_max: float = 1.0
    """Largest inner learning rate, in units of (1 - eta) / (2 chunk): 1 keeps the whole chunk's step on one key at most 1,
    from 2 on it overshoots."""
    dropout: float = 0.0
    """Dropout on each residual branch while training, 0 <= p < 1."""
    tie_embeddings: bool = False
    """Share the embedding with the language-model head."""
    rope_base: float = 10000.0
    """Base of the rotary position angles of the attention."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if name == "mixers":
                object.__setattr__(self, name, _mixers(value, self.layers))
            elif name in _NUMBERS:
                object.__setattr__(self, name, _numbers(name, value))
            elif kind is float and type(value) is int:
                object.__setattr__(self, name, float(value))
            elif type(value) is not kind:
                raise ValueError(f"{name}: got {value!r}, want {kind.__name__}")
        for name, choices in (("variant", VARIANTS), ("read", READS), ("gates", GATES), ("key_map", KEY_MAPS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, want one of {', '.join(choices)}")
        for name, low in _MINIMUM.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, want at least {low}")
        if self.memory_depth > 4:
            raise ValueError(f"memory_depth: got {self.memory_depth}, want 1 to 4")
        if self.width % (2 * self.heads):
            raise ValueError(f"heads: got {self.heads}, want an even head width out of width {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}, want 0 <= dropout < 1")
        if self.conv_dilations and len(self.conv_dilations) != self.mixers.count("conv"):
            got, want = len(self.conv_dilations), self.mixers.count("conv")
            raise ValueError(f"conv_dilations: got {got} for {want} conv block(s), want one for each, or none")
        for name in ("kmers", "counts"):
            if getattr(self, name) and self.vocab_size != 12:
                got = f"got them with {self.vocab_size} token ids"
                raise ValueError(f"{name}: {got}, want single nucleotides, which have 12")
        if self.kmer_slots & (self.kmer_slots - 1):
            raise ValueError(f"kmer_slots: got {self.kmer_slots}, want a power of two")
        remembering = self.layers - self.mixers.count("conv")
        if self.restart and (self.restart % self.chunk or remembering < 2):
            wanted = f"a multiple of chunk ({self.chunk}), with at least 2 layers" + " of memory" * bool(self.mixers)
            raise ValueError(f"restart: got {self.restart} with {remembering} layer(s), want 0 or {wanted}")
        for name in ("theta_max", "gate_speed"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, want above 0")
        if self.gate_context and not self.convolution:
            raise ValueError("gate_context: got true with convolution 0, want a convolution that gates can see")
        if self.key_windows and max(self.key_windows) >= max(self.convolution, 1):
            got, most = max(self.key_windows), max(self.convolution - 1, 0)
            raise ValueError(f"key_windows: got {got} with convolution {self.convolution}, want at most {most}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The mixer of every block: conv or a variant."""
        return tuple(map(self._kind, self.mixers)) or (self.variant,) * self.layers

    @property
    def architecture(self) -> str:
        """The variant, or the mixers of the blocks, for a line of text."""
        return "-".join(map(self._kind, self.mixers)) or self.variant

    def _kind(self, mixer: str) -> str:
        return self.variant if mixer == "memory" else mixer

    @property
    def head_width(self) -> int:
        """Width of one head, D."""
        return self.width // self.heads

    @property
    def memory_widths(self) -> list[int]:
        """Of the memory MLP of a head, from keys to values."""
        hidden = [self.head_width * self.memory_expansion] * (self.memory_depth - 1)
        return [self.key_width or self.head_width, *hidden, self.head_width]

    @property
    def projected(self) -> int:
        """Width of what queries, and keys, are made of, all heads together."""
        return self.heads * (self.memory_widths[0] if self.key_map == "silu" else self.head_width)

    @property
    def ffn_hidden(self) -> int:
        """Hidden width of the feed-forward, with the default resolved."""
        return self.ffn_width or -(-self.width * 8 // 3 // 16) * 16

    @property
    def parameters(self) -> int:
        """Number of learned values of the model, a tied embedding counted once, without building it."""
        width = self.width  # no list of the kinds of all blocks here: a damaged file may claim any number of them
        blocks = sum(map(self._of_block, self.mixers)) if self.mixers else self.layers * self._of_block(self.variant)
        rows = sum(table_rows(k, self.kmer_slots) + 1 for k in self.kmers)
        beside = self.stem * width + rows * (self.kmer_width + 4)
        beside += len(self.kmers) * (self.kmer_width * width + width + 1)
        if self.counts:  # features, into the blocks, and what gates the votes
            orders = len(self.counts)
            beside += orders + 5 * orders * width + (width + 5 * orders + 1) * MIXED + (MIXED + 1) * orders
        return (2 - self.tie_embeddings) * self.vocab_size * width + blocks + width + beside

    def _of_block(self, mixer: str) -> int:
        """The learned values of a block with this mixer."""
        kind = self._kind(mixer)
        width, square, taps = self.width, self.width**2, self.convolution
        frame = 2 * width + 3 * width * self.ffn_hidden
        if kind == "conv":
            return frame + 3 * square + self.conv_taps * width
        initial = self.heads * sum(i * j for i, j in pairwise(self.memory_widths))
        gates = (width + 1) * self.heads * (1 + self.momentum + self.forgetting)
        asked = self.projected  # of queries, and of keys
        features = self.heads * self.memory_widths[0] * (self.head_width + 1) * (self.key_map == "cosine")
        channels = 2 * asked + width * (1 + self.gate_context)
        memory = 3 * square + 2 * asked * width + taps * channels + features + gates + 2 * width + initial
        attention = 0
        if self.attention and kind != "lmm":
            attention = {
                "mac": 5 * square + (width + taps) * asked + 4 * width,  # with the reader of the memory
                "mag": 4 * square + 2 * width,
                "mal": 4 * square + width,
            }[kind]
        persistent = 0 if kind == "lmm" else self.persistent * width
        return frame + persistent + memory + attention

    def replace(self, **changes: Any) -> TitansConfig:
        """A copy with some fields changed, validated again."""
        return self.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    def identity(self) -> dict[str, Any]:
        """The same for fingerprints: a field that version 0.1.0 lacked is left out at its default, so that its states and
        unfinished runs stay those of their model."""
        later = {name: value for name, value in TitansConfig().to_dict().items() if name in _LATER}
        return {name: value for name, value in self.to_dict().items() if name not in later or value != later[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TitansConfig:
        """The inverse of `to_dict`; an unknown key is a ValueError that lists the known ones."""
        if not isinstance(values, dict):
            raise ValueError(f"model config: got {type(values).__name__}, want a mapping of field names to values")
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"model config: got unknown key {key!r}, want one of {', '.join(known)}")
        return cls(**values)

    def to_yaml(self, path: str | Path) -> None:
        """Write every field to a YAML file."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def from_yaml(cls, path: str | Path) -> TitansConfig:
        """Read a YAML file; fields left out take their defaults."""
        try:
            values = read_yaml(Path(path).read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        return cls.from_dict({} if values is None else values)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TitansConfig:
        """A named preset (see `preset_names`), with some fields changed: `preset("tiny", variant="mac")`.

        What depends on these follows, where it is not among them: with another number of `layers`, convolutions come or go
        before the blocks of memory; of tokens that are no single nucleotides, there are no look-ups (`kmers`).
        """
        if name not in preset_names():
            raise ValueError(f"preset: got {name!r}, want one of {', '.join(preset_names())}")
        source = resources.files("titans_dna") / "presets" / f"{name}.yaml"
        fields = yaml.safe_load(source.read_text())
        if changes.get("vocab_size", 12) != 12:
            fields.pop("kmers", None)
        if "mixers" in changes:
            fields.pop("conv_dilations", None)
        elif "layers" in changes and "mixers" in fields:
            fields |= _with_layers(fields.pop("mixers"), fields.pop("conv_dilations"), changes["layers"])
        return cls.from_dict({**fields, **changes})


def _with_layers(mixers: list[str], dilations: list[int], layers: Any) -> dict[str, Any]:
    """Mixers and dilations of as many blocks, convolutions before memories; nothing for what is no number of blocks."""
    if type(layers) is not int or not 1 <= layers <= 10**6:
        return {}
    memories = [mixer for mixer in mixers if mixer != "conv"][-layers:]
    convolutions = layers - len(memories)
    chosen = [dilations[place % len(dilations)] for place in range(convolutions)]
    return {"mixers": ["conv"] * convolutions + memories, "conv_dilations": chosen}


def _mixers(value: Any, layers: Any) -> tuple[str, ...]:
    """ValueError for what is no list of mixers, one for each layer."""
    if not isinstance(value, (list, tuple)) or not all(one in MIXERS for one in value):
        got = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"mixers: got {got!r}, want a list of {', '.join(MIXERS)}")
    if value and len(value) != layers:
        raise ValueError(f"mixers: got {len(value)} for {layers} layers, want one for each")
    return tuple(value)


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    """ValueError for what is no short list of whole numbers in range."""
    low, high = _NUMBERS[name]
    if not isinstance(value, (list, tuple)) or not all(type(one) is int and low <= one <= high for one in value):
        got = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{name}: got {got!r}, want a list of whole numbers from {low} to {high:,}")
    if name in ("kmers", "counts") and len(set(value)) < len(value):
        raise ValueError(f"{name}: got {list(value)}, want each of them once")
    return tuple(value)


def table_rows(k: int, slots: int) -> int:
    """Rows of a look-up of k bases, but for the one that stands for none."""
    return min(4**k, slots)


def check_variant(variant: str, mixers: Any) -> None:
    """ValueError for a --variant beside mixers among which no block is to have it."""
    if mixers and "memory" not in mixers:
        named = " ".join(map(str, mixers)) if isinstance(mixers, (list, tuple)) else mixers
        raise ValueError(f"--variant: got {variant} beside mixers {named}, want one of the two")


class _Plain(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("holds an alias (*name), want every value where it stands")
        return super().compose_node(parent, index)


def read_yaml(text: str) -> Any:
    """What YAML says. Raises yaml.YAMLError for what is none, and for what would take all memory: aliases, by which a few lines
    can stand for terabytes, and nesting without end."""
    try:
        return yaml.load(text, _Plain)
    except RecursionError:
        raise yaml.YAMLError("is nested beyond all measure") from None


_NUMBERS = {"conv_dilations": (1, 2**20), "key_windows": (1, 64), "kmers": (1, 31), "counts": (1, 24)}
"""Lists of whole numbers, and the least and the most that one may be."""
_MINIMUM = {
    "vocab_size": 1,
    "width": 2,
    "layers": 1,
    "heads": 1,
    "ffn_width": 0,
    "memory_depth": 1,
    "memory_expansion": 1,
    "chunk": 1,
    "convolution": 0,
    "key_width": 0,
    "half_life": 0,
    "conv_taps": 1,
    "stem": 0,
    "kmer_width": 1,
    "kmer_slots": 4,
    "persistent": 0,
    "segment": 1,
    "window": 1,
    "restart": 0,
    "max_norm": 0.0,
    "rope_base": 1.0,
}


def preset_names() -> list[str]:
    """Names of the presets that ship with the package, smallest model first."""
    folder = resources.files("titans_dna") / "presets"
    found = {Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    order = ["tiny", "mini", "small", "base", "large", "xl"]
    return [name for name in order if name in found] + sorted(found - set(order))


def shipped_models() -> dict[str, Path]:
    """The directories of the models that ship with the package, by name."""
    folder = Path(str(resources.files("titans_dna") / "weights"))
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
