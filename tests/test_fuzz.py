"""Whatever a file holds, a reader reads it or says in one line what is wrong; seeded, for TITANS_DNA_FUZZ_SECONDS in all."""

import os
import random
import time
import warnings

import pytest
import torch

from titans_dna import checkpoint
from titans_dna.config import TitansConfig
from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import read_bed
from titans_dna.labels.annotation import read_annotation
from titans_dna.labels.read import read_labelled
from titans_dna.nn.model import TitansDNA
from titans_dna.nn.state import load_state, save_state
from titans_dna.run.commandline import parse
from titans_dna.tokens.vocabulary import NucleotideTokenizer
from titans_dna.train.options import PretrainOptions

BASES = "ACGTTGCAGATTACAGGCCTA" * 6
FILES = {
    "x.fa": f">c some text\n{BASES[:60]}\n{BASES[60:]}\n>d\nACGTN\n",
    "x.fq": f"@r1\n{BASES[:20]}\n+\n{'I' * 20}\n@r2\nACGT\n+\nIIII\n",
    "x.gb": (
        "LOCUS       T1                       20 bp    DNA     linear   SYN 17-MAY-2019\nDEFINITION  test.\n"
        "ACCESSION   T1\nVERSION     T1.1\nREFERENCE   1  (bases 1 to 20)\n  AUTHORS   Doe,J.\n  TITLE     A title\n"
        'FEATURES             Location/Qualifiers\n     CDS             join(3..5,7..11)\n                     /gene="a"\n'
        "ORIGIN\n        1 acgtacgtac gtacgtacgt\n//\n"
    ),
    "x.embl": (
        "ID   T1; SV 1; linear; genomic DNA; STD; SYN; 20 BP.\nXX\nAC   T1;\nXX\n"
        'FH   Key             Location/Qualifiers\nFT   CDS             3..11\nFT                   /gene="a"\nXX\n'
        "SQ   Sequence 20 BP;\n     acgtacgtac gtacgtacgt                20\n//\n"
    ),
    "x.gff3": (
        "##gff-version 3\nc\tsrc\tCDS\t1\t9\t.\t+\t0\tID=a;kind=rich\n"
        "c\tsrc\tCDS\t20\t30\t.\t-\t0\tkind=poor\n##FASTA\n>c\nACGT\n"
    ),
    "x.gtf": (
        'c\tsrc\tCDS\t1\t9\t.\t+\t0\tgene_id "a"; kind "rich";\n'
        'c\tsrc\tCDS\t20\t30\t.\t-\t0\tgene_id "b"; kind "poor";\n'
    ),
    "x.bed": "#name\nc\t1\t9\ttrain\t0\t+\nc\t20\t30\tvalid\t0\t-\nd\t0\t5\ttest\n",
    "x.csv": "sequence,label\n" + "".join(f"{BASES[i : i + 12]},{'ab'[i % 2]}\n" for i in range(12)),
    "x.yaml": "fasta: [lambda]\nsteps: 10\nlr: 0.004\nmodel: {width: 32, heads: 2}\nvariant: lmm\n",
}
TOKENS = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"-1", b"9" * 30, b"1e999", b"nan", b"\t", b"\r", b'"', b"..", b"[" * 5000),
    *(b"{a: ", b"*a", b"&a ", b"##FASTA", b">", b"@", b"//\n", b"join(", b"\n\n", b"A" * 70000, "µ".encode()),
)
SECONDS = float(os.environ.get("TITANS_DNA_FUZZ_SECONDS", "6"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig(variant="mac", width=16, layers=1, heads=2)).eval()
    checkpoint.save(model, folder / "model", NucleotideTokenizer())
    save_state(folder / "x.state", model(torch.full((1, 9), 8)).state, model, {"read": ["c"]})
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder, model, open_genome(folder / "x.fa", folder / "cache")


def readers(place):
    folder, model, genome = place
    annotation = {"features": ["CDS"], "class_by": "kind"}
    found = {name: lambda path: open_genome(path, folder / "cache") for name in ("x.fa", "x.fq", "x.gb", "x.embl")}
    found |= {name: lambda path: read_annotation(path, genome, **annotation) for name in ("x.gff3", "x.gtf")}
    found |= {
        "x.bed": lambda path: read_bed(path, genome),
        "x.csv": read_labelled,
        "x.yaml": lambda path: parse(PretrainOptions, ["--config", str(path)], verb="pretrain", program="titans-dna"),
        "x.state": lambda path: load_state(path, model),
    }
    return found


def spoilt(whole, draw):
    """A file with one to four faults."""
    data = bytearray(whole)
    for _ in range(draw.randint(1, 4)):
        first = draw.randrange(len(data) + 1)
        last = min(len(data), first + draw.randint(1, 40))
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[first:last]
        elif kind == 2:
            data[first:first] = data[first:last] * draw.choice([1, 1, 50])
        elif kind == 3:
            data[first:last] = draw.choice(TOKENS)
        elif kind == 4:
            del data[first:]
        elif kind == 5:
            lines = bytes(data).split(b"\n")
            draw.shuffle(lines)
            data = bytearray(b"\n".join(lines))
        else:
            data[first:first] = draw.choice(TOKENS)
    return bytes(data)


def check(read, path, seed):
    began, said = time.process_time(), "read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except (ValueError, OSError) as error:
        said = str(error)
    except BaseException as error:
        raise AssertionError(f"{path.name}, seed {seed}: {type(error).__name__}: {error}") from error
    assert said.strip(), (path.name, seed)
    assert time.process_time() - began < 5, (path.name, seed)


@pytest.mark.parametrize("name", [*FILES, "x.state"])
def test_a_spoilt_file_is_read_or_refused_in_one_line(place, tmp_path, capsys, name):
    folder, _, _ = place
    whole, read, until = (folder / name).read_bytes(), readers(place)[name], time.monotonic() + SECONDS / 14
    path, seed = tmp_path / name, 0
    while seed < 3 or time.monotonic() < until:
        path.write_bytes(spoilt(whole, random.Random(f"{name} {seed}")))
        check(read, path, seed)
        seed += 1
        if seed % 100 == 0:
            capsys.readouterr()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_spoilt_model_is_loaded_or_refused_in_one_line(place, tmp_path, name):
    folder, _, _ = place
    for file in (folder / "model").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole, path, until, seed = (tmp_path / name).read_bytes(), tmp_path / name, time.monotonic() + SECONDS / 14, 0
    while seed < 3 or time.monotonic() < until:
        path.write_bytes(spoilt(whole, random.Random(f"{name} {seed}")))
        check(lambda _: checkpoint.load(tmp_path), path, seed)
        seed += 1
