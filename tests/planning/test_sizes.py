"""Sizes in and out of words."""

import pytest

from titans_dna.planning.options import parse_bases, parse_bytes, show_bases, show_bytes, show_time


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1M", 10**6), ("1Mb", 10**6), ("250k", 250_000), ("3.1G", 3_100_000_000), ("1Mi", 2**20), ("1048576", 2**20),
     ("1,048,576", 2**20), ("12 kbp", 12_000), ("7", 7)],
)  # fmt: skip
def test_bases(text, wanted):
    assert parse_bases(text, "--length") == wanted


@pytest.mark.parametrize(
    ("text", "wanted"), [("80GB", 80 * 10**9), ("16GiB", 16 * 2**30), ("500m", 5 * 10**8), ("0.5 TB", 5 * 10**11)]
)
def test_bytes(text, wanted):
    assert parse_bytes(text, "--memory") == wanted


@pytest.mark.parametrize("text", ["", "M", "ten", "1X", "1.2.3M", "-5k", "0", "1i", "1MB2", "5 GB of it", "nan", "1e9"])
def test_what_is_no_size_is_one_clear_line(text):
    with pytest.raises(ValueError, match=r"^--memory: got '.*', want an amount of memory"):
        parse_bytes(text, "--memory")


def test_bytes_are_no_bases():
    with pytest.raises(ValueError, match=r"^--length: got '1GiBytes', want a number of bases"):
        parse_bases("1GiBytes", "--length")


def test_shown():
    assert (show_bytes(4.123e9), show_bytes(12), show_bases(1_048_576), show_bases(3_100_000_000)) == (
        "4.12 GB",
        "12 B",
        "1,048,576",
        "3.1 G",
    )
    assert [show_time(s) for s in (0.312, 45, 720, 18_000, 10**6)] == ["0.31 s", "45 s", "12 min", "5 h", "12 days"]
