"""The command line: help, configuration files, and one clear line for each kind of bad input."""

import math
import subprocess
import sys
from importlib import import_module

import pytest
import yaml

from titans_dna.cli import VERBS, main
from titans_dna.run.options import flags

GENOME = ">one\n" + "ACGTTGCA" * 100 + "\n>two\n" + "GATTACAT" * 100 + "\n"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "genome.fa": GENOME,
        "other.fa": GENOME.replace("GATT", "CATT"),
        "empty.fa": "",
        "bare.fa": ">one\n\n",
        "protein.fa": ">p\nMKVLAAGIVGLLLAQPEFW\n",
        "contig.bed": "three\t0\t100\n",
        "past.bed": "one\t0\t801\n",
        "key.yaml": "fasta: [genome.fa]\nstepz: 3\n",
        "field.yaml": "fasta: [genome.fa]\nmodel: {widht: 3}\n",
        "type.yaml": "fasta: [genome.fa]\nsteps: many\n",
        "text.yaml": "fasta: genome.fa\n",
        "broken.yaml": "fasta: [genome.fa\n",
        "list.yaml": "- 1\n",
        "nothing.yaml": "",
        "null.yaml": "fasta: [genome.fa]\nsteps:\n",
        "model.yaml": "fasta: [genome.fa]\nmodel: 3\n",
        "number.yaml": "fasta: [genome.fa]\nsplit: contig\nvalid_contigs: [1]\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    return tmp_path


