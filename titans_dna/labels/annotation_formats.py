"""Features as they stand in GFF3, GTF, GenBank and EMBL. (Biopython, which reads the latter two, does not read GFF.)"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO
from urllib.parse import unquote

from Bio import BiopythonParserWarning, SeqIO

STRANDS = ("+", "-", ".")
_GTF_ATTRIBUTE = re.compile(r'([^\s;"]+)\s+(?:"([^"]*)"|([^\s;"]+))')


class FeatureRow(NamedTuple):
    """One part of one feature, unchecked but for what reading it needs."""

    where: str
    """Line or record, for messages."""
    contig: str
    """As the file names it."""
    start: int
    """0-based half-open."""
    end: int
    strand: str
    type: str
    attributes: dict[str, str]
    """Empty unless they were asked for."""
    circular: bool = False
    """Whether the file says that the contig is a circle, so that a feature may run over its end."""


def read_gff(lines: TextIO, *, attributes: bool) -> Iterator[FeatureRow]:
    """The lines of GFF3 or GTF up to `##FASTA`; 1-based inclusive coordinates become 0-based half-open.

    Raises ValueError with the line's number for fewer than 8 columns, or start and end that are no integers.
    Source: GFF3 1.26 of the Sequence Ontology, with its circular genomes; GTF2.2.
    """
    circular: set[str] = set()
    for number, line in enumerate(lines, 1):
        line = line.strip("\r\n ")
        if line.startswith(("##FASTA", ">")):
            return
        if not line or line.startswith("#"):
            continue
        columns = line.split("\t")
        where = f"line {number}"
        if len(columns) < 8:
            raise ValueError(f"{where}: got {len(columns)} column(s) between tabs, want the 9 of GFF3 or GTF")
        try:
            start, end = int(columns[3]), int(columns[4])
        except ValueError:
            raise ValueError(f"{where}: got start {columns[3]!r} and end {columns[4]!r}, want integers") from None
        contig, last = unquote(columns[0]), columns[8] if len(columns) > 8 else ""
        if "Is_circular=true" in last:
            circular.add(contig)
        strand = columns[6] if columns[6] in STRANDS else "."
        found = _gff_attributes(last) if attributes else {}
        yield FeatureRow(where, contig, start - 1, end, strand, unquote(columns[2]), found, contig in circular)


def read_flatfile(text: TextIO, kind: str) -> Iterator[FeatureRow]:
    """The features of every record of GenBank (`genbank`) or EMBL (`embl`), a row for each part of a joined location.

    Raises ValueError naming the record for a location that cannot be read, or a file that Biopython refuses.
    """
    records = SeqIO.parse(text, kind)
    number = 0
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BiopythonParserWarning)
                record = next(records, None)
        except ValueError as error:
            raise ValueError(f"not valid {kind}: {' '.join(str(error).split())}") from None
        if record is None:
            return
        number += 1
        name = record.name if record.id in (None, "<unknown id>") else record.id
        for feature in record.features:
            yield from _parts(feature, f"record {number} ({name})", str(name))


def _parts(feature: Any, where: str, contig: str) -> Iterator[FeatureRow]:
    where = f"{where}, {feature.type}"
    if feature.location is None:
        raise ValueError(f"{where}: a location that cannot be read")
    found = {key: values[0] for key, values in feature.qualifiers.items() if values}
    for part in feature.location.parts:
        try:
            start, end = int(part.start), int(part.end)
        except TypeError:
            raise ValueError(f"{where}: location {part} is unknown, want numbers") from None
        if start < end:  # `12^13` lies between two bases
            strand = {1: "+", -1: "-"}.get(part.strand, ".")
            yield FeatureRow(f"{where} {feature.location}", part.ref or contig, start, end, strand, feature.type, found)


def _gff_attributes(text: str) -> dict[str, str]:
    """Of the ninth column: `key=value;…` with escapes in GFF3, `key "value"; …` in GTF."""
    pairs = [pair.partition("=") for pair in text.split(";")]
    if all(equals and " " not in key.strip() for key, equals, _ in pairs if key.strip()):
        return {unquote(key.strip()): unquote(value.strip()) for key, equals, value in pairs if equals}
    return {key: quoted or plain for key, quoted, plain in _GTF_ATTRIBUTE.findall(text)}
