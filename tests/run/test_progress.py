"""One voice: lines on stderr where there is no terminal, and none for what is over at once."""

import pytest

from titans_dna.run import progress as module
from titans_dna.run.progress import Progress, duration


def test_short_work_says_nothing(capsys):
    with Progress("embed", 100) as progress:
        progress.add(100)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_how_far_it_is(capsys, monkeypatch):
    now = iter(range(0, 1000, 6))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with Progress("embed", 4000, done=1000) as progress:
        for _ in range(3):
            progress.add(1000, "note")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("embed: ") and "note" in line for line in lines)
    assert "100%" in lines[-1]


def test_say(capsys):
    with Progress("seed 0", 3, unit="step") as progress:
        progress.say("step 1 was skipped")
    assert capsys.readouterr().err == "seed 0: step 1 was skipped\n"


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h"), (181440, "2.1 days")])
def test_duration(seconds, words):
    assert duration(seconds) == words
