"""Files that may be gzipped."""

import gzip
import os
import threading

import pytest
from Bio import bgzf

from titans_dna.run.files import open_binary, open_text

TEXT = "é1\r\n2\n\n3"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda raw: gzip.compress(raw[:5]) + gzip.compress(raw[5:])])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_plain_and_gzipped_are_alike(tmp_path, pack, mark):
    raw = (mark + TEXT).encode()
    (tmp_path / "x").write_bytes(pack(raw))
    with open_binary(tmp_path / "x") as stream:
        assert stream.read(2) + stream.read() == raw
        stream.seek(0)
        assert stream.read() == raw
    with open_text(str(tmp_path / "x")) as text:
        assert list(text) == ["é1\n", "2\n", "\n", "3"]
    with open_text(tmp_path / "x", newline="") as text:
        assert text.read() == TEXT


def test_bgzip_and_empty(tmp_path):
    with bgzf.BgzfWriter(str(tmp_path / "x")) as out:
        out.write(b"ACGT\n" * 50_000)
    with open_binary(tmp_path / "x") as stream:
        assert stream.read() == b"ACGT\n" * 50_000
    (tmp_path / "nothing").write_bytes(b"")
    with open_text(tmp_path / "nothing") as text:
        assert text.read() == ""


def test_pipe(tmp_path):
    """`<(zcat …)` cannot be read twice."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(gzip.compress(b"a\tb\n"),))
    writer.start()
    with open_text(tmp_path / "pipe") as text:
        assert text.read() == "a\tb\n"
    writer.join()


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="x: no such file"), open_binary(tmp_path / "x"):
        pass
    with pytest.raises(IsADirectoryError, match="is a directory, want a BED file"), open_text(tmp_path, "a BED file"):
        pass
    (tmp_path / "cut").write_bytes(gzip.compress(os.urandom(999))[:-300])
    with pytest.raises(ValueError, match="cut: damaged or truncated gzip"), open_binary(tmp_path / "cut") as stream:
        stream.read()
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with open_text(tmp_path / "latin") as text:
        assert text.read() == "caf\ufffd"
    with pytest.raises(UnicodeDecodeError), open_text(tmp_path / "latin", errors="strict") as text:
        text.read()
    with pytest.raises(ValueError, match="the reader's own"), open_text(tmp_path / "latin"):
        raise ValueError("the reader's own")
