"""Sequence files to named pieces of checked bases: FASTA streamed, GenBank, EMBL and FASTQ through Biopython."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from Bio import BiopythonParserWarning, SeqIO
from Bio.Seq import UndefinedSequenceError
from Bio.SeqIO.QualityIO import FastqGeneralIterator

LETTERS = b"ACGTUNRYSWKMBDHV-"
BLOCK = 1 << 22
BOM = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"

_STARTS = {b">": "fasta", b";": "fasta", b"@": "fastq", b"LOCUS ": "genbank", b"ID   ": "embl"}
_SUFFIXES = {".gb": "genbank", ".gbk": "genbank", ".gbff": "genbank", ".genbank": "genbank", ".embl": "embl"}
_ALLOWED = LETTERS + LETTERS.lower()
_SPACE = b" \t\v\f"


class RecordReader:
    """The records of one file, streamed as pieces of checked bases.

    Iterating gives `(name, bases)`: the first piece of a record carries its name (the text up to the first white
    space), each further piece carries None. Bases keep their case and hold nothing but IUPAC letters and `-`.
    Line ends may be LF, CRLF, CR or a mixture; the file may be gzipped (bgzip included).

    After the iteration `plain` says whether the file can be indexed where it stands: uncompressed FASTA in ASCII
    with LF line ends, nothing before the first record, and in each record lines of one width, the last one alone being
    shorter, with at most one blank line after them.

    Raises FileNotFoundError, IsADirectoryError, and ValueError for an empty file, an unknown format, a letter that is
    no nucleotide code, a record without a name, a damaged gzip, or a sequence shorter than its own header says.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plain = True
        if self.path.is_dir():
            raise IsADirectoryError(f"{path}: is a directory, want a FASTA, GenBank, EMBL or FASTQ file")
        if not self.path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if not self.path.is_file():
            raise ValueError(f"{path}: not a regular file, want a FASTA, GenBank, EMBL or FASTQ file")

    def __iter__(self) -> Iterator[tuple[str | None, bytes]]:
        try:
            with open(self.path, "rb") as raw:
                zipped = raw.read(2) == GZIP_MAGIC
                raw.seek(0)
                if not zipped:
                    yield from self._checked(raw)
                    return
                self.plain = False
                with gzip.open(raw) as stream:
                    yield from self._checked(io.BufferedReader(stream, BLOCK))  # type: ignore[arg-type]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{self.path}: damaged or truncated gzip: {error}") from None

    def _checked(self, stream: BinaryIO) -> Iterator[tuple[str | None, bytes]]:
        name, records, bases = "", 0, 0
        for found, piece in self._pieces(stream):
            if found is not None:
                name, records = found, records + 1
                if not name:
                    raise ValueError(f"{self.path}: record {records} has no name after its '>'")
            if strange := piece.translate(None, _ALLOWED):
                piece, strange = piece.translate(None, _SPACE), strange.translate(None, _SPACE)
                self.plain = False
            if strange:
                raise ValueError(
                    f"{self.path}: not a nucleotide sequence: letter {chr(strange[0])!r} in record {name!r}, "
                    f"want {LETTERS.decode()} in either case"
                )
            bases += len(piece)
            yield found, piece
        if not records:
            raise ValueError(f"{self.path}: no records, want at least one sequence")
        if not bases:
            raise ValueError(f"{self.path}: {records} record(s) but no bases, want at least one base")

    def _pieces(self, stream: BinaryIO) -> Iterator[tuple[str | None, bytes]]:
        head = stream.read(4096)
        stream.seek(0)
        kind = self._kind(head)
        if kind == "fasta":
            return self._fasta(stream)
        self.plain = False
        return self._text(stream, kind)

    def _kind(self, head: bytes) -> str:
        start = head.removeprefix(BOM).lstrip()
        if not start:
            raise ValueError(f"{self.path}: empty file, want at least one sequence")
        for mark, kind in _STARTS.items():
            if start.startswith(mark):
                return kind
        for suffix in self.path.suffixes[-2:]:
            if suffix.lower() in _SUFFIXES and b"\0" not in head:  # a release file opens with a banner, not LOCUS
                return _SUFFIXES[suffix.lower()]
        raise ValueError(
            f"{self.path}: starts with {start[:12]!r}, want FASTA ('>'), FASTQ ('@'), GenBank ('LOCUS') "
            "or EMBL ('ID'), plain or gzipped"
        )

    def _fasta(self, stream: BinaryIO) -> Iterator[tuple[str | None, bytes]]:
        layout = _Layout()
        started = False
        for lines in self._whole_lines(stream):
            before, *records = (b"\n" + lines).split(b"\n>")
            if started and before:
                layout.add(before[1:])
                yield None, before.replace(b"\n", b"")
            elif before:
                self._skip_comments(before)
            for record in records:
                header, line_end, body = record.partition(b"\n")
                started = True
                self.plain &= header.isascii()
                layout.start()
                if line_end:
                    layout.add(body)
                yield _first_word(header), body.replace(b"\n", b"")
        self.plain &= layout.regular

    def _whole_lines(self, stream: BinaryIO) -> Iterator[bytes]:
        """Blocks of whole lines without their last line end; CR counts as a line end, blank lines stand."""
        rest = b""
        first = True
        while block := stream.read(BLOCK):
            if first and block.startswith(BOM):
                block, self.plain = block.removeprefix(BOM), False
            if b"\r" in block:
                block, self.plain = block.replace(b"\r", b"\n"), False
            first = False
            whole, line_end, last = block.rpartition(b"\n")
            if line_end:
                yield rest + whole
                rest = last
            else:
                rest += block
        if rest:
            yield rest

    def _skip_comments(self, text: bytes) -> None:
        self.plain = False
        if any(line and not line.startswith(b";") for line in map(bytes.strip, text.split(b"\n"))):
            raise ValueError(f"{self.path}: text before the first record, want a line that starts with '>'")

    def _text(self, stream: BinaryIO, kind: str) -> Iterator[tuple[str, bytes]]:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace") as text:
            yield from self._fastq(text) if kind == "fastq" else self._annotated(text, kind)

    def _fastq(self, text: io.TextIOWrapper) -> Iterator[tuple[str, bytes]]:
        try:
            for title, bases, _ in FastqGeneralIterator(text):
                yield _first_word(title.encode()), bases.encode()
        except ValueError as error:
            raise ValueError(f"{self.path}: not valid FASTQ: {' '.join(str(error).split())}") from None

    def _annotated(self, text: io.TextIOWrapper, kind: str) -> Iterator[tuple[str, bytes]]:
        records = SeqIO.parse(text, kind)
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", BiopythonParserWarning)
                    warnings.filterwarnings("error", "Expected sequence length", BiopythonParserWarning)
                    record = next(records, None)
                if record is None:
                    return
                name = record.name if record.id in (None, "<unknown id>") else record.id
                piece = _first_word(name.encode()), bytes(record.seq)  # type: ignore[arg-type]
            except UndefinedSequenceError:
                raise ValueError(f"{self.path}: a {kind} record has no sequence, want one with its bases") from None
            except (ValueError, BiopythonParserWarning) as error:
                raise ValueError(f"{self.path}: not valid {kind}: {' '.join(str(error).split())}") from None
            yield piece


class _Layout:
    """Whether every record has the line structure that an index assumes.

    That is lines of one width, the last one alone being shorter, and at most one blank line after them.
    """

    def __init__(self) -> None:
        self.regular = True
        self.start()

    def start(self) -> None:
        self._width, self._short, self._blank = 0, False, False

    def add(self, lines: bytes) -> None:
        """One or more whole lines of the current record, the last line end left out."""
        ends = np.flatnonzero(np.frombuffer(lines + b"\n", np.uint8) == ord("\n"))
        widths = np.diff(ends, prepend=-1) - 1
        self._width = self._width or int(widths[0])
        blank = widths[-1] == 0
        widths = widths[: len(widths) - blank]
        odd = np.flatnonzero(widths != self._width)
        last_is_short = odd.size == 1 and odd[0] == len(widths) - 1 and 0 < widths[-1] < self._width
        after_the_end = self._blank or (self._short and len(widths))
        if after_the_end or not self._width or (odd.size and not last_is_short):
            self.regular = False
        self._short, self._blank = self._short or odd.size > 0, self._blank or bool(blank)


def _first_word(header: bytes) -> str:
    return next(iter(header.decode("utf-8", "backslashreplace").split()), "")
