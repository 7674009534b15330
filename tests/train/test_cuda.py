"""On a GPU: whole runs give what they give on a CPU, and what was killed goes on. The CPU is the judge."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import titans_dna
from titans_dna.cli import main
from titans_dna.train.record import read_metrics

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RUN = (
    "pretrain --fasta lambda --preset tiny --model.width 64 --model.layers 2 --model.chunk 16 --model.dropout 0 "
    "--batch_size 2 --context 128 --warmup 2 --valid_every 8 --valid_bases 1000 --save_every 4 --steps 16 "
    "--optimizer adamw --lr 0.002 "
)
VARIANTS = ["lmm", "mac", "mag", "mal"]
MIXED = (
    RUN + "--model.mixers conv lmm --model.conv_dilations 4 --model.stem 5 --model.kmers 3 9 --model.kmer_slots 4096 "
)
"""Convolutions, a stem, look-ups; Muon and counts are added to it."""
MUON, COUNTS = "--optimizer muon ", "--counts true --model.counts 4 12 "
LANES = RUN + "--variant mac --lane 512 --accumulate 2 "


def run(line, out):
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--out", str(out)])
    assert ended.value.code == 0


def losses(out):
    return np.array([float(row["loss"]) for row in read_metrics(out / "metrics.csv")])


def weights(out):
    return titans_dna.load(out).state_dict()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs, by command line."""
    made = {}

    def get(line):
        if line not in made:
            made[line] = tmp_path_factory.mktemp("cuda") / "run"
            run(line, made[line])
        return made[line]

    return get


@pytest.mark.parametrize(
    "more",
    [
        *[f"--variant {variant} " for variant in VARIANTS],
        LANES.removeprefix(RUN),
        "--variant lmm --piece 32 --context 256 ",
        MIXED.removeprefix(RUN),
        MIXED.removeprefix(RUN) + COUNTS,
    ],
)
def test_training_is_that_of_a_cpu(runs, more):
    there, here = (losses(runs(RUN + more + f"--accelerator {kind} ")) for kind in ("cuda", "cpu"))
    np.testing.assert_allclose(there, here, rtol=0, atol=2e-3)


def test_muon_is_near_that_of_a_cpu(runs):
    """Its orthogonal factors are computed in bfloat16, on either."""
    there, here = (losses(runs(MIXED + MUON + f"--accelerator {kind} ")) for kind in ("cuda", "cpu"))
    np.testing.assert_allclose(there, here, rtol=0, atol=0.03)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_is_near(runs, variant, precision):
    line = RUN + f"--variant {variant} "
    there, here = (
        losses(runs(f"{line}--accelerator cuda --precision {precision} ")),
        losses(runs(line + "--accelerator cpu ")),
    )
    assert np.isfinite(there).all()
    np.testing.assert_allclose(there, here, rtol=0, atol=0.08 if precision == "bf16-mixed" else 0.2)


@pytest.mark.parametrize(
    "line",
    [RUN + "--variant mag ", LANES, RUN + "--variant lmm --precision bf16-mixed ", MIXED + MUON + COUNTS],
    ids=["windows", "lanes", "mixed", "counts"],
)
def test_a_killed_run_goes_on_to_the_same_bits(runs, tmp_path, line):
    whole, out = runs(line + "--accelerator cuda "), tmp_path / "run"
    command = [sys.executable, "-m", "titans_dna.cli", *line.split(), "--accelerator", "cuda", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(read_metrics(out / "metrics.csv")) < 6:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -9, errors
    run("pretrain --resume", out)
    np.testing.assert_array_equal(losses(out), losses(whole))
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(out)[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_and_states_are_those_of_a_cpu(runs, tmp_path, variant):
    model = titans_dna.load(runs(RUN + f"--variant {variant} --accelerator cpu "))
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), size=n)) for n in (7, 700, 333)]
    here = titans_dna.embed(model, texts, rc=True)
    there = titans_dna.embed(model.to("cuda"), texts, rc=True)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(torch.as_tensor(other).cpu(), torch.as_tensor(one), rtol=0, atol=2e-4)
