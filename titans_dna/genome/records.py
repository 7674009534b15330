"""Sequence files to named pieces of checked bases: FASTA streamed, GenBank, EMBL and FASTQ through Biopython."""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import numpy as np
from Bio import BiopythonParserWarning
from Bio.GenBank.Scanner import EmblScanner, GenBankScanner
from Bio.Seq import UndefinedSequenceError
from Bio.SeqIO.QualityIO import FastqGeneralIterator
from Bio.SeqRecord import SeqRecord

from titans_dna.run.files import open_binary

LETTERS = b"ACGTUNRYSWKMBDHV-"
BLOCK = 1 << 22
BOM = b"\xef\xbb\xbf"
LONGEST_NAME = 1 << 16
"""Bytes of a header that are looked at."""

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
    shorter, with at most one blank line after them; `lines` then holds for each record what an index says of it: where its
    first base stands in the file, and the bases and bytes of a line.

    A piece of FASTA is of at most BLOCK bytes, however long its lines are; of the other formats it is a record. Two reads of
    one name that follow each other in FASTQ, as pairs do in an interleaved file, are called NAME/1 and NAME/2; `pairs` says
    how many there were. Of GenBank and EMBL the features are not looked at.

    Raises FileNotFoundError, IsADirectoryError, and ValueError for an empty file, an unknown format, a letter that is
    no nucleotide code, a record without a name, a damaged gzip, or a sequence shorter than its own header says.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plain = True
        self.lines: list[tuple[int, int, int]] = []
        self.pairs = 0
        if self.path.is_dir():
            raise IsADirectoryError(f"{path}: is a directory, want a FASTA, GenBank, EMBL or FASTQ file")
        if not self.path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if not self.path.is_file():
            raise ValueError(f"{path}: not a regular file, want a FASTA, GenBank, EMBL or FASTQ file")

    def __iter__(self) -> Iterator[tuple[str | None, bytes]]:
        with open_binary(self.path) as stream:
            if isinstance(stream, gzip.GzipFile):
                self.plain = False
                stream = cast(BinaryIO, io.BufferedReader(cast(Any, stream), BLOCK))
            yield from self._checked(stream)

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
        self.lines = []
        comment, header, lines = b"", None, None
        at = 0  # bytes of the file before the text that is not yet dealt with
        for begins, text in self._cut(stream):
            at += begins
            if begins:
                header, lines = b"", self._indexed(lines)
            elif header is None and lines is None:
                comment = self._skip_comments(comment + text)
            name = None
            if header is not None:
                title, ended, text = text.partition(b"\n")
                header += title[: LONGEST_NAME - len(header)]
                self.plain &= title.isascii()
                at += len(title) + len(ended)
                if not ended:
                    continue
                name, header, lines = self._name(header), None, _Lines(at)
            at += len(text)
            if lines is not None:
                lines.add(text)
                if name is not None or text:
                    yield name, text.replace(b"\n", b"")
        if header is not None:  # and then the end of the file
            lines = _Lines(at)
            yield self._name(header), b""
        self._indexed(lines)

    def _cut(self, stream: BinaryIO) -> Iterator[tuple[bool, bytes]]:
        """All of the text, cut before each `>` that begins a line, and where a block ends; the marks left out.

        Yields whether a record begins, and the text. CR counts as a line end.
        """
        first = line_begins = True
        while block := stream.read(BLOCK):
            if first and block.startswith(BOM):
                block, self.plain = block.removeprefix(BOM), False
            if b"\r" in block:
                block, self.plain = block.replace(b"\r", b"\n"), False
            parts = block.split(b"\n>")
            begins = line_begins and parts[0].startswith(b">")
            parts[0] = parts[0][begins:]
            for part in parts[:-1]:
                yield begins, part + b"\n"
                begins = True
            yield begins, parts[-1]
            first, line_begins = False, block.endswith(b"\n") if block else line_begins

    def _skip_comments(self, text: bytes) -> bytes:
        """Of the text before the first record; returns what matters of a last line that goes on."""
        self.plain = False
        if any(line and not line.startswith(b";") for line in map(bytes.strip, text.split(b"\n"))):
            raise ValueError(f"{self.path}: text before the first record, want a line that starts with '>'")
        return text.rpartition(b"\n")[2].lstrip()[:1]

    def _name(self, header: bytes) -> str:
        if len(header) == LONGEST_NAME and len(header.split(None, 1)) == 1:
            raise ValueError(
                f"{self.path}: a record has a name of {LONGEST_NAME:,} letters or more, want a shorter one"
            )
        return _first_word(header)

    def _indexed(self, lines: _Lines | None) -> None:
        if lines is not None:
            self.plain &= lines.end()
            self.lines.append((lines.offset, lines.width, lines.step))

    def _text(self, stream: BinaryIO, kind: str) -> Iterator[tuple[str, bytes]]:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace") as text:
            yield from self._fastq(text) if kind == "fastq" else self._annotated(text, kind)

    def _fastq(self, text: io.TextIOWrapper) -> Iterator[tuple[str, bytes]]:
        self.pairs, waiting = 0, None
        try:
            for title, bases, _ in FastqGeneralIterator(text):
                read = _first_word(title.encode()), bases.encode()
                if waiting is not None and read[0] and read[0] == waiting[0]:
                    self.pairs += 1
                    yield f"{read[0]}/1", waiting[1]
                    yield f"{read[0]}/2", read[1]
                    waiting = None
                    continue
                if waiting is not None:
                    yield waiting
                waiting = read
        except ValueError as error:
            raise ValueError(f"{self.path}: not valid FASTQ: {' '.join(str(error).split())}") from None
        if waiting is not None:
            yield waiting

    def _annotated(self, text: io.TextIOWrapper, kind: str) -> Iterator[tuple[str, bytes]]:
        records, number = flatfile(text, kind), 0
        while True:
            number += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", BiopythonParserWarning)
                    warnings.filterwarnings("error", "Expected sequence length", BiopythonParserWarning)
                    record = next(records, None)
                if record is None:
                    if number == 1:
                        raise ValueError("no record")
                    return
                name = record.name if record.id in (None, "<unknown id>") else record.id
                piece = _first_word(name.encode()), bytes(record.seq)  # type: ignore[arg-type]
            except UndefinedSequenceError:
                raise ValueError(f"{self.path}: a {kind} record has no sequence, want one with its bases") from None
            except Exception as error:  # the parser has all kinds of them
                raise ValueError(f"{self.path}: not valid {kind}: record {number}: {reason(error)}") from None
            yield piece


