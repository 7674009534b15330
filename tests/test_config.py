"""Configuration: validated, YAML both ways, presets from one place, sizes as documented."""

from pathlib import Path

import pytest
import yaml

from titans_dna.config import READS, VARIANTS, TitansConfig, preset_names
from titans_dna.nn.model import TitansDNA
from titans_kernels import READS as READS_OF_THE_KERNELS

ROOT = Path(__file__).parents[1]


def test_yaml_round_trip(tmp_path):
    config = TitansConfig.preset("small", variant="mag", gates="chunk", dropout=0.5)
    config.to_yaml(tmp_path / "config.yaml")
    assert TitansConfig.from_yaml(tmp_path / "config.yaml") == config
    assert TitansConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "mat"}, "variant: got 'mat', want one of lmm, mac, mag, mal"),
        ({"width": 12.5}, "width: got 12.5, want int"),
        ({"width": "128"}, "width: got '128', want int"),
        ({"momentum": 1}, "momentum: got 1, want bool"),
        ({"heads": 3}, "heads: got 3"),
        ({"memory_depth": 5}, "memory_depth: got 5, want 1 to 4"),
        ({"chunk": 0}, "chunk: got 0, want at least 1"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"theta_max": 0.0}, "theta_max: got 0.0"),
        ({"max_norm": float("nan")}, "max_norm: got nan"),
        (
            {"restart": 100},
            "restart: got 100 with 2 layer.s., want 0 or a multiple of chunk .64., with at least 2 layers",
        ),
        ({"restart": 64, "layers": 1}, "restart: got 64 with 1 layer"),
        ({"mixers": ["conv", "lmn"]}, "mixers: got .'conv', 'lmn'., want a list of conv, memory, lmm, mac, mag, mal"),
        ({"mixers": "conv"}, "mixers: got 'conv', want a list of conv"),
        ({"mixers": ["conv"] * 3}, "mixers: got 3 for 2 layers, want one for each"),
        ({"mixers": [["conv"], {}]}, "mixers: got .*, want a list of"),
        ({"mixers": ["conv", "lmm"], "restart": 64}, "restart: got 64 with 1 layer.s., .* at least 2 layers of memory"),
        ({"conv_taps": 0}, "conv_taps: got 0, want at least 1"),
        ({"conv_dilations": [2]}, "conv_dilations: got 1 for 0 conv block.s., want one for each, or none"),
        (
            {"mixers": ["conv", "lmm"], "conv_dilations": [0]},
            "conv_dilations: got .0., want a list of whole numbers from 1",
        ),
        ({"stem": -1}, "stem: got -1, want at least 0"),
        ({"kmers": [6, 32]}, "kmers: got .6, 32., want a list of whole numbers from 1 to 31"),
        ({"kmers": 6}, "kmers: got 6, want a list of whole numbers from 1 to 31"),
        ({"kmers": [6, 6]}, "kmers: got .6, 6., want each of them once"),
        ({"kmers": [6], "vocab_size": 4096}, "kmers: got them with 4096 token ids, want single nucleotides"),
        ({"counts": [25]}, "counts: got .25., want a list of whole numbers from 1 to 24"),
        ({"counts": [6], "vocab_size": 4096}, "counts: got them with 4096 token ids, want single nucleotides"),
        ({"key_map": "relu"}, "key_map: got 'relu', want one of silu, cosine"),
        ({"key_width": -1}, "key_width: got -1, want at least 0"),
        ({"key_windows": [4]}, "key_windows: got 4 with convolution 4, want at most 3"),
        ({"key_windows": [2], "convolution": 0}, "key_windows: got 2 with convolution 0, want at most 0"),
        ({"gate_context": True, "convolution": 0}, "gate_context: got true with convolution 0"),
        ({"gate_speed": 0.0}, "gate_speed: got 0.0, want above 0"),
        ({"half_life": -1}, "half_life: got -1, want at least 0"),
        ({"kmer_slots": 1000}, "kmer_slots: got 1000, want a power of two"),
        ({"widht": 4}, "unknown key 'widht', want one of variant, mixers, vocab_size"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        TitansConfig.from_dict(values)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "width: {}\n"])
def test_wrong_yaml(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"YAML|mapping|width"):
        TitansConfig.from_yaml(tmp_path / "config.yaml")


def test_whole_numbers_pass_as_numbers():
    assert TitansConfig.from_dict({"dropout": 0, "max_norm": 2}).max_norm == 2.0


def test_reads_are_those_of_the_kernels():
    """Named here once more, so that the configuration needs no torch."""
    assert READS == READS_OF_THE_KERNELS


