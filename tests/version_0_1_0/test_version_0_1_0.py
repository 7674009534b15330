"""Run directories, models and state files that version 0.1.0 wrote load, resume and give the same numbers.

`cases.py` says what is called and compared; runs.tar.xz and expected.json are of version 0.1.0 (`make.py`). Losses of these
short runs agree to 1e-5 on all CPUs; what is bit for bit on one machine, `make.py --exact` compares.
"""

import json
from pathlib import Path

import pytest

from tests.version_0_1_0.cases import CASES, EXPECTED, FINETUNED, MODELS, bits, call, cells, size, unpack
from tests.version_0_1_0.cases import transformers_numbers as numbers_of_transformers
from titans_dna.tasks.options import FinetuneOptions

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
        assert FinetuneOptions.upgraded({"preset": name, "kmers": True})["preset"] == name


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