_KEPT = {
    "genbank": ("LOCUS", "ACCESSION", "VERSION"),
    "embl": ("ID", "AC", "SV", "XX"),
}
"""What is read of a record's header. The rest, citations and comments and links, is often damaged, and nobody asks for it."""
_AFTER_HEADER = {
    "genbank": ("FEATURES", "ORIGIN", "BASE COUNT", "CONTIG", "WGS", "//"),
    "embl": ("FH", "FT", "SQ", "CO", "//"),
}


def flatfile(text: TextIO, kind: str, wanted: Collection[str] = ()) -> Iterator[SeqRecord]:
    """The records of GenBank (`genbank`) or EMBL (`embl`), of the header no more than the names.

    wanted: types of features that are read; others have the location 1 and no qualifiers, whatever stands there. Without any,
    none are looked at.
    """

    class Scanner(GenBankScanner if kind == "genbank" else EmblScanner):  # type: ignore[misc]
        def parse_feature(self, feature_key: str, lines: list[str]) -> tuple[str, str, list[Any]]:
            return super().parse_feature(feature_key, lines) if feature_key in wanted else (feature_key, "1", [])

    return Scanner().parse_records(_Needed(text, kind), do_features=bool(wanted))


class _Needed:
    """The lines that are read, as Biopython's scanners take them."""

    def __init__(self, text: TextIO, kind: str) -> None:
        self._text, self._kept, self._ends = text, _KEPT[kind], _AFTER_HEADER[kind]
        self._header = True

    def readline(self) -> str:
        while line := self._text.readline():
            if self._header and line.startswith(self._ends):
                self._header = False
            if line.startswith("//"):
                self._header = True
                return line
            if not self._header or line.startswith(self._kept):
                return line
        return ""


def reason(error: Exception) -> str:
    """What a parser says is wrong, in one line; of an exception that it does not mean as such, the kind too."""
    said = " ".join(str(error).split())[:200]
    if isinstance(error, (ValueError, Warning)) and said:
        return said
    return f"Biopython cannot read it ({': '.join(filter(None, [type(error).__name__, said]))})"


class _Lines:
    """The lines of one record: where they begin, how wide they are, and whether an index can describe them.

    That is lines of one width, the last one alone being shorter, and at most one blank line after them.
    """

    def __init__(self, offset: int) -> None:
        self.offset, self.width, self.step = offset, 0, 0
        self._regular, self._short, self._blank = True, False, False
        self._open = 0  # bytes of the line that has not ended

    def add(self, text: bytes) -> None:
        """More of the record, cut anywhere."""
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        if len(ends):
            widths = np.diff(ends, prepend=-1) - 1
            widths[0] += self._open
            self._open = 0
            self._whole(widths, line_end=1)
        self._open += len(text) - (int(ends[-1]) + 1 if len(ends) else 0)

    def end(self) -> bool:
        """The record ends here; whether it is regular."""
        if self._open:
            self._whole(np.array([self._open]), line_end=0)
        return self._regular

    def _whole(self, widths: np.ndarray, line_end: int) -> None:
        if not self.width:
            self.width = int(widths[0])
            self.step = self.width + line_end
        blank = widths[-1] == 0
        widths = widths[: len(widths) - blank]
        odd = np.flatnonzero(widths != self.width)
        last_is_short = odd.size == 1 and odd[0] == len(widths) - 1 and 0 < widths[-1] < self.width
        after_the_end = self._blank or (self._short and len(widths))
        if after_the_end or not self.width or (odd.size and not last_is_short):
            self._regular = False
        self._short, self._blank = self._short or odd.size > 0, self._blank or bool(blank)


def _first_word(header: bytes) -> str:
    return next(iter(header.decode("utf-8", "backslashreplace").split()), "")
