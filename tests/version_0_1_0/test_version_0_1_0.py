"""Run directories, models and state files that version 0.1.0 wrote load, resume and give the same numbers.

`cases.py` says what is called and compared; runs.tar.xz and expected.json are of version 0.1.0 (`make.py`). Losses of these
short runs agree to 1e-5 on all CPUs; what is bit for bit on one machine, `make.py --exact` compares.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.version_0_1_0.cases import CASES, EXPECTED, FINETUNED, MODELS, bits, call, cells, size, unpack
from tests.version_0_1_0.cases import transformers_numbers as numbers_of_transformers
from titans_dna.config import TitansConfig
from titans_dna.tasks.finetune import _fingerprint
from titans_dna.tasks.options import FinetuneOptions, FinetuneRunOptions, LabelOptions, TrainOptions, TuneOptions
from titans_dna.tasks.use_options import BenchmarkOptions

WANTED = json.loads(EXPECTED.read_text())
SCORE = 1.0
"""A score in a BED file is a whole number, which may be rounded the other way."""


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    unpack(tmp_path)
    monkeypatch.chdir(tmp_path)


def check(got, want, unit):
    assert [len(row) for row in got] == [len(row) for row in want]
    norm = want[0].index("gradient_norm") if "gradient_norm" in want[0] else None
    for i, (row, wanted) in enumerate(zip(got, want, strict=True)):
        for k, (one, other) in enumerate(zip(row, wanted, strict=True)):
            rel = 1e-3 if k == norm else 1e-5  # the norm is where other CPUs show first
            same = pytest.approx(other, rel=rel, abs=unit) if isinstance(other, float) else other
            assert one == same, f"row {i}: {row}, want {wanted}"


def test_a_preset_of_then_has_another_name_today():
    """A fine-tuning from scratch that was begun then goes on with the model that it began with."""
    for name, today in (("mini", "mini-0.1.0"), ("tiny", "tiny"), (None, None), ("m.yaml", "m.yaml")):
        assert FinetuneOptions.upgraded({"preset": name})["preset"] == today
        assert BenchmarkOptions.upgraded({"preset": name})["preset"] == today
        assert FinetuneOptions.upgraded({"preset": name, "kmers": True})["preset"] == name


def test_a_model_from_scratch_has_the_fingerprint_of_then(tmp_path):
    """Which an unfinished run has in its data.json."""
    wanted = {"mini-0.1.0": "57f6ed19", "tiny": None}
    for name, digits in wanted.items():
        options = FinetuneOptions(LabelOptions(("d",)), TuneOptions(preset=name), TrainOptions(), FinetuneRunOptions())
        config = TitansConfig.preset(name, vocab_size=12)
        old = [field for field in dataclasses.fields(config) if field.name in config.identity()]
        shape = ", ".join(f"{one.name}={getattr(config, one.name)!r}" for one in old)
        digest = hashlib.blake2b(f"TitansConfig({shape})".encode(), digest_size=16).hexdigest()
        found = _fingerprint(options, SimpleNamespace(config=config))
        assert found == digest
        assert digits is None or found.startswith(digits)


@pytest.mark.parametrize("name", MODELS)
def test_models_load(name):
    assert bits(name) == pytest.approx(WANTED["bits"][name], rel=1e-5)


@pytest.mark.parametrize("name", FINETUNED)
def test_finetuned_models_load(name):
    assert size(name) == WANTED["sizes"][name]


def test_directories_of_save_pretrained_load():
    pytest.importorskip("transformers", minversion="5", reason="needs the extra hf")
    found = numbers_of_transformers()
    for name, wanted in WANTED["transformers"].items():
        assert found[name] == pytest.approx(wanted, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("name", CASES)
def test_runs_go_on_and_models_are_used(name):
    case = CASES[name]
    status, text = call(case.line)
    assert status == 0, text
    assert case.says in text
    for file in case.files:
        check(cells(Path(file)), WANTED["cases"][name][file], SCORE if file.endswith(".bed") else 2e-6)
