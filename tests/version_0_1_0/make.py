"""Make runs.tar.xz and expected.json with version 0.1.0, or compare a newer version with it bit for bit on this machine.

git worktree add OLD <the commit of version 0.1.0>
python -m tests.version_0_1_0.make --old OLD            # makes both files anew
python -m tests.version_0_1_0.make --old OLD --exact    # goes on from runs.tar.xz with OLD and with this checkout
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.version_0_1_0.cases import ARCHIVE, CASES, EXPECTED, unpack

ROOT = Path(__file__).parents[2]
SHAPE = (
    "--preset tiny --model.width 8 --model.layers 1 --model.heads 1 --model.memory_expansion 1 --model.ffn_width 8 "
    "--model.chunk 8 --model.segment 16 --model.window 16 --model.persistent 2"
)
PRETRAIN = (
    f"pretrain {SHAPE} --context 64 --batch_size 2 --warmup 2 --lr 0.005 --valid_every 8 --valid_bases 600 "
    "--save_every 4 --threads 1 --accelerator cpu"
)
FINETUNE = "--batch_size 8 --valid_every 3 --epochs 3 --lr 0.005 --threads 1 --accelerator cpu --baselines none"
ROWS = "finetune --model lmm --data train.csv --test test.csv"
BASES = (
    "finetune --model lmm --fasta genome.fa --annotation features.bed --context 64 --block 300 --batch_size 8 "
    "--valid_every 6 --epochs 1 --lr 0.005 --threads 1 --accelerator cpu --baselines majority"
)
# What is called, in this order, and where a run is to be interrupted: as soon as a file is there, with so many lines.
MADE: tuple[tuple[str, str, int], ...] = (
    (f"{PRETRAIN} --variant lmm --steps 12 --fasta lambda --out lmm", "", 0),
    (f"{PRETRAIN} --variant mac --steps 6 --lane 256 --fasta genome.fa --out mac", "", 0),
    (f"{PRETRAIN} --variant mag --steps 4 --tokenizer kmer-3 --context 96 --fasta genome.fa --out kmer", "", 0),
    (f"{PRETRAIN} --variant mal --steps 4 --model.tie_embeddings true --fasta genome.fa --out tied", "", 0),
    (f"{PRETRAIN} --variant lmm --steps 4 --tokenizer bpe.json --fasta genome.fa --out bpe", "", 0),
    (f"{PRETRAIN} --variant mag --steps 24 --fasta genome.fa --out mag", "mag/metrics.csv", 9),
    (f"{PRETRAIN} --variant mal --steps 24 --lane 320 --fasta genome.fa --out mal", "mal/metrics.csv", 9),
    (f"{PRETRAIN} --variant lmm --steps 24 --piece 16 --fasta genome.fa --out pieces", "pieces/metrics.csv", 9),
    (
        f"{PRETRAIN} --variant mac --steps 6 --lane 320 --accumulate 3 --model.layers 2 --model.restart 16 "
        "--max_time 0.001 --fasta genome.fa --out accumulate",
        "",
        0,
    ),
    (f"{ROWS} {FINETUNE} --out binary", "", 0),
    (f"{ROWS} {FINETUNE} --label_column value --out regression", "", 0),
    (f"{ROWS} {FINETUNE} --label_column x y --pool attention --out multilabel", "", 0),
    (f"{ROWS} {FINETUNE} --tune lora --lora_rank 2 --pool max --out lora", "", 0),
    (f"{BASES} --out bases", "", 0),
    (f"{ROWS} {FINETUNE} --seeds 2 --save_every 1 --out sequences", "sequences/seed-1/metrics.csv", 2),
    (f"{BASES} --save_every 1 --out islands", "islands/seed-0/metrics.csv", 2),
    (
        f"benchmark --model lmm --root sets {FINETUNE} --save_every 1 --out suite",
        "suite/second/seed-0/metrics.csv",
        2,
    ),
    *((f"remember --model {name} --fasta start.fa --out {name}.state", "", 0) for name in ("lmm", "mac", "kmer")),
    ("remember --model tied --fasta start.fa --out tied.state", "", 0),
    ("remember --model lora --fasta start.fa --out lora.state", "", 0),
    (f"{CASES['remember'].line} --piece 64 --save_every 0.00001 --threads 1", "long.state.partial", 0),
    (f"{CASES['embed'].line} --threads 1", "many.npy.partial/part-000000.npy", 0),
    (f"{CASES['bench context'].line} --threads 1", "context/scores/off-512.npy", 0),
    (
        CASES["bench needle"].line.replace(" --resume", "") + " --threads 1",
        "needle/transformer-window-0/model.safetensors",
        0,
    ),
)
# Of finished runs; others of these stay.
UNUSED = (
    *(f"{name}/checkpoint.pt" for name in ("lmm", "kmer", "tied", "bpe")),
    *(f"{name}/seed-0/*" for name in ("regression", "multilabel", "lora", "bases")),
    *(f"{name}/seed-0/checkpoint.pt" for name in ("binary", "sequences", "suite/first")),
)
BPE = """
from pathlib import Path
from titans_dna.data.bpe import BPETokenizer
BPETokenizer.train([Path("genome.fa").read_text().split()[1]], 24).save("bpe.json")
"""
HUGGINGFACE = """
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
import titans_dna.huggingface
torch.manual_seed(0)
AutoModelForCausalLM.from_pretrained("mac").save_pretrained("hf-lm")
AutoModelForSequenceClassification.from_pretrained("tied", num_labels=3, pool="attention").save_pretrained("hf-classifier")
for start, name in (("mac", "hf-lm"), ("tied", "hf-classifier")):
    AutoTokenizer.from_pretrained(start).save_pretrained(name)
