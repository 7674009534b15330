"""A model directory: what goes in comes out, and every kind of damage has its line."""

import json
import math
import pickle
import random
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import titans_dna
from titans_dna import checkpoint
from titans_dna.config import TitansConfig
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA, weights_fingerprint
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

QUESTION = Question("multiclass", ("a", "b", "c"), pool="bins", bins=2, stretch=8)


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


def make_tuned(question=QUESTION):
    return FineTuned(make(), question, NucleotideTokenizer()).eval()


def same(a, b):
    return weights_fingerprint(a, checkpoint.UNSAVED) == weights_fingerprint(b, checkpoint.UNSAVED)


def test_load_gives_what_the_directory_holds(tmp_path):
    language, tuned = make().eval(), make_tuned()
    checkpoint.save(language, tmp_path / "language", NucleotideTokenizer())
    checkpoint.save(tuned, tmp_path / "tuned")
    for name in ("language", *(f"language/{name}" for name in checkpoint.LANGUAGE.files)):
        assert same(checkpoint.load(tmp_path / name), language)
    for name in ("tuned", *(f"tuned/{name}" for name in checkpoint.FINETUNED.files)):
        found = checkpoint.load(tmp_path / name)
        assert same(found, tuned)
        assert found.question == QUESTION
        assert found.tokenizer is found.backbone.tokenizer
        assert not found.training
    assert same(checkpoint.load(tmp_path / "tuned", FineTuned), tuned)
    assert same(checkpoint.load(tmp_path / "language", TitansDNA), language)


def test_a_directory_of_both_kinds(tmp_path):
    """Each is there for the one who wants it, and `load` gives the language model, as in version 0.1.0."""
    language, tuned = make(tied=False).eval(), make_tuned()
    checkpoint.save(language, tmp_path, NucleotideTokenizer())
    checkpoint.save(tuned, tmp_path)
    assert same(checkpoint.load(tmp_path), language)
    assert same(checkpoint.load(tmp_path, TitansDNA), language)
    assert same(checkpoint.load(tmp_path, FineTuned), tuned)
    assert same(checkpoint.load(tmp_path / "finetuned.json"), tuned)
    assert same(checkpoint.load(tmp_path / "tokenizer.json"), language)


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.open_model])
def test_the_other_kind_is_refused(tmp_path, read):
    checkpoint.save(make(), tmp_path / "language", NucleotideTokenizer())
    checkpoint.save(make_tuned(), tmp_path / "tuned")
    name = "source" if read is checkpoint.load else "--model"
    with pytest.raises(ValueError, match="holds a fine-tuned model") as caught:
        read(tmp_path / "tuned", TitansDNA)
    assert str(caught.value) == (
        f"{name}: {tmp_path}/tuned holds a fine-tuned model; want the directory of a pretrained one, as titans-dna pretrain "
        "writes it"
    )
    with pytest.raises(ValueError, match="holds a pretrained model") as caught:
        read(tmp_path / "language", FineTuned)
    assert str(caught.value) == (
        f"{name}: {tmp_path}/language holds a pretrained model, which answers no question yet; want the directory of a "
        "fine-tuned one, as titans-dna finetune writes it"
    )
    with pytest.raises(ValueError, match="want: got 'fine-tuned', want TitansDNA or FineTuned"):
        checkpoint.load(tmp_path / "tuned", "fine-tuned")
    with pytest.raises(
        FileNotFoundError, match=r"finetuned\.json: no such file, want a directory that titans-dna finetune"
    ):
        read(tmp_path, FineTuned)


