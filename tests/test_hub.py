"""A model by its hub id, each way: only the files that are ours, and one line where the hub does not play along."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

import titans_dna
from titans_dna import checkpoint
from titans_dna.config import TitansConfig
from titans_dna.hub import is_hub_id
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import NucleotideTokenizer


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
        "print(titans_dna.embed(titans_dna.load('lab/phage'), 'ACGTACGT').shape)\n"
        "from titans_dna.cli import main\n"
        "main(['embed', '--model', 'lab/other', '--fasta', 'x.fa', '--out', 'v.npy'])"
    )
    (tmp_path / "x.fa").write_text(">a\nACGT\n")
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
    assert asked == [("lab/phage", ["config.json", "counts.safetensors", "model.safetensors", "tokenizer.json"])]


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


FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


class FakeHub:
    """HfApi, with a folder for a hub."""

    def __init__(self, root):
        self.root, self.calls, self.refuses = root, [], None

    def __call__(self, token=None):
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.refuses:
            raise self.refuses
        self.calls.append(("repo", repo_id, private, exist_ok))
        return huggingface_hub.RepoUrl(f"https://hub.test/{repo_id}", endpoint="https://hub.test")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append(("commit", repo_id, commit_message))
        target = self.root / repo_id
        target.mkdir(parents=True)
        for file in Path(folder_path).iterdir():
            (target / file.name).write_bytes(file.read_bytes())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(fake.root / name))
    return fake


def test_a_pushed_model_comes_back(tmp_path, hub, monkeypatch):
    make(tmp_path / "run")
    model = checkpoint.load(tmp_path / "run")
    page = checkpoint.push(model, "lab/phage", private=True, token="secret", commit_message="First")
    assert page == "https://hub.test/lab/phage"
    assert hub.calls == [("token", "secret"), ("repo", "lab/phage", True, True), ("commit", "lab/phage", "First")]
    assert sorted(file.name for file in (hub.root / "lab" / "phage").iterdir()) == FILES
    monkeypatch.chdir(tmp_path)
    again = checkpoint.load("lab/phage")
    assert titans_dna.embed(again, "ACGTTGCA").tolist() == titans_dna.embed(model, "ACGTTGCA").tolist()
    card = (hub.root / "lab" / "phage" / "README.md").read_text()
    assert huggingface_hub.ModelCard(card).data.library_name == "titans-dna"
    assert 'titans_dna.load("lab/phage")' in card


def make_tuned(unit="sequence"):
    torch.manual_seed(0)
    backbone = TitansDNA(TitansConfig.preset("tiny", layers=1))
    return FineTuned(backbone, Question("binary", ("no", "yes"), unit), NucleotideTokenizer()).eval()


@pytest.mark.parametrize("source", ["model", "directory"])
def test_a_pushed_fine_tuned_model_comes_back(tmp_path, hub, monkeypatch, source):
    model, run = make_tuned(), tmp_path / "run"
    checkpoint.save(model, run)
    (run / "results.md").write_text("| model |\n")
    (run / "last.ckpt").write_bytes(b"a pickle")
    checkpoint.push(model if source == "model" else run, "lab/promoters")
    pushed = hub.root / "lab" / "promoters"
    assert {file.name for file in pushed.iterdir()} == {*checkpoint.FINETUNED.files, "config.json", "README.md"}
    card = (pushed / "README.md").read_text()
    assert 'titans_dna.load("lab/promoters")' in card
    assert "binary: no, yes" in card
    assert ("| model |" in card) is (source == "directory")
    monkeypatch.chdir(tmp_path)
    again = checkpoint.load("lab/promoters")
    assert again.question == model.question
    for name, value in model.state_dict().items():
        assert any(part in name for part in checkpoint.UNSAVED) or torch.equal(again.state_dict()[name], value)
    with pytest.raises(FileNotFoundError, match=r"promoters/config\.json: no such file"):
        checkpoint.load("lab/promoters/", TitansDNA)


def test_of_both_kinds_each_can_be_pushed(tmp_path, hub):
    make(tmp_path)
    (tmp_path / "README.md").write_text("My card.\n")
    checkpoint.save(make_tuned("base"), tmp_path)
    checkpoint.push(tmp_path, "lab/language")
    with pytest.warns(DeprecationWarning, match="use titans_dna.push"):
        checkpoint.push_finetuned(tmp_path, "lab/tuned", private=True)
    assert sorted(file.name for file in (hub.root / "lab" / "language").iterdir()) == FILES
    tuned = hub.root / "lab" / "tuned"
    assert {file.name for file in tuned.iterdir()} == {*checkpoint.FINETUNED.files, "README.md"}
    assert "My card" not in (tuned / "README.md").read_text()
    assert ("repo", "lab/tuned", True, True) in hub.calls


def test_files_of_a_fine_tuned_model_are_fetched_where_there_is_no_other(tmp_path, monkeypatch):
    checkpoint.save(make_tuned(), tmp_path / "snapshot")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(sorted(allow_patterns))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert isinstance(checkpoint.load("lab/promoters", FineTuned), FineTuned)
    files = [sorted((*form.files, checkpoint.COUNTS)) for form in (checkpoint.LANGUAGE, checkpoint.FINETUNED)]
    assert asked == files[1:]
    assert isinstance(checkpoint.load("lab/promoters"), FineTuned)
    assert asked[1:] == files


def test_of_a_directory_only_the_model_goes_up(tmp_path, hub):
    make(tmp_path)
    (tmp_path / "README.md").write_text("My card.\n")
    (tmp_path / "last.ckpt").write_bytes(b"a pickle")
    (tmp_path / "logs").mkdir()
    assert checkpoint.push(str(tmp_path), "lab/phage") == "https://hub.test/lab/phage"
    assert hub.calls[:2] == [("token", None), ("repo", "lab/phage", False, True)]
    pushed = hub.root / "lab" / "phage"
    assert sorted(file.name for file in pushed.iterdir()) == FILES
    assert all((pushed / name).read_bytes() == (tmp_path / name).read_bytes() for name in FILES)


def test_what_is_not_pushed(tmp_path, hub):
    make(tmp_path)
    with pytest.raises(ValueError, match="repo_id: got 'phage', want user/name"):
        checkpoint.push(tmp_path, "phage")
    with pytest.raises(ValueError, match="source: got a model without a tokenizer"):
        checkpoint.push(TitansDNA(TitansConfig.preset("tiny", layers=1)), "lab/phage")
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "version": 9}))
    with pytest.raises(ValueError, match=r"config\.json: got some other JSON"):
        checkpoint.push(tmp_path, "lab/phage")
    with pytest.raises(FileNotFoundError, match=r"nope/config\.json: no such file"):
        checkpoint.push("lab/nope", "lab/phage")  # a directory, never a hub id
    assert not hub.calls


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route\nto host"), "no route"),
        (PermissionError("403 Forbidden: not yours"), "403 Forbidden: not yours"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_hub_that_refuses_has_one_line(tmp_path, hub, error, reason):
    make(tmp_path)
    hub.refuses = error
    with pytest.raises(OSError, match="lab/phage") as caught:
        checkpoint.push(tmp_path, "lab/phage")
    assert str(caught.value) == f"lab/phage: not uploaded to the Hugging Face hub: {reason}"


def test_the_real_library_takes_the_calls(tmp_path, monkeypatch):
    """Up to its HTTP client, which is offline here."""
    make(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="lab/phage: not uploaded to the Hugging Face hub: ") as caught:
        checkpoint.push(tmp_path, "lab/phage", token="secret")
    assert "offline" in str(caught.value).lower()
    assert "\n" not in str(caught.value)
