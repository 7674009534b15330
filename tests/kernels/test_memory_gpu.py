"""The GPU benchmark without a GPU: it says what it could not measure, and times nothing where a check is red."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from titans_kernels.triton import launch, plan

FOLDER = Path(__file__).parents[2] / "kernels" / "benchmarks"
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not plan.INTERPRETED, reason="kernels run on a GPU here, not under the interpreter")


@pytest.fixture(scope="module")
def bench():
    """The script's modules, which stand beside it."""
    sys.path.insert(0, str(FOLDER))
    names = ["gpu_timing", "gpu_report", "gpu_checks", "gpu_peers", "gpu_sections", "memory_gpu"]
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(FOLDER))


class Idle:
    """A kernel that does nothing."""

    def __getitem__(self, grid):
        return lambda *_, **__: None


@pytest.fixture
def idle(monkeypatch):
    for name in [name for name in vars(launch) if name.endswith("_kernel")]:
        monkeypatch.setattr(launch, name, Idle())


def first_cells(page):
    return {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")}


def test_the_committed_page_has_every_goal_and_row(bench):
    """`memory_gpu.py --empty`, or a run, brings it up to date."""
    empty = bench["gpu_report"].Report({}).markdown()
    assert first_cells(empty) <= first_cells((FOLDER / "results" / "memory_gpu.md").read_text())


def test_goals_are_met_or_missed_by_what_was_measured(bench):
    report = bench["gpu_report"]
    found = report.Report({})
    for row, rate in ((report.LAYER, 600.0), (report.PEER, 10.0), (report.OURS, 190.0), (report.PLAIN, 10.0)):
        found.set(report.TWO, row, "tokens/s", rate)
    for tokens, ours, flash in ((2**14, 3.0, 2.0), (2**15, 3.0, 4.0), (2**16, 3.0, 16.0)):
        for column, value in (("ours, ms", ours), ("flash attention, ms", flash)):
            found.set(report.LENGTH, f"{tokens:,}", column, value)
    lines = found.goals()
    assert "| 60.0× | met |" in lines[4]
    assert "| 19.0× | **missed** |" in lines[5]
    assert "| unmeasured | unmeasured |" in lines[6]
    assert "| 32,768 tokens | met |" in lines[10]


def test_a_wrong_kernel_is_red_and_a_right_one_is_not(bench, monkeypatch):
    checks, script, report = bench["gpu_checks"], bench["memory_gpu"], bench["gpu_report"]
    case = replace(checks.shrunk(checks.GOALS[1]), tokens=17)
    right = checks.check(case, CPU)
    assert right.right
    assert right.error > 0
    with monkeypatch.context() as patch:
        patch.setattr(launch, "read", lambda *_: None)  # what it should have written stays NaN
        wrong = checks.check(case, CPU)
    assert not wrong.right
    assert wrong.tensor == "y"
    done = {f.name: dict(f._asdict(), right=f.right) for f in (wrong,)}
    assert script.verdict(report.Report({}), [case.name], done, []).red
    done = {f.name: dict(f._asdict(), right=f.right) for f in (right,)}
    assert script.verdict(report.Report({}), [case.name], done, []) == script.Verdict(red=False, finished=False)
    assert script.verdict(report.Report({}), [], {}, [-11]).red  # a process that died


def test_all_sections_at_tiny_sizes(bench, idle, tmp_path):
    """Kernels do nothing here: what is shown is that every step runs, and what cannot run says so."""
    report, sections = bench["gpu_report"], bench["gpu_sections"]
    found = report.Report({"GPU": "none"}, dry=True)
    run = sections.Bench(found, CPU, bench["gpu_timing"].Deadline(60), tiny=True, quick=True)
    for section in sections.SECTIONS:
        bench["memory_gpu"].run_section(section, run)
    for table, row, column in (
        (report.TWO, report.OURS, "tokens/s"),
        (report.TWO, report.LAYER, "tokens/s"),
        (report.ONE, report.PLAIN, "forward, ms"),
        (report.LENGTH, f"{2**20:,}", "ours, ms"),
        (report.DECODE, "L = 1", "ratio"),
        (report.CARD, report.CARD.rows[1], "measured"),
    ):
        assert found.number(table, row, column) is not None, (table.title, row, column)
    for missing in (report.DELTA, report.TTT, "cuDNN attention", "Kernels, 128 lanes"):
        assert any(missing in note for note in found.notes), found.notes
    assert not any("stopped by" in note for note in found.notes), found.notes
    found.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"memory_gpu.md", "memory_gpu.csv"}
    assert "| met |" not in found.markdown()  # a dry run meets no goal


def test_what_is_not_reached_is_said(bench):
    found = bench["gpu_report"].Report({})
    late = bench["gpu_sections"].Bench(found, CPU, bench["gpu_timing"].Deadline(0), tiny=True, quick=True)
    bench["memory_gpu"].run_section(bench["gpu_sections"].card, late)
    assert found.notes == ["The card's matrix rate and copy bandwidth: not reached in time."]
