"""The models that ship: by name, whole, small, as good as their cards say, and of use at once."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import titans_dna
from titans_dna.config import shipped_models
from titans_dna.genome.genome import open_genome
from titans_dna.nn.model import TitansDNA
from titans_dna.train.loss import validate

NAMES = ("human-small", "multi-small")


def test_they_are_there_and_small():
    assert tuple(shipped_models()) == NAMES
    for place in shipped_models().values():
        names = {path.name for path in place.iterdir()}
        assert names == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
        assert sum(path.stat().st_size for path in place.iterdir()) <= 8e6


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_model(name):
    model = titans_dna.load(name)
    assert isinstance(model, TitansDNA)
    assert model.norm.weight.dtype == torch.float32
    vectors = titans_dna.embed(model, ["ACGTTGCA", "GATTACA"], rc=True)
    assert vectors.shape == (2, model.config.width)
    assert np.isfinite(vectors).all()
    card = (shipped_models()[name] / "README.md").read_text()
    for word in ("held out", "interpolated Markov", "Good for", "Not good for", "Sources"):
        assert word in card


@pytest.mark.parametrize(("name", "least", "most"), [("human-small", 1.9, 2.2), ("multi-small", 1.6, 1.94)])
def test_phage_lambda_is_known_to_the_one_that_read_it(name, least, most):
    model = titans_dna.load(name)
    ids = torch.as_tensor(model.tokenizer.encode(lambda_phage()))[None].long()
    batches = [{"ids": ids[:, start : start + 1025]} for start in range(0, 40960, 1024)]
    bits = validate(model, batches, torch.as_tensor(model.tokenizer.lengths), piece=1024)
    assert least < bits < most


def lambda_phage():
    from importlib import resources

    with resources.as_file(resources.files("titans_dna") / "genomes" / "lambda.fa") as path:
        genome = open_genome(path)
        ((contig, bases),) = genome.contigs.items()
        return genome.fetch(contig, 0, bases)


def test_the_shell_knows_the_name_and_a_path_comes_first(tmp_path, monkeypatch):
    fasta = tmp_path / "some.fa"
    fasta.write_text(">a\nACGTTGCAAC\n")
    command = [sys.executable, "-m", "titans_dna.cli", "embed", "--model", "human-small", "--fasta", str(fasta)]
    subprocess.run([*command, "--out", str(tmp_path / "out.npy")], check=True, capture_output=True)
    assert np.load(tmp_path / "out.npy").shape == (1, 96)
    model = titans_dna.load("multi-small")
    titans_dna.save(model, tmp_path / "human-small")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(titans_dna.load("human-small").norm.weight, model.norm.weight)
    with pytest.raises(FileNotFoundError, match="human-smal"):
        titans_dna.load("human-smal")
    command[command.index("human-small")] = "humansmall"
    wrong = subprocess.run([*command, "--out", str(tmp_path / "no.npy")], check=False, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].endswith("; did you mean human-small?")


def test_half_is_half_the_bytes_and_says_nothing_when_it_is_read(tmp_path, recwarn):
    model = titans_dna.load("human-small")
    for half in (False, True):
        titans_dna.save(model, tmp_path / str(half), half=half)
    whole, less = ((tmp_path / str(half) / "model.safetensors").stat().st_size for half in (False, True))
    assert less < 0.51 * whole
    again = titans_dna.load(tmp_path / "True")
    assert not recwarn.list
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=1e-3, atol=1e-6)
