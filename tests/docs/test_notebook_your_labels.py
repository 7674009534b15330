"""A file for each notebook: files are what the workers take turns with."""

from tests.docs.notebooks import run


def test_runs(tmp_path, monkeypatch):
    run("your_labels", tmp_path, monkeypatch)
