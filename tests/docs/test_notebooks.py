"""Every notebook has a test of its own."""

from pathlib import Path

from tests.docs.notebooks import FOLDER


def test_each_is_run():
    tests = {path.stem for path in Path(__file__).parent.glob("test_notebook_*.py")}
    assert tests == {f"test_notebook_{path.stem}" for path in FOLDER.glob("*.ipynb")}
    assert len(tests) == 3
