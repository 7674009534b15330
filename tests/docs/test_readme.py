"""Every snippet of the README runs as it stands, in a directory with the files that it names; long runs are cut short."""

import gzip
import random
import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from titans_dna import checkpoint
from titans_dna.cli import main
from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import NucleotideTokenizer

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SHORT = {
    "pretrain": "--steps 2 --context 128 --batch_size 1 --valid_every 0 --warmup 1 --block 1200",
    "finetune": "--epochs 0.1 --baselines majority --seeds 1",
    "benchmark": "--epochs 0.1 --baselines majority --seeds 1",
    "plan": None,  # measures a machine; tests/planning has it
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands():
    lines = (line.partition(" #")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [line for line in lines if line.startswith("titans-dna")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("readme"), random.Random(0)
    torch.manual_seed(0)
    checkpoint.save(TitansDNA(TitansConfig.preset("tiny", variant="lmm")), folder / "model", NucleotideTokenizer())
    genome = (files("titans_dna") / "genomes" / "lambda.fa").read_bytes()
    name = genome[1:].split()[0].decode()
    (folder / "genome.fa").write_bytes(genome)
    (folder / "genome.fa.gz").write_bytes(gzip.compress(genome))
    (folder / "chr1.fa.gz").write_bytes(gzip.compress(genome[:4000]))
    (folder / "probes.fa").write_text(">a\nACGT\n>b\nGGGTTT\n")
    for file in ("genes.bed", "windows.bed"):
        (folder / file).write_text(f"{name}\t100\t400\tone\t0\t+\n{name}\t1000\t1200\ttwo\t0\t-\n")
    genes = (f"{name}\tx\tCDS\t{i}\t{i + 900}\t.\t+\t0\tID={i}\n" for i in range(1, 47000, 1500))
    (folder / "genes.gff3").write_text("".join(genes))
    for file in ("train.csv", "test.csv", "other.csv"):
        rows = (f"{''.join(draw.choices('ACGT', k=60))},{'ab'[i % 2]}\n" for i in range(60))
        (folder / file).write_text("sequence,label\n" + "".join(rows))
    for split in ("train", "test"):
        for label in ("negative", "positive"):
            place = folder / ".genomic_benchmarks" / "demo_coding_vs_intergenomic_seqs" / split / label
            place.mkdir(parents=True)
            for i in range(12):
                (place / f"{i}.txt").write_text("".join(draw.choices("ACGT", k=40)))
    return folder


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python(folder, monkeypatch, number):
    monkeypatch.chdir(folder)
    shutil.copytree("model", "runs/first", dirs_exist_ok=True)
    exec(compile(blocks("python")[number], f"README.md, snippet {number}", "exec"), {"__name__": "snippet"})


def test_the_shell_from_the_first_line_to_the_last(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    shutil.rmtree("runs", ignore_errors=True)
    done = set()
    for line in commands():
        words = shlex.split(line.replace("~", str(folder)))[1:]
        more = SHORT.get(words[0], "")
        if more is None or "--help" in words:
            continue
        if "--resume" in words:  # nothing was interrupted
            continue
        for flag in more.split()[::2]:
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
        with pytest.raises(SystemExit) as ended:
            main([*words, *more.split(), *(["--context", "512", "--block", "3000"] if "--annotation" in words else [])])
        assert ended.value.code == 0, (line, capsys.readouterr().err)
        done.add(words[0])
    assert done == {"pretrain", "embed", "remember", "finetune", "evaluate", "predict", "benchmark"}