def test_the_deprecated_names_still_work(tmp_path):
    checkpoint.save(make(), tmp_path / "language", NucleotideTokenizer())
    checkpoint.save(make_tuned(), tmp_path / "tuned")
    with pytest.warns(DeprecationWarning, match="use titans_dna.load"):
        assert isinstance(titans_dna.load_finetuned(tmp_path / "tuned"), FineTuned)
    with (
        pytest.warns(DeprecationWarning, match="next release"),
        pytest.raises(ValueError, match="holds a pretrained model"),
    ):
        titans_dna.load_finetuned(tmp_path / "language")
    with pytest.warns(DeprecationWarning, match=r"use titans_dna\.load"):
        model = TitansDNA.from_pretrained(tmp_path / "language")
    with pytest.warns(DeprecationWarning, match=r"use titans_dna\.embed\(model, …\)") as caught:
        vectors = model.embed(["ACGT"], "max", layer=0)
    assert caught[0].filename == __file__
    assert (vectors == titans_dna.embed(model, ["ACGT"], "max", layer=0)).all()
    with (
        pytest.warns(DeprecationWarning, match="next release"),
        pytest.raises(ValueError, match="repo_id: got 'phage'"),
    ):
        model.push_to_hub("phage", private=True)
    with (
        pytest.warns(DeprecationWarning, match="next release"),
        pytest.raises(ValueError, match="repo_id: got 'phage'"),
    ):
        checkpoint.push_finetuned(tmp_path / "tuned", "phage")


def test_the_tokenizer_of_a_model(tmp_path):
    model = make()
    assert model.tokenizer is None
    with pytest.raises(ValueError, match="model: has no tokenizer"):
        checkpoint.save(model, tmp_path)
    assert not list(tmp_path.iterdir())
    model.tokenizer = NucleotideTokenizer()
    checkpoint.save(model, tmp_path)
    assert checkpoint.load(tmp_path, TitansDNA).tokenizer.name == "nucleotide"


class Trap:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


PICKLES = ["pytorch_model.bin", "checkpoint.pt", "model.pt", "model.pkl", "adapter_model.bin", "tokenizer.pkl"]


@pytest.mark.parametrize("kind", ["language", "tuned"])
def test_nothing_is_ever_unpickled(tmp_path, kind):
    """Not what lies beside the model, and not what has the name of one of its files."""
    model, form = (make(), checkpoint.LANGUAGE) if kind == "language" else (make_tuned(), checkpoint.FINETUNED)
    folder, sprung = tmp_path / "model", tmp_path / "sprung"
    checkpoint.save(model, folder, NucleotideTokenizer())
    torch.save(Trap(sprung), folder / "other.pt")
    traps = [pickle.dumps(Trap(sprung), protocol) for protocol in (0, 2, 4)] + [(folder / "other.pt").read_bytes()]
    for name in PICKLES:
        (folder / name).write_bytes(traps[1])
    checkpoint.load(folder)
    for name in form.files:
        whole = (folder / name).read_bytes()
        for trap in traps:
            (folder / name).write_bytes(trap)
            with pytest.raises(ValueError, match=name) as caught:
                checkpoint.load(folder)
            assert "\n" not in str(caught.value)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError):
            checkpoint.load(folder)
        (folder / name).write_bytes(whole)
    checkpoint.load(folder)
    assert not sprung.exists()


ABSURD = {
    "width": dict(width=10**12),
    "endless width": dict(width=2 * 10**4000),
    "layers": dict(layers=10**12),
    "many layers": dict(layers=3000, width=2, heads=1),
    "feed-forward": dict(ffn_width=10**12),
    "memory": dict(memory_expansion=10**12),
    "convolution": dict(convolution=10**12),
    "persistent": dict(variant="mac", persistent=10**12),
}


