"""What each part of a small model's design brings: `configs/pretrain/ecoli.yaml` with one thing changed at a time.

    python scripts/ablation.py --fasta ecoli.fa.gz --work DIR [--only whole "no stem"]

Each row is a run of `titans-dna pretrain` with one thread in a directory of its own; what is finished there is not run
again. Prints a Markdown table: bits per base on the held-out blocks, and CPU seconds of the whole command (of a run that was
gone on with, those of the last part).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from titans_dna.train.pretrain import held_out

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "ecoli.yaml"
ROWS = {
    "whole": "",
    "no dilations": "--model.conv_dilations 1 1 1",
    "no look-ups": "--model.kmers",
    "a stem of 12 taps": "--model.stem 12",
    "AdamW for all": "--optimizer adamw",
    "a fourth convolution (64) for the memory": "--model.mixers conv conv conv conv --model.conv_dilations 1 4 16 64",
    "no memory, three blocks": "--model.layers 3 --model.mixers conv conv conv",
    "two memory blocks, as in version 0.1.0": "--model.layers 2 --model.mixers --model.conv_dilations "
    "--model.kmers --optimizer adamw --variant lmm",
    "longer look-ups too (6 and 9)": "--model.kmers 6 9 --model.kmer_slots 262144",
    "counts": "--counts true",
    "bfloat16": "--precision bf16-mixed",
}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=1000)
    chosen = parser.parse_args()
    rows = []
    for name in chosen.only:
        flags = ["--config", str(CONFIG), *ROWS[name].split(), "--steps", str(chosen.steps)]
        place = chosen.work / "".join(one if one.isalnum() else "-" for one in name)
        rows.append((name, *run([*flags, "--fasta", *chosen.fasta], place)))
    print("| model | bits | CPU s |\n|---|---|---|")
    for name, bits, seconds in rows:
        print(f"| {name} | {bits:.4f} | {seconds:.0f} |")


def run(flags: list[str], out: Path) -> tuple[float, float]:
    """Bits and CPU seconds of `titans-dna pretrain` with these flags on one thread; of what is done in `out`, as they were."""
    done = out.with_suffix(".json")
    if not done.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "titans_dna.cli", "pretrain"]
        goes_on = (out / "run.yaml").exists()
        command += ["--resume"] if goes_on else [*flags, "--valid_every", "0", "--threads", "1"]
        before = os.times()
        subprocess.run([*command, "--out", str(out)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        done.write_text(json.dumps([held_out(out), seconds]))
    bits, seconds = json.loads(done.read_text())
    return bits, seconds


if __name__ == "__main__":
    main()
