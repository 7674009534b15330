"""Tables and pictures, whole or not at all."""

import math

import pytest

from titans_dna.run.files import cell, markdown, replacing, shown, write_csv, write_figure, write_text


def test_cells():
    assert [cell(0.1), cell(math.nan), cell(math.inf)] == ["0.1", "", ""]
    assert [shown(0.12345), shown(None), shown(math.nan), shown(0.5, 1)] == ["0.123", "–", "–", "0.5"]


def test_markdown():
    assert markdown(["a", "b"], [["1", "x|y"]]) == "| a | b |\n|---|---|\n| 1 | x/y |\n"
    assert markdown("ab", ["1|"], spaced=True, bar=r"\|") == "| a | b |\n| --- | --- |\n| 1 | \\| |\n"


def test_files(tmp_path):
    write_csv(tmp_path / "t.csv", ["a"], [["é"], ['q"']])
    assert (tmp_path / "t.csv").read_bytes() == 'a\né\n"q"""\n'.encode()
    write_text(tmp_path / "t.md", "é\n")
    assert (tmp_path / "t.md").read_bytes() == "é\n".encode()


def test_figure(tmp_path):
    from matplotlib.figure import Figure

    write_figure(tmp_path / "p.png", Figure(figsize=(1, 1)))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as aside:
        aside.write_text("new \udc80", encoding="utf-8")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]