@pytest.mark.parametrize("name", ABSURD)
@pytest.mark.parametrize("kind", ["language", "tuned"])
def test_a_model_beyond_measure_is_not_built(tmp_path, name, kind):
    checkpoint.save(make() if kind == "language" else make_tuned(), tmp_path, NucleotideTokenizer())
    path = tmp_path / ("config.json" if kind == "language" else "finetuned.json")
    _edit(path, lambda values: values["config"].update(ABSURD[name]))
    began = time.process_time()
    with pytest.raises(ValueError, match="for this configuration") as caught:
        checkpoint.load(tmp_path)
    assert time.process_time() - began < 2
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(bins=10**12), "finetuned.safetensors: got 24,233 values, want at least 96,000,000,0"),
        (dict(bins=2.5), "bins: got 2.5, want a whole number"),
        (dict(both_strands=10**12), "both_strands: got 1000000000000, want true or false"),
        (dict(classes="ab"), "head.output.bias: got [3], want [2]"),
        (dict(classes=5), "finetuned.json: "),
        (dict(task="ternary"), "finetuned.json: task: got 'ternary'"),
        (dict(window=0), "finetuned.json: window: got 0"),
    ],
)
def test_questions_that_are_none(tmp_path, change, message):
    checkpoint.save(make_tuned(), tmp_path)
    _edit(tmp_path / "finetuned.json", lambda values: values["question"].update(change))
    with pytest.raises(ValueError) as caught:
        checkpoint.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


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
    _edit(tmp_path / "config.json", lambda values: values.pop("digests"))
    save_file({**named, "classifier.output.weight": torch.ones(2, 32)}, tmp_path / "model.safetensors")
    read = checkpoint.load(tmp_path)
    for (name, got), want in zip(read.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(got, want), name
    save_file({**named, "model.extra": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: extra: got \[1\], want nothing"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("kind", ["language", "tuned"])
def test_altered_bytes_are_noticed_in_every_file(tmp_path, kind):
    checkpoint.save(make() if kind == "language" else make_tuned(), tmp_path, NucleotideTokenizer())
    draw = random.Random(0)
    hint = {"config.json"} if kind == "tuned" else set()  # for transformers; nothing of it is read
    for path in sorted(one for one in tmp_path.iterdir() if one.name not in hint):
        whole = path.read_bytes()
        for _ in range(60):
            altered, place = bytearray(whole), draw.randrange(len(whole))
            altered[place] ^= 1 << draw.randrange(8)
            path.write_bytes(altered)
            with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as found:
                checkpoint.load(tmp_path)
            assert "\n" not in str(found.value), (path, place)
        path.write_bytes(whole)
    checkpoint.load(tmp_path)


def test_a_file_of_another_model_is_noticed(tmp_path):
    for name, gain in (("one", 1.0), ("other", 2.0)):
        model = make()
        torch.nn.init.constant_(model.norm.weight, gain)
        checkpoint.save(model, tmp_path / name, NucleotideTokenizer())
    for name in ("model.safetensors", "config.json"):
        mixed = tmp_path / f"mixed-{name}"
        shutil.copytree(tmp_path / "one", mixed)
        shutil.copyfile(tmp_path / "other" / name, mixed / name)
        with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or of another model"):
            checkpoint.load(mixed)
        _edit(mixed / "config.json", lambda values: values.pop("digests"))
        checkpoint.load(mixed)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = make()
    with torch.no_grad():
        model.norm.weight[3] = value
    checkpoint.save(model, tmp_path, NucleotideTokenizer())
    with pytest.raises(ValueError, match=r"model\.safetensors: norm\.weight: holds values that are not finite"):
        checkpoint.load(tmp_path)


def test_weights_of_another_precision_are_said(tmp_path):
    checkpoint.save(make().bfloat16(), tmp_path, NucleotideTokenizer())
    with pytest.warns(UserWarning, match=r"model\.safetensors: holds bfloat16, and is computed with as float32"):
        assert checkpoint.load(tmp_path).norm.weight.dtype == torch.float32


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
    "deep json": (
        lambda d: (d / "config.json").write_text("[" * 100_000),
        ValueError,
        "config.json: got no valid JSON",
    ),
    "deep tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("[" * 100_000),
        ValueError,
        "tokenizer.json: got no valid JSON",
    ),
    "name of two lines": (
        lambda d: save_file({**load_file(d / "model.safetensors"), "a\nb": torch.ones(1)}, d / "model.safetensors"),
        ValueError,
        "model.safetensors: a b: got [1], want nothing",
    ),
    "whole numbers": (
        lambda d: save_file(
            {**load_file(d / "model.safetensors"), "norm.weight": torch.ones(32, dtype=torch.int64)},
            d / "model.safetensors",
        ),
        ValueError,
        "model.safetensors: norm.weight: got torch.int64, want floating point",
    ),
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
