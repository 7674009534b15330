"""What is done with the runs of version 0.1.0 in runs.tar.xz, and what must come of it: for the test and for make.py."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import tarfile
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ARCHIVE, EXPECTED = HERE / "runs.tar.xz", HERE / "expected.json"


class Case(NamedTuple):
    """A call in the directory of the runs. Inputs are named anew, as they have moved since."""

    line: str
    files: tuple[str, ...]
    """What it writes and is compared."""
    says: str = ""
    """Words that tell that it went on, and did not start again."""


ROWS = "--data train.csv --test test.csv --model lmm"
CASES = {
    # Interrupted runs go on.
    "pretrain mag": Case("pretrain --resume --out mag --fasta genome.fa", ("mag/metrics.csv",), "resumed at step"),
    "pretrain lanes": Case("pretrain --resume --out mal --fasta genome.fa", ("mal/metrics.csv",), "resumed at step"),
    "pretrain pieces": Case(
        "pretrain --resume --out pieces --fasta genome.fa", ("pieces/metrics.csv",), "resumed at step"
    ),
    "pretrain accumulate": Case(
        "pretrain --resume --out accumulate --fasta genome.fa --max_time 0",
        ("accumulate/metrics.csv",),
        "resumed at step",
    ),
    "pretrain finished": Case(
        "pretrain --resume --out mac --fasta genome.fa", ("mac/metrics.csv", "mac/markov.csv"), "resumed at step"
    ),
    "finetune": Case(
        f"finetune --resume --out sequences {ROWS}",
        ("sequences/seed-0/metrics.csv", "sequences/seed-1/metrics.csv", "sequences/predictions.csv"),
        "seed 0: done before",
    ),
    "finetune one more seed": Case(
        f"finetune --resume --out binary {ROWS} --seeds 2",
        ("binary/seed-1/metrics.csv", "binary/seed-0/metrics.csv"),
        "seed 0: done before",
    ),
    "finetune bases": Case(
        "finetune --resume --out islands --fasta genome.fa --annotation features.bed --model lmm",
        ("islands/seed-0/metrics.csv", "islands/predictions.bed"),
    ),
    "benchmark": Case(
        "benchmark --resume --out suite --root sets --model lmm",
        ("suite/benchmark.csv", "suite/first/seed-0/metrics.csv", "suite/second/seed-0/metrics.csv"),
        "done before",
    ),
    "remember": Case(
        "remember --model mac --fasta genome.fa --out long.state --track long.bedgraph",
        ("long.bedgraph",),
        "going on from the mark",
    ),
    "embed": Case(
        "embed --model lmm --fasta genome.fa --bed many.bed --out many.npy", ("many.npy",), "1 of 2 parts were done"
    ),
    "bench context": Case(
        "bench context --model lmm --fasta genome.fa --out context --places 3 --target 128 --contexts 64 512 2048 "
        "--window 64 --piece 64",
        ("context/context.csv",),
        "of 9 rows were done before",
    ),
    "bench needle": Case(
        "bench needle --resume --out needle --models lmm transformer-window --steps 3 "
        "--train_length 256 --batch 1 --width 8 --layers 1 --chunk 8 --key_lengths 4 --needles 1 --rows 4 "
        "--distances 500 2000 --piece 256",
        ("needle/results.csv",),
    ),
    # Models and states are used.
    **{
        f"embed {name}": Case(f"embed --model {name} --fasta probes.fa --out {name}.npy", (f"{name}.npy",))
        for name in ("lmm", "mac", "kmer", "tied", "bpe", "hf-lm")
    },
    **{
        f"state {name}": Case(
            f"embed --model {name} --state {name}.state --fasta probes.fa --out after-{name}.npy",
            (f"after-{name}.npy",),
        )
        for name in ("lmm", "mac", "kmer", "tied")
    },
    "remember more": Case(
        "remember --model tied --state tied.state --fasta probes.fa --out more.state --track more.bedgraph --bin 20",
        ("more.bedgraph",),
    ),
    **{
        f"predict {name}": Case(f"predict --model {name} --fasta probes.fa --out {name}.csv", (f"{name}.csv",))
        for name in ("binary", "regression", "multilabel", "lora")
    },
    "predict bases": Case("predict --model bases --fasta genome.fa --out bases.bed", ("bases.bed",)),
    "predict after a state": Case(
        "predict --model lora --state lora.state --fasta probes.fa --out after-lora.csv", ("after-lora.csv",)
    ),
    "evaluate": Case(
        "evaluate --model multilabel --data test.csv --label_column x y --out evaluated", ("evaluated/predictions.csv",)
    ),
}
MODELS = ("lmm", "mac", "kmer", "tied", "bpe", "accumulate", "needle/lmm-0", "hf-lm", "hf-classifier")
FINETUNED = ("binary", "regression", "multilabel", "bases", "lora")
PROBE = "ACGTTGCATGCAAACCCGGGTTTACGTACNGATTACAGATTACCACGTTGCAAGCTAGCTTTACGATCAGGCATTACGACG"


def unpack(folder: Path) -> None:
    """The runs as version 0.1.0 left them."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")


