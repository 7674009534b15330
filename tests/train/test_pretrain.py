"""Whole runs on the embedded genome: what they leave behind, and what a killed one continues."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources

import numpy as np
import pytest
import torch

import titans_dna
from titans_dna import checkpoint
from titans_dna.cli import main
from titans_dna.genome.genome import open_genome
from titans_dna.nn.counts import ORDERS, TOP, Counts
from titans_dna.tokens.tokenizer import load_tokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer
from titans_dna.train import pretrain as pretraining
from titans_dna.train.loss import bits_per_base
from titans_dna.train.record import read_metrics

SMALL = (
    "pretrain --fasta lambda --preset tiny --model.width 16 --model.layers 1 --model.chunk 8 --model.dropout 0.1 "
    "--batch_size 2 --context 32 --warmup 2 --valid_every 5 --valid_bases 700 --save_every 4 --threads 1 "
    "--accelerator cpu --optimizer adamw "
)
WINDOWS = SMALL + "--variant lmm --accumulate 2 --steps 20"
MUON = WINDOWS + " --optimizer muon --muon_lr 0.03"
TABLES = MUON + " --model.stem 5 --model.kmers 2 9 --counts true"
LANES = SMALL + "--variant mac --lane 160 --accumulate 3 --steps 20"


def run(line, out, capsys=None):
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--out", str(out)])
    return ended.value.code


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, by command line."""
    made = {}

    def get(line):
        if line not in made:
            made[line] = tmp_path_factory.mktemp("whole") / "run"
            assert run(line, made[line]) == 0
        return made[line]

    return get


def timeless(directory):
    rows = read_metrics(directory / "metrics.csv")
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


