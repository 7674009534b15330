"""A model directory: what goes in comes out, and every kind of damage has its line."""

import json

import pytest
import torch

from titans_dna import checkpoint
from titans_dna.config import TitansConfig
from titans_dna.data.tokenizer import KmerTokenizer, NucleotideTokenizer
from titans_dna.model import TitansDNA


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