SIZES = [
    dict(variant=variant, width=24, heads=heads, layers=layers, **more)
    for variant in VARIANTS
    for heads, layers in ((2, 1), (3, 3))
    for more in (
        {},
        dict(memory_depth=1, momentum=False, tie_embeddings=True),
        dict(memory_depth=4, memory_expansion=3, forgetting=False, ffn_width=40),
        dict(convolution=0, persistent=0, vocab_size=77),
        dict(attention=False, convolution=7),
    )
]
SIZES += [
    dict(mixers=mixers, width=24, heads=3, layers=len(mixers), persistent=5, **more)
    for mixers in (["conv"], ["conv", "mac"], ["mal", "conv", "lmm", "mag"])
    for more in ({}, dict(conv_taps=7, attention=False, tie_embeddings=True))
]
SIZES += [
    dict(variant="lmm", width=24, heads=2, **more)
    for more in (
        dict(stem=9),
        dict(kmers=[1, 4, 7, 31], kmer_width=5, kmer_slots=1024, mixers=["conv", "lmm"], conv_dilations=[9]),
        dict(counts=[1, 12, 24], stem=2),
        dict(key_width=24, memory_depth=2),
        dict(key_width=40, key_map="cosine", memory_depth=1, gate_context=True, gate_speed=3.0),
        dict(key_map="cosine", attention_residual=True, forget_on_write=True, gates="chunk"),
    )
]
SIZES += [TitansConfig.preset(preset, variant="mac").to_dict() for preset in ("tiny", "small", "base")]


@pytest.mark.parametrize("values", SIZES)
def test_the_number_of_parameters_is_known_without_the_model(values):
    config = TitansConfig(**values)
    assert config.parameters == TitansDNA(config).parameter_count()


def test_a_claim_of_any_size_costs_nothing():
    assert TitansConfig(layers=10**15).parameters > 10**20


def test_presets_have_one_source():
    old = ["base-0.1.0", "mini-0.1.0", "small-0.1.0"]
    assert preset_names() == ["tiny", "mini", "small", "base", "large", "xl", *old]
    assert {path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")} == set(preset_names())
    for name in preset_names():
        values = yaml.safe_load((ROOT / "configs" / "model" / f"{name}.yaml").read_text())
        assert values.items() <= TitansConfig.preset(name).to_dict().items()
    with pytest.raises(ValueError, match="preset: got 'huge', want one of tiny, mini, small"):
        TitansConfig.preset("huge")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("mini", 0.2, 0.4),
        ("small", 0.7, 1),
        ("base", 4.8, 9),
        ("large", 150, 190),
        ("xl", 370, 450),
        ("mini-0.1.0", 0.1, 0.2),
        ("small-0.1.0", 0.4, 0.62),
        ("base-0.1.0", 5, 9),
    ],
)
def test_sizes_are_those_documented(name, low, high):
    import torch

    for variant in ("mac", "mag") if name in ("large", "xl") else ("lmm", "mac", "mag", "mal"):
        with torch.device("meta"):
            count = TitansDNA(TitansConfig.preset(name, variant=variant)).parameter_count() / 1e6
        assert low < count < high, (variant, count)
        assert f"| {name} | {variant} | {count:.2f} M |" in (ROOT / "docs" / "models.md").read_text()


def test_what_follows_from_the_layers_of_a_preset():
    """Convolutions come and go before the memory; what is said outright stays as it is said."""
    for layers, kinds, dilations in (
        (1, ("mag",), ()),
        (2, ("conv", "mag"), (1,)),
        (6, ("conv",) * 5 + ("mag",), (1, 4, 16, 1, 4)),
    ):
        config = TitansConfig.preset("mini", variant="mag", layers=layers)
        assert (config.kinds, config.conv_dilations) == (kinds, dilations)
    config = TitansConfig.preset("mini", layers=3, mixers=["conv", "mal", "memory"])
    assert (config.kinds, config.conv_dilations, config.architecture) == (("conv", "mal", "lmm"), (), "conv-mal-lmm")
    assert TitansConfig.preset("base", layers=1).kinds == ("lmm",)
    assert TitansConfig.preset("tiny", layers=5).kinds == ("mac",) * 5
    assert TitansConfig.preset("mini").kmers == (6,)
    assert TitansConfig.preset("mini", vocab_size=70).kmers == ()
    with pytest.raises(ValueError, match="layers: got 0, want at least 1"):
        TitansConfig.preset("mini", layers=0)


def test_memory_stands_for_the_variant():
    for variant in VARIANTS:
        short = TitansConfig(layers=2, width=32, mixers=["conv", "memory"], variant=variant)
        whole = short.replace(mixers=["conv", variant])
        assert short.kinds == whole.kinds
        assert short.parameters == whole.parameters == TitansDNA(short).parameter_count()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\nwidth: *a\n", "holds an alias"),
        ("[" * 100_000, "is nested beyond all measure"),
        ("{a: " * 50_000, "is nested beyond all measure"),
    ],
)
def test_yaml_that_claims_too_much_is_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"x.yaml: not valid YAML: {message}"):
        TitansConfig.from_yaml(tmp_path / "x.yaml")