BASE = "--fasta genome.fa --preset tiny --context 64 --steps 2"
BAD = {
    "no fasta": ("", "--fasta: got none"),
    "no such fasta": ("--fasta nope.fa", "nope.fa: no such file"),
    "directory": ("--fasta .", "directory"),
    "empty fasta": ("--fasta empty.fa", "empty.fa: empty file"),
    "no bases": ("--fasta bare.fa", "bare.fa: 1 record(s) but no bases"),
    "protein": ("--fasta protein.fa", "protein.fa: not a nucleotide sequence"),
    "bed contig": (f"{BASE} --bed contig.bed", "contig.bed: line 1: contig 'three' is not in genome.fa"),
    "past the end": (f"{BASE} --bed past.bed", "past.bed: line 1: interval one:0-801"),
    "no bed": (f"{BASE} --bed nope.bed", "nope.bed: no such file"),
    "context": ("--fasta genome.fa --context 801", "--context: got 801 bases, want at most 800"),
    "unknown key": ("--config key.yaml", "stepz"),
    "unknown field": ("--config field.yaml", "model.widht"),
    "wrong type": ("--config type.yaml", "--steps: got many, want int"),
    "text for a list": ("--config text.yaml", "text.yaml: fasta: got 'genome.fa', want a list"),
    "broken yaml": ("--config broken.yaml", "broken.yaml: not valid YAML: while parsing"),
    "no text": ("--config bytes.yaml", "bytes.yaml: not valid YAML: 'utf-8' codec"),
    "no mapping": ("--config list.yaml", "list.yaml: got [1], want options"),
    "empty config": ("--config nothing.yaml", "nothing.yaml: got None, want options"),
    "null": ("--config null.yaml", "--steps: got no value"),
    "model no mapping": ("--config model.yaml", "model.yaml: model: got 3"),
    "number for a name": ("--config number.yaml", 'number.yaml: valid_contigs: got 1, want text; quote it: "1"'),
    "fasta twice": (f"{BASE} --fasta other.fa", "--fasta: got it 2 times"),
    "contigs in vain": (f"{BASE} --valid_contigs two", "--valid_contigs: got them with --split blocks"),
    "lr below min_lr": (f"{BASE} --lr 1e-4", "--min_lr: got 0.0002, want at most --lr (0.0001)"),
    "no out": (f"{BASE} --out=", "--out: got '', want a directory"),
    "empty name": ("--fasta=", "--fasta: got none"),
    "no config": ("--config nope.yaml", "nope.yaml"),
    "unknown flag": (f"{BASE} --stepz 3", "--stepz"),
    "wrong flag type": (f"{BASE} --lr fast", "--lr: got fast, want float"),
    "variant": (f"{BASE} --variant foo", "--variant: got foo, want one of"),
    "preset": ("--fasta genome.fa --preset huge", "--preset: got 'huge', want one of tiny"),
    "range": (f"{BASE} --batch_size 0", "--batch_size: got 0, want at least 1"),
    "model range": (f"{BASE} --model.heads 3", "--model.heads: got 3"),
    "lane": (f"{BASE} --lane 100", "--lane: got 100, want a multiple of --context (64)"),
    "tokenizer": (f"{BASE} --tokenizer words", "tokenizer: got 'words'"),
    "resume nothing": (f"{BASE} --resume", "--resume: out holds no run of titans-dna pretrain to resume"),
    "contig split": (f"{BASE} --split contig --valid_contigs three", "'three'"),
    "bed split": (f"{BASE} --split bed", "--bed: got none"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(files, capsys, name):
    arguments, message = BAD[name]
    before = sorted(path.name for path in files.iterdir())
    status, out, err = call(capsys, "pretrain", "--out", "out", *arguments.split())
    assert status == 2
    assert not out
    assert err.startswith("titans-dna: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in files.iterdir()) == before


def test_a_run_directory_is_guarded(files, capsys):
    base = ["pretrain", *BASE.split(), "--valid_bases", "100", "--threads", "1", "--accelerator", "cpu"]
    assert call(capsys, *base, "--out", "run")[0] == 0
    kept = {path.name: path.read_bytes() for path in (files / "run").iterdir() if path.is_file()}
    (files / "file").write_text("")
    for name, change in (("own", {"foo": 1}), ("bare", {"model": None})):
        (files / name).mkdir()
        (files / name / "run.yaml").write_text(yaml.safe_dump({**yaml.safe_load(kept["run.yaml"]), **change}))
    (files / "project").mkdir()
    (files / "project" / "README.md").write_text("mine")
    for out, extra, message in (
        ("run", "", "--out: run holds another run"),
        ("file", "", "--out: file is a file"),
        ("file/below", "", "file/below"),
        ("project", "", "--out: project is not empty (README.md)"),
        ("own", "--resume", "--resume: own: run.yaml is not as titans-dna pretrain wrote it"),
        ("bare", "--resume", "--resume: bare: run.yaml is not as titans-dna pretrain wrote it"),
        ("run", "--resume --steps 3", "--resume: --steps: got 3, but the run to resume has 2"),
        ("run", "--resume --model.layers 1", "--resume: --model.layers: got 1, but the run to resume has 2"),
        (
            "run",
            "--resume --fasta other.fa",
            "--resume: --fasta is not that of the run in run: its fingerprint differs",
        ),
    ):
        status, _, err = call(capsys, *(["pretrain"] if "--resume" in extra else base), "--out", out, *extra.split())
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
    assert {path.name: path.read_bytes() for path in (files / "run").iterdir() if path.is_file()} == kept
    (files / "run" / "checkpoint.pt").write_bytes(kept["checkpoint.pt"][:5000])
    status, _, err = call(capsys, "pretrain", "--resume", "--out", "run")
    assert (status, err) == (2, "titans-dna: error: run/checkpoint.pt: truncated or damaged checkpoint\n")


def test_print_config_is_a_config(files, capsys):
    status, out, _ = call(
        capsys, "pretrain", *BASE.split(), "--model.layers", "3", "--variant", "mag", "--print_config"
    )
    assert status == 0
    values = yaml.safe_load(out)
    assert values["fasta"] == ["genome.fa"]
    assert (values["model"]["layers"], values["model"]["width"]) == (3, 32)  # one given, one of the preset
    (files / "printed.yaml").write_text(out)
    again = call(capsys, "pretrain", "--config", "printed.yaml", "--steps", "7", "--print_config")[1]
    assert yaml.safe_load(again) == {**values, "steps": 7}


@pytest.mark.parametrize(
    ("flags", "mixers", "kmers"),
    [
        ("", ["conv", "conv", "conv", "memory"], [6]),
        ("--model.layers 2", ["conv", "memory"], [6]),
        ("--model.layers 2 --model.mixers conv conv", ["conv", "conv"], [6]),
        ("--tokenizer kmer-3", ["conv", "conv", "conv", "memory"], []),
        ("--devices 2", ["conv", "conv", "conv", "memory"], []),
        ("--devices 2 --model.kmers 4", ["conv", "conv", "conv", "memory"], [4]),
        ("--preset mini-0.1.0", [], []),
    ],
)
def test_the_defaults_of_a_preset_follow_what_is_given(files, capsys, flags, mixers, kmers):
    said = call(capsys, "pretrain", *BASE.split(), "--preset", "mini", *flags.split(), "--print_config")[1]
    model = yaml.safe_load(said)["model"]
    assert (model["mixers"], model["kmers"]) == (mixers, kmers)
    (files / "some.yaml").write_text(yaml.safe_dump({"model": {"layers": 3}, "preset": "mini"}))
    said = call(capsys, "pretrain", *BASE.split(), "--preset", "tiny", "--config", "some.yaml", "--print_config")[1]
    assert yaml.safe_load(said)["model"]["mixers"] == ["conv", "conv", "memory"]


def test_help_names_units_and_defaults(capsys):
    status, out, _ = call(capsys, "pretrain", "--help")
    text = " ".join(out.split())
    assert status == 0
    for words in (
        "Sequence data", "Training", "Bases of a training window. (default: 1024)", "--model.memory_depth",
        "0-based half-open", "minutes",
    ):  # fmt: skip
        assert words in text


def test_help_needs_neither_torch_nor_lightning():
    code = (
        "import sys\n"
        "from titans_dna.cli import main\n"
        "try:\n    main(['pretrain', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'lightning', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


EARLY = {
    "no genome": "embed --model . --fasta nope.fa --out v.npy",
    "no model": "embed --model nope --fasta g.fa --out v.npy",
    "no BED file": "embed --model . --fasta g.fa --bed nope.bed --out v.npy",
    "no state": "remember --model . --fasta g.fa --state nope --out s",
    "there already": "predict --model . --fasta g.fa --out g.fa",
    "no directory": "embed --model . --fasta g.fa --out nope/v.npy",
    "another run": "pretrain --fasta g.fa --out busy",
    "no run": "pretrain --fasta g.fa --resume --out new",
    "no table": "finetune --preset tiny --data nope.csv --out new",
    "no annotation": "finetune --preset tiny --fasta g.fa --annotation nope.gff --out new",
    "no rows": "evaluate --model . --data nope.csv --out new",
    "not empty": "evaluate --model . --data g.fa --out busy",
    "a value": "pretrain --fasta g.fa --steps none",
    "a choice": "pretrain --fasta g.fa --variant mga",
    "a preset": "pretrain --fasta g.fa --preset tinny",
    "a flag": "benchmark --suit GUE",
}


@pytest.mark.parametrize("name", EARLY)
def test_what_is_wrong_is_told_before_torch_is_imported(tmp_path, name):
    """Which takes longer than all the rest."""
    (tmp_path / "g.fa").write_text(">a\nACGT\n")
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "mine.txt").touch()
    code = (
        "import sys; from titans_dna.cli import main\ntry: main(sys.argv[1:])\nfinally: print([name for name in "
        "('torch', 'lightning', 'Bio', 'matplotlib', 'triton') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *EARLY[name].split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("titans-dna: error: ")


def wrong_values(flag):
    """Values that no such flag can have."""
    said = flag.field.metadata
    if flag.choices:
        yield "nonsense"
    elif flag.type in (int, float, bool):
        yield "many"
        for limit, step in (("least", -1), ("above", 0), ("most", 1), ("below", 0)):
            if said.get(limit) is not None and math.isfinite(said[limit]):
                yield str(flag.type(said[limit] + step))
        if flag.type is float:
            yield "nan"


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_wrong_value_of_every_flag_is_one_line_that_names_it(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    module, kind = next(one for one in VERBS if one.name == verb).options.split(":")
    tried = 0
    for flag in flags(getattr(import_module(module), kind)):
        for value in wrong_values(flag):
            status, out, err = call(capsys, verb, f"--{flag.name}={value}")
            got = f"{verb} --{flag.name}={value}: {err}"
            assert (status, out, err.count("\n")) == (2, "", 1), got
            assert err.startswith(f"titans-dna: error: --{flag.name}"), got
            assert "Literal" not in err, got
            assert "NoneType" not in err, got
            tried += 1
    assert tried > 5
    assert not list(tmp_path.iterdir())
