"""A model by its hub id: from the hub's own cache, only the files that are ours, and one line where it is not there."""

import os
import subprocess
import sys

import huggingface_hub
import pytest
import torch

from titans_dna import checkpoint
from titans_dna.config import TitansConfig
from titans_dna.data.tokenizer import NucleotideTokenizer
from titans_dna.hub import is_hub_id
from titans_dna.model import TitansDNA


def make(folder):
    torch.manual_seed(0)
    checkpoint.save(TitansDNA(TitansConfig.preset("tiny", layers=1)), folder, NucleotideTokenizer())


def test_a_cached_model_loads_offline_and_a_missing_one_has_its_line(tmp_path):
    """In a process of its own: the library reads where its cache is when it is imported."""
    entry = tmp_path / "hub" / "models--lab--phage"
    make(entry / "snapshots" / "abc")
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("abc")
    code = (
        "import titans_dna\n"
        "print(titans_dna.load('lab/phage').embed('ACGTACGT').shape)\n"
        "from titans_dna.cli import main\n"
        "main(['embed', '--model', 'lab/other', '--fasta', 'x.fa', '--out', 'v.npy'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout == "(1, 32)\n"
    assert done.returncode == 2
    assert done.stderr.startswith(
        "titans-dna: error: lab/other: no such directory, and not to be had from the Hugging Face hub: "
    )
    assert done.stderr.count("\n") == 1


def test_only_weights_configuration_and_tokeniser_are_fetched(tmp_path, monkeypatch):
    make(tmp_path / "snapshot")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert checkpoint.load("lab/phage").config.layers == 1
    assert asked == [("lab/phage", ["config.json", "model.safetensors", "tokenizer.json"])]


def test_a_local_path_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    make(tmp_path / "runs" / "first")
    for source in ("runs/first", "runs/first/model.safetensors", tmp_path / "runs" / "first" / "config.json"):
        assert checkpoint.load(source).config.layers == 1
    with pytest.raises(FileNotFoundError, match=r"nope/config.json: no such file"):
        checkpoint.load("nope")


@pytest.mark.parametrize("name", ["lab/phage", "lab/phage-1.0_x", "L/p"])
def test_what_a_hub_id_is(name):
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["phage", "/a/b", "a/b/c", "../b", "./b", "~/b", "a/", "a b/c"])
def test_what_no_hub_id_is(name):
    assert not is_hub_id(name)