"""


def main() -> None:
    """Make, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="checkout of version 0.1.0")
    parser.add_argument("--numbers", action="store_true", help="make expected.json alone, from the runs that are there")
    parser.add_argument("--exact", action="store_true", help="compare this checkout with it, bit for bit")
    options = parser.parse_args()
    old = options.old.absolute()
    if options.exact:
        raise SystemExit(_compare(_numbers(old), _numbers(ROOT)))
    if not options.numbers:
        _make(old)
    EXPECTED.write_text(_compact(_numbers(old)) + "\n")
    print(f"{ARCHIVE.stat().st_size:,} and {EXPECTED.stat().st_size:,} bytes")


def _make(old: Path) -> None:
    """Runs of every kind, some of them interrupted."""
    with TemporaryDirectory() as aside:
        folder = Path(aside)
        _write_inputs(folder, (old / "titans_dna" / "genomes" / "lambda.fa").read_text())
        _python(old, folder, "-c", BPE)
        for line, file, lines in MADE:
            print(line, flush=True)
            _run(old, folder, line, folder / file if file else None, lines)
        _python(old, folder, "-c", HUGGINGFACE)
        _strip(folder, old)
        _pack(folder)


def _numbers(package: Path) -> dict[str, Any]:
    """What a version makes of the runs, in an own process."""
    with TemporaryDirectory() as aside:
        unpack(Path(aside))
        return json.loads(_python(package, Path(aside), "-m", "tests.version_0_1_0.cases"))


def _compare(old: dict[str, Any], new: dict[str, Any]) -> int:
    a, b = (dict(_flat(one)) for one in (old, new))
    different = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    for name in different:
        print(f"{name}: {a.get(name)} with version 0.1.0, {b.get(name)} now")
    print(f"{len(a) - len(different):,} of {len(a):,} values are the same to the last bit")
    return bool(different)


def _flat(value: Any, name: str = "") -> Any:
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(one, f"{name}/{key}")
    else:
        yield name, value


def _environment(package: Path) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (package, package / "kernels", ROOT)))
    own = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    return {**os.environ, **own}


def _python(package: Path, folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=_environment(package), stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def _run(package: Path, folder: Path, line: str, file: Path | None, lines: int) -> None:
    """A call to its end, or until a file has so many lines."""
    command = [sys.executable, "-m", "titans_dna.cli", *line.split()]
    process = subprocess.Popen(command, cwd=folder, env=_environment(package), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if file is not None and file.exists() and file.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.001)
    status = process.wait()
    if status not in ((143, -signal.SIGTERM) if file else (0,)):
        raise RuntimeError(f"{line}: ended with {status}")


def _write_inputs(folder: Path, phage: str) -> None:
    """Twelve kilobases of the phage, stretches of it as probes, its rich parts as features, and labelled sequences."""
    genome = "".join(phage.splitlines()[1:])[:12_000]
    rich = [i for i in range(0, len(genome), 60) if sum(map(genome[i : i + 60].count, "CG")) > 32]
    texts = {
        "genome.fa": f">phage\n{genome}\n",
        "start.fa": f">start\n{genome[500:900]}\n",
        "probes.fa": "".join(f">p{n}\n{genome[1000 + n : 1000 + 2 * n]}\n" for n in (40, 97, 150)),
        "features.bed": "".join(f"phage\t{i}\t{i + 60}\trich\t0\t+\n" for i in rich),
        # More than 2^19 bases, which is a part of `embed`, then some that are shorter.
        "many.bed": "".join(f"phage\t{i}\t12000\tlong-{i}\n" for i in range(44))
        + "".join(f"phage\t{i}\t11000\tshort-{i}\n" for i in range(4)),
    }
    rng = random.Random(0)
    for name, count in (("train", 48), ("test", 20)):
        rows = ["sequence,label,value,x,y"]
        for i in range(count):
            word = "TATATATAAT" if i % 2 else "GCGCGCCGGC"
            letters = [*rng.choices("ACGT", k=rng.randint(20, 40))]
            letters[5:5] = word
            share = sum(map(letters.count, "CG")) / len(letters)
            rows.append(f"{''.join(letters)},{'ab'[i % 2]},{share:.3f},{i % 2},{rng.randint(0, 1)}")
        texts[f"{name}.csv"] = "\n".join(rows) + "\n"
        for place, part in (("first", rows[1:]), ("second", rows[:0:-1])):
            labelled = "".join(",".join(row.split(",")[:2]) + "\n" for row in part)
            texts[f"sets/{place}/{name}.csv"] = f"sequence,label\n{labelled}"
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _strip(folder: Path, old: Path) -> None:
    """Take away pictures, events, checkpoints that nobody asks for, and the names of directories of this machine."""
    for pattern in UNUSED:
        for path in folder.glob(pattern):
            path.unlink()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".png" or "tensorboard" in path.parts or path.suffix == ".tmp":
            if path.is_file():
                path.unlink()
        elif path.suffix in (".yaml", ".json", ".md", ".csv"):
            text = path.read_text()
            for prefix in (folder, old):
                text = text.replace(f"{prefix}/", "")
            path.write_text(text)


def _pack(folder: Path) -> None:
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))


def _compact(values: dict[str, Any]) -> str:
    """JSON with a line for each row of a table."""
    text = json.dumps(values, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda row: re.sub(r"\s+", " ", row[0]), text)


if __name__ == "__main__":
    main()