@pytest.mark.parametrize(
    ("line", "number", "status"),
    [
        (WINDOWS, signal.SIGKILL, -9),
        (LANES, signal.SIGKILL, -9),
        (MUON, signal.SIGKILL, -9),
        (TABLES, signal.SIGKILL, -9),
        (LANES, signal.SIGINT, 130),
        (WINDOWS, signal.SIGTERM, 143),
    ],
    ids=["windows-kill", "lanes-kill", "muon-kill", "tables-kill", "lanes-ctrl-c", "windows-term"],
)
def test_a_stopped_run_continues_as_if_it_had_not(whole, tmp_path, line, number, status):
    out = tmp_path / "run"
    command = [sys.executable, "-W", "error::UserWarning", "-m", "titans_dna.cli", *line.split(), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(read_metrics(out / "metrics.csv")) < 7:
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    done = len(read_metrics(out / "metrics.csv"))
    assert 7 <= done < 20
    assert not (out / checkpoint.LANGUAGE.weights).exists()
    if number != signal.SIGKILL:
        last = errors.splitlines()[-1]
        assert last == (
            f"titans-dna: interrupted; what is done is kept; continue with: titans-dna pretrain --resume --out {out}"
        )
    assert run("pretrain --resume", out) == 0
    reference = whole(line)
    assert len(timeless(out)) == 20
    assert timeless(out) == timeless(reference)
    assert (out / checkpoint.LANGUAGE.weights).read_bytes() == (reference / checkpoint.LANGUAGE.weights).read_bytes()


def test_blocks_with_mixers_of_their_own(tmp_path, capsys):
    line = SMALL.replace("--model.layers 1", "--model.layers 2 --model.mixers conv mag") + "--steps 5"
    assert run(line, tmp_path / "run") == 0
    assert "model: tiny, conv-mag, " in capsys.readouterr().err
    assert "mixers conv-mag, preset tiny" in (tmp_path / "run" / "README.md").read_text()
    model = checkpoint.load(tmp_path / "run")
    assert model.config.mixers == ("conv", "mag")
    assert run(f"pretrain --config {tmp_path / 'run' / 'run.yaml'}", tmp_path / "again") == 0
    weights = [tmp_path / name / checkpoint.LANGUAGE.weights for name in ("run", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert run(line.replace("conv mag", "conv mga"), tmp_path / "wrong") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("want a list of conv, memory, lmm, mac, mag, mal")
    assert run(line.replace("conv mag", "conv"), tmp_path / "wrong") == 2
    assert "--model.mixers: got 1 for 2 layers, want one for each" in capsys.readouterr().err
    assert run(line + " --variant mac", tmp_path / "wrong") == 2
    wanted = "--variant: got mac beside mixers conv mag, want one of the two"
    assert capsys.readouterr().err.splitlines()[-1].endswith(wanted)
    assert run(line + " --muon_lr 0.03", tmp_path / "wrong") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--muon_lr: got 0.03 with --optimizer adamw, want muon")
    assert not (tmp_path / "wrong").exists()


def test_writing_has_its_price(whole, tmp_path, capsys):
    """Steps before a third of the run are those without a price; it goes on as ever where the run is cut."""
    free, line = whole(WINDOWS), WINDOWS + " --write_price 0.1"
    priced = whole(line)
    first, others = timeless(free), timeless(priced)
    assert first[:7] == others[:7]
    assert all(one != other for one, other in zip(first[9:], others[9:], strict=True))
    cut = tmp_path / "cut"
    assert run(line + " --max_time 0.00001", cut) == 0
    assert run("pretrain --resume --max_time 0", cut) == 0
    assert timeless(cut)[1:] == others[1:]  # where it stopped, it also validated
    for more, message in (
        ("--model.mixers conv", "--write_price: got 0.1 for a model without a memory, want 0, or a memory to price"),
        ("--piece 16", "--piece: got it with --write_price, want one of the two"),
        (
            "--activation_checkpointing true",
            "--activation_checkpointing: got it with --write_price, want one of the two",
        ),
    ):
        given = line.replace("--variant lmm", "") if "conv" in more else line
        assert run(f"{given} {more}", tmp_path / "wrong") == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_counts_are_a_file_beside_the_weights(whole, tmp_path, capsys):
    out = shutil.copytree(whole(TABLES), tmp_path / "run")
    model = titans_dna.load(out)
    assert model.config.counts == ORDERS
    own = (out / "split.bed").read_text().splitlines()
    trained = sum(int(row.split()[2]) - int(row.split()[1]) for row in own if row.endswith("train"))
    assert 0 <= 2 * trained - model.counts.occurrences <= 2 * TOP * len(own)
    ids = torch.as_tensor(model.tokenizer.encode("ACGTTGCA" * 9))[None]
    with torch.inference_mode():
        known = model(ids).logits
    titans_dna.save(model, tmp_path / "copy")
    assert (tmp_path / "copy" / checkpoint.COUNTS).read_bytes() == (out / checkpoint.COUNTS).read_bytes()
    (tmp_path / "copy" / checkpoint.COUNTS).unlink()
    with pytest.warns(UserWarning, match=r"counts.safetensors: is not there; the model answers without counts"):
        without = titans_dna.load(tmp_path / "copy")
    with torch.inference_mode():
        assert not torch.equal(without(ids).logits, known)
    Counts.fit(["ACGGT" * 20]).save(out / checkpoint.COUNTS)
    with pytest.raises(
        ValueError, match=r"counts.safetensors: holds other counts than those that the model was written with"
    ):
        titans_dna.load(out)
    capsys.readouterr()
    assert run("pretrain --resume", out) == 2
    assert "counts.safetensors: holds counts of another genome, split or tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--counts true --tokenizer kmer-3", "--counts: got them with --tokenizer kmer-3, want nucleotide"),
        ("--model.counts 4", "--model.counts: got [4] without --counts, want both or none"),
        ("--model.kmers 4 --devices 2", "--devices: got 2 with --model.kmers, want 1"),
        ("--counts true --devices 2", "--devices: got 2 with --counts, want 1"),
    ],
)
def test_counts_that_make_no_sense(tmp_path, capsys, more, message):
    assert run(f"{WINDOWS} {more}", tmp_path / "run") == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_list_of_the_models_is_emptied_by_its_flag_alone(tmp_path, capsys):
    (tmp_path / "some.yaml").write_text("fasta: [lambda]\nmodel.layers: 1\nmodel.mixers: [conv]\nmodel.kmers: [3, 4]\n")
    line = f"pretrain --config {tmp_path / 'some.yaml'} --model.kmers --model.mixers --print_config=skip_default"
    assert run(line, tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "layers: 1" in printed
    assert "conv" not in printed
    assert "kmers" not in printed


def test_muon_takes_other_steps_at_the_rate_of_the_schedule(whole):
    mine, other = timeless(whole(MUON)), timeless(whole(WINDOWS))
    assert [row["lr"] for row in mine] == [row["lr"] for row in other]
    assert mine[0]["loss"] == other[0]["loss"]
    assert mine[-1]["loss"] != other[-1]["loss"]


def test_what_a_run_leaves_behind(whole, capsys):
    out = whole(WINDOWS)
    names = {path.name for path in out.iterdir()}
    assert names == {
        ".lock", "README.md", "checkpoint.pt", "config.json", "data.json", "loss.png", "markov.csv", "metrics.csv",
        "model.safetensors", "run.yaml", "split.bed", "tensorboard", "tokenizer.json",
    }  # fmt: skip
    assert any(path.name.startswith("events") for path in (out / "tensorboard").iterdir())
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((out / "data.json").read_text())
    assert data["bases"] == 48_502
    assert len(data["fingerprint"]) == 32
    with open(out / "markov.csv") as file:
        table = {int(row["order"]): float(row["bits_per_base"]) for row in csv.DictReader(file)}
    assert sorted(table) == list(range(13))
    # Order 0 on lambda, which is near to uniform.
    assert 1.95 < table[0] < 2.01
    best = min(table.values())
    card = (out / "README.md").read_text()
    assert f"{best:.4f}" in card
    assert f"{read_metrics(out / 'metrics.csv')[-1]['valid_bits_per_base']:.4f}" in card


def test_the_loaded_model_has_the_loss_of_the_run(whole):
    out = whole(WINDOWS)
    model = checkpoint.load(out)
    assert not model.training
    # The validation windows anew, by hand: 32 bases and the target after them, tiling the held-out intervals; evenly
    # spaced ones are kept.
    with open(out / "split.bed") as file:
        rows = [line.split() for line in file]
    genome = open_genome(str(resources.files("titans_dna") / "genomes" / "lambda.fa"))
    windows = [
        genome.fetch(contig, start, min(start + 33, int(end)))
        for contig, begin, end, part in rows
        if part == "valid"
        for start in range(int(begin), int(end) - 1, 32)
    ]
    targets = sum(len(window) - 1 for window in windows)
    keep = len(windows) * 700 // targets
    kept = [windows[index * len(windows) // keep] for index in range(keep)]
    nats, bases = 0.0, 0
    for window in kept:
        ids = torch.from_numpy(NucleotideTokenizer().encode(window).astype(np.int64))
        with torch.no_grad():
            chance = model(ids[None, :-1]).logits.log_softmax(-1)[0, torch.arange(len(ids) - 1), ids[1:]]
        nats, bases = nats - chance.sum().item(), bases + len(ids) - 1
    wanted = read_metrics(out / "metrics.csv")[-1]["valid_bits_per_base"]
    assert bits_per_base(nats, bases) == pytest.approx(wanted, rel=1e-5)


def test_the_written_configuration_repeats_the_run(whole, tmp_path):
    first = whole(WINDOWS)
    assert run(f"pretrain --config {first / 'run.yaml'}", tmp_path / "again") == 0
    assert timeless(tmp_path / "again") == timeless(first)


def test_a_run_killed_while_it_reports_is_completed(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole(WINDOWS), out)
    lost = ["model.safetensors", "markov.csv", "loss.png", "README.md"]
    for name in lost:
        (out / name).unlink()
    assert run("pretrain --resume", out) == 0
    for name in lost[:2]:
        assert (out / name).read_bytes() == (whole(WINDOWS) / name).read_bytes()
    assert all((out / name).exists() for name in lost)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["open_source", "_prepare", "write_split", "write_markov", "write_card"])
def test_interrupted_in_any_phase(whole, tmp_path, monkeypatch, capsys, phase, number):
    """Before anything is written nothing is there; after that the run goes on, to the same end."""
    out = tmp_path / "run"
    kept = getattr(pretraining, phase)

    def interrupted(*arguments):
        done = kept(*arguments)
        signal.raise_signal(number)
        return done

    monkeypatch.setattr(pretraining, phase, interrupted)
    assert run(WINDOWS, out) == 128 + number
    monkeypatch.setattr(pretraining, phase, kept)
    last = capsys.readouterr().err.splitlines()[-1]
    if phase in ("open_source", "_prepare"):
        assert last == "titans-dna: interrupted; nothing was written"
        assert not out.exists()
        return
    assert last.endswith(f"what is done is kept; continue with: titans-dna pretrain --resume --out {out}")
    assert run("pretrain --resume", out) == 0
    assert timeless(out) == timeless(whole(WINDOWS))
    assert (out / "markov.csv").read_bytes() == (whole(WINDOWS) / "markov.csv").read_bytes()


def test_two_devices_are_one_with_twice_the_batch(tmp_path):
    """And only the first process writes, or holds the directory."""
    rows, line = [], SMALL.replace("--batch_size 2", "--batch_size {}") + "--variant lmm --steps 4 --model.dropout 0"
    for devices in (1, 2):
        out = tmp_path / f"{devices}"
        words = f"{line.format(2 // devices)} --devices {devices} --strategy {'auto' if devices == 1 else 'ddp'}"
        if devices == 1:
            assert run(words, out) == 0
        else:
            command = [sys.executable, "-m", "titans_dna.cli", *words.split(), "--out", str(out)]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("held-out bits per base") == 1
        rows.append(timeless(out))
    assert [len(one) for one in rows] == [4, 4]
    for one, other in zip(*rows, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_length_warm_up_keeps_the_bases_of_a_step(tmp_path, capsys):
    assert (
        run(SMALL + "--variant lmm --steps 8 --length_warmup 2 --accumulate 2 --valid_every 0", tmp_path / "run") == 0
    )
    printed = capsys.readouterr().err
    assert "length warm-up: 8 bases for 2 steps, 16 bases for 2 steps, then 32 bases" in printed
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert [row["bases"] for row in rows] == [128] * 8
    assert [row["step"] for row in rows if "valid_bits_per_base" in row] == [8]


def test_a_run_that_diverges_stops_and_says_why(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(SMALL + "--variant lmm --steps 40 --lr 1e30 --min_lr 1e30 --warmup 0 --clip 0", out) == 1
    captured = capsys.readouterr()
    assert "not finite for many steps in a row" in captured.err
    assert "the step was skipped" in captured.err
    rows = read_metrics(out / "metrics.csv")
    assert [row["skipped"] for row in rows[-10:]] == [1] * 10
    assert len(rows) < 40
    assert (out / "checkpoint.pt").exists()


def test_out_of_time_is_saved_and_continues(tmp_path, capsys):
    out = tmp_path / "run"
    line = SMALL + "--variant lmm --steps 6 --valid_every 0"
    assert run(line + " --max_time 1e-6", out) == 0
    assert "out of time at step 1, saved" in capsys.readouterr().out
    assert run("pretrain --resume --max_time 0", out) == 0
    assert len(read_metrics(out / "metrics.csv")) == 6


def test_a_genome_with_windows_of_n_alone(tmp_path):
    letters = np.random.default_rng(0).choice(list("ACGT"), 4000)
    letters[1000:2600] = "N"
    fasta = tmp_path / "n.fa"
    fasta.write_text(">one\n" + "".join(letters) + "\n")
    line = SMALL.replace("lambda", str(fasta)) + "--variant lmm --steps 12 --max_n 1 --batch_size 1"
    assert run(line, tmp_path / "run") == 0
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    empty = [row for row in rows if row["bases"] == 0]
    assert 0 < len(empty) < 12
    assert all(row["loss"] == 0 and row["skipped"] == 0 for row in empty)
    assert np.isfinite([row["loss"] for row in rows]).all()


def test_windows_in_pieces_train_as_whole_ones(tmp_path):
    """Full backpropagation: the very losses and gradient norms, whatever the piece, and on a lane too."""
    for line in (f"{SMALL} --variant mag --steps 4 --model.dropout 0", LANES.replace("20", "6 --model.dropout 0")):
        rows = []
        for piece in (0, 9):
            out = tmp_path / f"{len(line)}-{piece}"
            assert run(f"{line} --piece {piece}", out) == 0
            rows.append(timeless(out))
        assert len(rows[0]) == len(rows[1])
        for one, other in zip(*rows, strict=True):
            assert one == pytest.approx(other, rel=1e-4, nan_ok=True)


def test_held_out_gaps_are_passed_over_or_told_before_the_run(tmp_path, capsys):
    """Validation windows that fall into a gap of N gave a run that failed at its very end."""
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 2000))
    for name, held in (("some", "N" * 500 + letters[:500]), ("none", "N" * 1000)):
        (tmp_path / f"{name}.fa").write_text(f">train\n{letters}\n>held\n{held}\n")
    line = SMALL.replace("--fasta lambda", "--fasta {}").replace("--valid_bases 700", "--valid_bases 64")
    line += "--variant lmm --steps 2 --split contig --valid_contigs held"
    assert run(line.format(tmp_path / "some.fa"), tmp_path / "run") == 0
    assert read_metrics(tmp_path / "run" / "metrics.csv")[-1]["valid_bits_per_base"] > 1
    assert run(line.format(tmp_path / "none.fa"), tmp_path / "other") == 2
    assert "--split: got held-out sequence without any A, C, G or T" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_byte_pairs_are_learned_from_the_training_intervals(tmp_path, capsys):
    line = SMALL.replace("--context 32", "--context 128") + "--variant lmm --steps 4 --tokenizer bpe-40"
    assert run(line, tmp_path / "one") == 0
    tokenizer = load_tokenizer(tmp_path / "one" / "tokenizer.json")
    assert tokenizer.name == "bpe-40"
    assert "tokenizer bpe-40" in capsys.readouterr().err
    assert run("pretrain --resume --steps 6", tmp_path / "one") == 2  # steps are the run's
    assert run(line, tmp_path / "two") == 0
    assert load_tokenizer(tmp_path / "two" / "tokenizer.json").to_dict() == tokenizer.to_dict()
    assert run(SMALL + "--tokenizer bpe-12", tmp_path / "three") == 2
    assert "--tokenizer: got bpe-12, want more than 12 ids" in capsys.readouterr().err
