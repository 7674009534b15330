"""Baselines find what is there to be found, and never look at the labels of the test windows."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from titans_dna.baselines.bases import KmerEvidence, baselines, gather, kmers, majority, orf, orf_lengths
from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import Interval, Split
from titans_dna.genome.sampler import Window
from titans_dna.labels.annotation import Feature
from titans_dna.labels.windows import LabelledGenome
from titans_dna.metrics import evaluate_bases
from titans_dna.tokens.strands import reverse_complement

ROOT = Path(__file__).parents[2]
SPLIT = Split((Interval("made", 0, 36_000),), (Interval("made", 37_000, 48_000),), (Interval("made", 49_000, 60_000),))
CODONS = [b"GCG", b"CTG", b"TTA", b"GAA", b"ACC", b"TCA", b"CAG", b"ATT"]  # TTA and TCA stop the other strand's frames


def made(folder):
    """60 kb: coding sequences of 300 to 900 bases on both strands, random bases between them."""
    rng = np.random.default_rng(0)
    bases, features = b"", []
    while len(bases) < 60_000:
        bases += bytes(rng.choice(list(b"ACGT"), int(rng.integers(100, 500))).astype(np.uint8))
        inside = b"".join(CODONS[i] for i in rng.integers(0, len(CODONS), int(rng.integers(100, 300))))
        coding, strand = b"ATG" + inside + b"TAA", str(rng.choice(["+", "-"]))
        features.append(Feature(Interval("made", len(bases), len(bases) + len(coding)), strand, "CDS"))
        bases += coding if strand == "+" else reverse_complement(coding)
    (folder / "made.fa").write_bytes(b">made\n" + bases[:50_000] + b"NNNN" + bases[50_004:] + b"\n")
    return open_genome(folder / "made.fa", folder / "cache"), features


def scored(data, scores):
    labels, known, windows = gather(data, data.test)
    assert scores.shape == (len(labels), len(data.classes))
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    return evaluate_bases(labels[known], scores[known], windows[known])


@pytest.mark.parametrize(("stranded", "context"), [(False, 1000), (True, 997)])
def test_on_made_up_genes(tmp_path, stranded, context):
    genome, features = made(tmp_path)
    data = LabelledGenome(genome, features, SPLIT, context=context, stranded=stranded)
    assert baselines(data) == (majority, kmers, orf)
    labels, known, windows = gather(data, data.test)
    assert len(labels) == 11_000
    assert int((~known).sum()) == 4
    assert np.bincount(windows).tolist() == [w.end - w.start for w in data.test]
    least = scored(data, majority(data, 0))
    counts = np.array(data.report().splits[0].classes)
    assert majority(data, 0)[0] == pytest.approx(counts / counts.sum())
    assert least["auroc"].value == 0.5
    found = scored(data, kmers(data, 0, sizes=(3,), sample=4000))
    assert found["auroc"].value > 0.98
    assert found["accuracy"].value > 0.93
    frames = scored(data, orf(data, 0))
    assert frames["accuracy"].value > 0.85
    assert frames["auroc"].value > 0.85


@pytest.mark.parametrize("baseline", [majority, kmers, orf])
def test_labels_of_the_test_windows_are_not_read(tmp_path, baseline):
    genome, features = made(tmp_path)
    options = {"sizes": (3,), "sample": 2000} if baseline is kmers else {}
    whole = LabelledGenome(genome, features, SPLIT, context=1000)
    before = [one for one in features if one.interval.start < SPLIT.valid[0].end]
    without = LabelledGenome(genome, before, SPLIT, context=1000)
    assert gather(whole, whole.test).labels.any()
    assert gather(without, without.test).labels[1000:].sum() == 0
    np.testing.assert_array_equal(baseline(whole, 0, **options), baseline(without, 0, **options))


def test_seed_decides(tmp_path):
    genome, features = made(tmp_path)
    data = LabelledGenome(genome, features, SPLIT, context=1000)
    one, again, other = (kmers(data, seed, sizes=(3,), radii=(60,), sample=500) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_several_features(tmp_path):
    genome, features = made(tmp_path)
    some = [f._replace(name="repeat", strand=".") if i % 3 == 0 else f for i, f in enumerate(features)]
    data = LabelledGenome(genome, some, SPLIT, context=1000, stranded=True)
    assert baselines(data) == (majority, kmers)
    assert data.classes == ("none", "CDS+", "CDS-", "repeat")
    scored(data, kmers(data, 0, sizes=(3,), radii=(50,), sample=2000))
    with pytest.raises(ValueError, match="orf: got features CDS, repeat"):
        orf(data, 0)


def test_short_windows(tmp_path):
    genome, features = made(tmp_path)
    tail = SPLIT._replace(test=(Interval("made", 49_000, 49_000 + 402),))
    data = LabelledGenome(genome, features, tail, context=400)
    assert data.test[-1] == Window("made", 49_400, 49_402)
    for scores in (majority(data, 0), kmers(data, 0, sizes=(6,), radii=(50,), sample=500), orf(data, 0)):
        assert scores.shape == (402, 2)
        assert np.isfinite(scores).all()


def framed(folder):
    """Coding sequences whose letters are as frequent as elsewhere, but for their place in the codon."""
    rng = np.random.default_rng(0)
    bases, features = b"", []
    for i in range(60):
        bases += bytes(rng.choice(list(b"ACGT"), 401).astype(np.uint8))
        inside = b"".join(bytes([rng.choice(list(one)) for one in (b"AT", b"CG", b"ACGT")]) for _ in range(100))
        features.append(Feature(Interval("made", len(bases), len(bases) + 300), "+-"[i % 2], "CDS"))
        bases += reverse_complement(inside) if i % 2 else inside
    (folder / "framed.fa").write_bytes(b">made\n" + bases + b"\n")
    split = Split(
        (Interval("made", 0, 30_000),), (Interval("made", 30_000, 36_000),), (Interval("made", 36_000, 42_060),)
    )
    return LabelledGenome(
        open_genome(folder / "framed.fa", folder / "cache"), features, split, context=6060, stranded=True
    )


def test_evidence_is_by_frame_and_strand(tmp_path):
    data = framed(tmp_path)
    evidence = KmerEvidence(data, 1, (50,))
    bases, labels, _ = data.example(data.test[0])
    reads, other, either = evidence(bases).reshape(len(bases), 3, 3)[:, :, 2].T  # both sides
    plus, minus = labels == 1, labels == 2
    assert reads[plus].mean() > reads[minus].mean() + 10
    assert other[minus].mean() > other[plus].mean() + 10
    assert either[plus].mean() > either[labels == 0].mean() + 10
    assert (either >= np.maximum(reads, other)).all()


@pytest.mark.parametrize("k", [1, 4])
def test_evidence_on_the_other_strand(tmp_path, k):
    data = framed(tmp_path)
    evidence = KmerEvidence(data, k, (20, 70))
    bases = data.example(data.test[0]).bases[:500]
    found = evidence(bases).reshape(500, 3, 2, 3)  # strands, radii, sides
    mirrored = evidence(reverse_complement(bases)).reshape(500, 3, 2, 3)
    np.testing.assert_allclose(mirrored, found[::-1][:, [1, 0, 2]][..., [1, 0, 2]], rtol=1e-4, atol=1e-4)
    # What lies on the left says nothing of the right.
    changed = evidence(bases[:250] + b"N" * 250).reshape(500, 3, 2, 3)
    np.testing.assert_allclose(changed[:250, 0, :, 0], found[:250, 0, :, 0], atol=1e-4)
    assert np.abs(changed[:250, 0, :, 1] - found[:250, 0, :, 1]).max() > 1


def slow_orfs(bases):
    """Base by base: the longest open frame over each."""
    longest = [0] * len(bases)
    for frame in range(3):
        codons = [bases[i : i + 3] for i in range(frame, len(bases) - 2, 3)]
        begin = 0
        for i, codon in enumerate(codons):
            if begin is None and codon in (b"ATG", b"GTG", b"TTG"):
                begin = i
            stop = codon in (b"TAA", b"TAG", b"TGA")
            if begin is not None and (stop or i == len(codons) - 1):
                for base in range(frame + 3 * begin, frame + 3 * i + 3):
                    longest[base] = max(longest[base], 3 * (i + 1 - begin))
            begin = None if stop else begin
    return longest


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 40, 400, 2000])
def test_orf_lengths(size):
    rng = np.random.default_rng(size)
    bases = bytes(rng.choice(list(b"ACGTN"), size, p=[0.245] * 4 + [0.02]).astype(np.uint8))
    assert orf_lengths(bases).tolist() == slow_orfs(bases)


def test_script(tmp_path, monkeypatch, capsys):
    _, features = made(tmp_path)
    lines = [f"made\t.\tCDS\t{f.interval.start + 1}\t{f.interval.end}\t.\t{f.strand}\t0\tID=x" for f in features]
    (tmp_path / "made.gff3").write_text("\n".join(lines) + "\n")
    script = ROOT / "scripts/base_baselines.py"
    command = [str(script), "--genome", str(tmp_path / "made.fa"), "--context", "500", "--block", "2000"]
    monkeypatch.setattr(
        sys, "argv", [*command, "--annotation", str(tmp_path / "made.gff3"), "--sample", "500", "--stranded"]
    )
    runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    first = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert first == ["split", "train", "valid", "test", "baseline", "majority", "kmers", "orf"]
    assert "CDS+ | CDS-" in out
    monkeypatch.setattr(sys, "argv", [*command, "--annotation", str(tmp_path / "no.gff3")])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"{tmp_path / 'no.gff3'}: no such file\n"