def call(line: str) -> tuple[Any, str]:
    """Exit status of `titans-dna LINE` in this process, and all that it says."""
    from titans_dna.cli import main

    if line.startswith("bench needle") and find_spec("bench_needle"):  # since version 0.1.0 it is a script
        main, line = import_module("bench_needle").main, line.removeprefix("bench needle")
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        try:
            main([*line.split()])
        except SystemExit as ended:
            return ended.code, text.getvalue()
    return None, text.getvalue()


def cells(path: Path) -> list[list[Any]]:
    """Rows of a table or of an array, numbers as such; no columns of seconds, nor of intervals."""
    if path.suffix == ".npy":
        import numpy as np

        return [[float(str(value)) for value in row] for row in np.load(path)]
    with open(path, newline="") as file:
        rows = list(csv.reader(file, delimiter="," if path.suffix == ".csv" else "\t"))
    kept = (
        [i for i, name in enumerate(rows[0]) if not re.search("second|low|high", name)]
        if path.suffix == ".csv"
        else None
    )
    return [[_cell(row[i]) for i in kept or range(len(row))] for row in rows]


def bits(folder: str) -> float:
    """Bits per token of PROBE under the model in a directory."""
    import torch

    import titans_dna

    model: Any = titans_dna.load(folder)
    ids = torch.from_numpy(model.tokenizer.encode(PROBE)).long()[None]
    with torch.no_grad():
        logits = model(ids).logits
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])) / math.log(2)


def size(folder: str) -> int:
    """Numbers in a fine-tuned model."""
    import titans_dna

    load: Any = titans_dna.load if hasattr(titans_dna, "push") else titans_dna.load_finetuned
    model = load(folder)
    return sum(one.numel() for one in model.parameters())


def transformers_numbers() -> dict[str, list[Any]]:
    """Logits of PROBE from the directories that `save_pretrained` wrote."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    import titans_dna.huggingface  # noqa: F401 (it registers the classes)

    found = {}
    kinds = {"hf-lm": AutoModelForCausalLM, "hf-classifier": AutoModelForSequenceClassification}
    for name, kind in kinds.items():
        batch = AutoTokenizer.from_pretrained(name)(PROBE, return_tensors="pt")
        with torch.no_grad():
            logits: Any = kind.from_pretrained(name)(**batch).logits
        found[name] = logits.reshape(-1, logits.shape[-1])[-1].tolist()
    return found


def everything() -> dict[str, Any]:
    """All numbers, from the runs in the working directory; RuntimeError for a call that fails."""
    found: dict[str, Any] = {"bits": {name: bits(name) for name in MODELS}}
    found["sizes"] = {name: size(name) for name in FINETUNED}
    found["transformers"] = transformers_numbers()
    found["cases"] = {}
    for name, case in CASES.items():
        status, text = call(case.line)
        if status != 0 or case.says not in text:
            raise RuntimeError(f"{name}: status {status}, want 0 and {case.says!r}:\n{text}")
        found["cases"][name] = {file: cells(Path(file)) for file in case.files}
    found["digests"] = {
        str(path): hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        for pattern in ("model.safetensors", "finetuned.safetensors")
        for path in sorted(Path().glob(f"**/{pattern}"))
    }
    return found


def _cell(text: str) -> Any:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) else text


if __name__ == "__main__":
    print(json.dumps(everything()))
