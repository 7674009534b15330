"""`titans-dna plan` against real runs: predicted and measured peak memory, as a Markdown table.

    python scripts/check_plan.py --fasta ecoli.fa.gz --context 65536 > table.md

Each row is a process of its own that runs `titans-dna pretrain` for a step; "training" is its peak before the Markov models
are fitted, "whole run" its peak at the end. Exit status 1 where a prediction is off by more than 20 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from titans_dna.config import TitansConfig
from titans_dna.planning.calibrate import calibrate
from titans_dna.planning.estimate import Settings, estimate

ALLOWED = 0.2
RUN = """
import json, sys
from titans_dna.planning.probe import Peak
from titans_dna.train import pretrain
from titans_dna.cli import main
peak, fit = Peak("cpu"), pretrain.write_markov
def noted(*arguments):
    print(json.dumps({"training": peak.highest()}), file=sys.stderr)
    return fit(*arguments)
pretrain.write_markov = noted
try:
    main(sys.argv[1:])
finally:
    print(json.dumps({"whole": peak.highest()}), file=sys.stderr)
"""


def main() -> int:
    """Print the table; returns the exit status."""
    options = _options()
    print(f"{options.context:,} bases a window, batch 1, {options.threads} thread(s)\n")
    print("| preset | variant | piece | checkpointing | training: predicted, MB | measured, MB | ratio | ", end="")
    print("whole run: predicted, MB | measured, MB | ratio |\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
    worst = 0.0
    for preset in options.presets:
        for variant in options.variants:
            for row, ratios in _rows(options, preset, variant):
                print(row, flush=True)
                worst = max(worst, *(abs(ratio - 1) for ratio in ratios))
    print(f"\nfurthest off: {100 * worst:.0f} %")
    return int(worst > ALLOWED)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fasta", required=True)
    parser.add_argument("--context", type=int, default=65536, help="bases of a window")
    parser.add_argument(
        "--block", type=int, default=0, help="bases of a held-out block; a long context wants few blocks"
    )
    parser.add_argument("--presets", nargs="+", default=["tiny", "small"])
    parser.add_argument("--variants", nargs="+", default=["lmm", "mac"])
    parser.add_argument("--pieces", nargs="+", type=int, default=[1024, 4096, 8192], help="0: the whole window")
    parser.add_argument("--again", nargs="+", type=int, choices=[0, 1], default=[0, 1], help="checkpointing off, on")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _rows(options: argparse.Namespace, preset: str, variant: str):
    settings = [
        Settings(options.context, piece, 1, 1, bool(again)) for again in options.again for piece in options.pieces
    ]
    modes = list(dict.fromkeys(one.mode for one in settings))
    known = calibrate(TitansConfig.preset(preset, variant=variant), modes, options.context, "cpu", options.threads)
    print(f"{preset} {variant}: {known}", file=sys.stderr)
    for one in settings:
        expected, measured = estimate(known, one), _measured(options, preset, variant, one)
        ratios = [expected.training / measured["training"], expected.peak / measured["whole"]]
        cells = [preset, variant, f"{one.piece:,}", "on" if one.again else "off"]
        for predicted, name, ratio in zip((expected.training, expected.peak), measured, ratios, strict=True):
            cells += [f"{predicted / 1e6:,.0f}", f"{measured[name] / 1e6:,.0f}", f"{ratio:.2f}"]
        yield f"| {' | '.join(cells)} |", ratios


def _measured(options: argparse.Namespace, preset: str, variant: str, settings: Settings) -> dict[str, int]:
    """Bytes at the highest, before the Markov models and at the end, of a run of one step."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["pretrain", "--fasta", options.fasta, "--preset", preset, "--variant", variant]
        words += ["--context", str(settings.length), "--piece", str(settings.piece), "--batch_size", "1"]
        words += ["--block", str(options.block), "--threads", str(options.threads)]
        words += ["--steps", "1", "--valid_every", "0", "--valid_bases", "1000"]
        words += ["--activation_checkpointing"] if settings.again else []
        done = subprocess.run(
            [sys.executable, "-c", RUN, *words, "--out", str(Path(folder) / "run")], capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"')]
    return {name: value for one in found for name, value in one.items()}


if __name__ == "__main__":
    raise SystemExit(main())
