"""What the defaults of `titans-dna pretrain` were chosen by: presets and settings at equal CPU time.

    python scripts/defaults.py --preset mini --fasta ecoli.fa.gz --work DIR [--seconds 120 | --bases 2e6] [--only ROW ...]

Each row is a run on one thread, of as many steps as take the seconds at the speed of a short one before it (on a quiet
machine), or of as many bases; what is finished in DIR is not run again. Prints a Markdown table: settings, steps, bits per
base on the held-out blocks, and CPU seconds of the whole command, start, validation and reports included.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import yaml

from ablation import run
from titans_dna.train.options import DataOptions, OptimiserOptions
from titans_dna.train.record import METRICS, read_metrics

OLD = "--optimizer adamw --lr 0.002 --batch_size 8"
ROWS = {
    "as it is": "",
    "version 0.1.0, lmm": f"--preset {{}}-0.1.0 --variant lmm {OLD}",
    "mag": "--variant mag",
    "lr 0.002": "--lr 0.002",
    "lr 0.008": "--lr 0.008",
    "muon_lr 0.01": "--muon_lr 0.01",
    "muon_lr 0.04": "--muon_lr 0.04",
    "batch 2": "--batch_size 2",
    "batch 8": "--batch_size 8",
    "context 512, batch 8": "--context 512 --batch_size 8",
    "context 2048, batch 2": "--context 2048 --batch_size 2",
    "no look-ups": "--model.kmers",
    "look-ups 6 and 9": "--model.kmers 6 9 --model.kmer_width 8 --model.kmer_slots 262144",
    "look-ups 8 and 11": "--model.kmers 8 11 --model.kmer_width 8 --model.kmer_slots 4194304",
    "no memory": "--model.mixers conv conv conv conv --model.conv_dilations 1 4 16 64",
}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--fasta", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0, help="of training, CPU time of one core")
    parser.add_argument("--bases", type=float, default=0, help="of training, in place of the seconds")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=["as it is", "version 0.1.0, lmm"])
    chosen = parser.parse_args()
    of_a_step = argparse.ArgumentParser(allow_abbrev=False)
    of_a_step.add_argument("--batch_size", type=int, default=OptimiserOptions().batch_size)
    of_a_step.add_argument("--context", type=int, default=DataOptions().context)
    print("| preset | settings | steps | bases | bits | CPU s |\n|---|---|---|---|---|---|")
    for name in chosen.only:
        flags = ["--preset", chosen.preset, *ROWS[name].format(chosen.preset).split()]
        flags += ["--fasta", *chosen.fasta, "--valid_bases", "131072"]
        place = chosen.work / chosen.preset / "".join(one if one.isalnum() else "-" for one in name)
        bases = chosen.bases or chosen.seconds * speed(flags, place.with_name(place.name + "-short"))
        sizes, _ = of_a_step.parse_known_args(flags)
        step = sizes.batch_size * sizes.context
        steps = max(20, round(bases / step))
        # Warm-up is a fortieth of the run, as in configs/pretrain.
        bits, seconds = run([*flags, "--steps", str(steps), "--warmup", str(max(5, steps // 40))], place)
        steps = yaml.safe_load((place / "run.yaml").read_text())["steps"]
        print(
            f"| {chosen.preset} | {name} | {steps:,} | {steps * step / 1e6:.1f} M | {bits:.4f} | {seconds:.0f} |",
            flush=True,
        )


def speed(flags: list[str], out: Path) -> float:
    """Bases a second, of a few steps."""
    run([*flags, "--steps", "12", "--warmup", "2"], out)
    return median(row["bases_per_second"] for row in read_metrics(out / METRICS)[2:])


if __name__ == "__main__":
    main()
