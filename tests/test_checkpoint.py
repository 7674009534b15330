"""A model directory: what goes in comes out, and every kind of damage has its line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from titans_dna import checkpoint
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.tokenizer import KmerTokenizer, NucleotideTokenizer


def make(tied=True, vocab_size=12):
    torch.manual_seed(0)
    return TitansDNA(TitansConfig.preset("tiny", layers=1, tie_embeddings=tied, vocab_size=vocab_size))


@pytest.mark.parametrize("tied", [True, False])
def test_the_same_model_comes_back(tmp_path, tied):
    model = make(tied).eval()
    checkpoint.save(model, tmp_path / "new" / "model", NucleotideTokenizer())
    read = checkpoint.load(tmp_path / "new" / "model")
    ids = torch.from_numpy(read.tokenizer.encode("ACGTTGCATGCA").astype("int64"))[None]
    with torch.no_grad():
        assert torch.equal(read(ids).logits, model(ids).logits)
    assert read.config == model.config
    assert not read.training
    assert (read.head.weight is read.embedding.weight) is tied


def test_a_directory_from_before_transformers_was_known_loads(tmp_path):
    """Version 1 without the keys that transformers reads."""
    model = make().eval()
    checkpoint.save(model, tmp_path, NucleotideTokenizer())
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == "titans-dna"
    assert values["architectures"] == ["TitansDNAForCausalLM"]
    old = {key: values[key] for key in ("format", "version", "config")}
    assert old["format"] == "titans-dna model"
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert checkpoint.load(tmp_path).config == model.config


@pytest.mark.parametrize("tied", [True, False])
def test_weights_under_the_names_of_transformers(tmp_path, tied):
    """As `save_pretrained` writes a classifier, without transformers."""
    model = make(tied).eval()
    checkpoint.save(model, tmp_path, NucleotideTokenizer())
    weights = load_file(tmp_path / "model.safetensors")
    named = {f"model.{name}": value for name, value in weights.items()}
    save_file({**named, "classifier.output.weight": torch.ones(2, 32)}, tmp_path / "model.safetensors")
    read = checkpoint.load(tmp_path)
    for (name, got), want in zip(read.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(got, want), name
    save_file({**named, "model.extra": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: extra: got \[1\], want nothing"):
        checkpoint.load(tmp_path)


def test_the_tokenizer_must_fit(tmp_path):
    with pytest.raises(ValueError, match="want the model's 12"):
        checkpoint.save(make(), tmp_path, KmerTokenizer(3))
    assert not list(tmp_path.iterdir())


def _edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


DAMAGE = {
    "no weights": (lambda d: (d / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors"),
    "no config": (lambda d: (d / "config.json").unlink(), FileNotFoundError, "config.json"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), FileNotFoundError, "tokenizer.json"),
    "truncated": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-9]),
        ValueError,
        "model.safetensors: truncated or damaged",
    ),
    "empty": (lambda d: (d / "model.safetensors").write_bytes(b""), ValueError, "truncated or damaged"),
    "half a config": (lambda d: (d / "config.json").write_text("{"), ValueError, "config.json: got no valid JSON"),
    "other json": (lambda d: (d / "config.json").write_text("[]"), ValueError, "config.json: got some other JSON"),
    "unknown key": (
        lambda d: _edit(d / "config.json", lambda v: v["config"].update(depth=3)),
        ValueError,
        "config.json: model config: got unknown key 'depth'",
    ),
    "other shape": (
        lambda d: _edit(d / "config.json", lambda v: v["config"].update(width=16)),
        ValueError,
        "model.safetensors: ",
    ),
    "other layers": (
        lambda d: _edit(d / "config.json", lambda v: v["config"].update(layers=2)),
        ValueError,
        "got nothing",
    ),
    "other vocabulary": (
        lambda d: _edit(d / "config.json", lambda v: v["config"].update(vocab_size=13)),
        ValueError,
        "tokenizer.json: got 12 ids, want the model's 13",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_has_its_line(tmp_path, name):
    damage, error, message = DAMAGE[name]
    checkpoint.save(make(), tmp_path, NucleotideTokenizer())
    damage(tmp_path)
    with pytest.raises(error) as caught:
        checkpoint.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
