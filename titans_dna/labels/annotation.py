"""Features of a genome, each with a class and a strand, from BED, GFF3, GTF, GenBank or EMBL.

Biopython, which reads the latter two, does not read GFF.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from urllib.parse import unquote

from Bio import BiopythonParserWarning

from titans_dna.genome.genome import Genome, known_names
from titans_dna.genome.intervals import Interval, read_bed
from titans_dna.genome.records import flatfile, reason
from titans_dna.run.files import open_text

DEFAULT_TYPES = ("CDS",)
TYPE = "type"
"""The `class_by` that names classes after types."""
UNNAMED = "feature"
"""The type of a BED row, and its class where it has no name."""
_SUFFIXES = {
    ".bed": "bed",
    **dict.fromkeys((".gff", ".gff3", ".gtf"), "gff"),
    **dict.fromkeys((".gb", ".gbk", ".gbff", ".genbank"), "genbank"),
    ".embl": "embl",
}
_FORMATS = "BED, GFF3, GTF, GenBank or EMBL, plain or gzipped"
_STRANDS = ("+", "-", ".")
# A key begins where a word does: tried at every letter of a long one, it would take for ever.
_GTF_ATTRIBUTE = re.compile(r'(?<![^\s;"])([^\s;"]++)\s++(?:"([^"]*)"|([^\s;"]+))')
_VERSION = re.compile(r"\.\d+$")


class Feature(NamedTuple):
    """A stretch of a contig that belongs to a class. What is joined from several stretches is several of these."""

    interval: Interval
    strand: str
    """`+`, `-`, or `.` for none."""
    name: str
    """Of the class."""


class Met(NamedTuple):
    """Names of contigs that are not the genome's."""

    absent: Counter[str]
    """Features that were left out, by the name of a contig that the genome lacks."""
    renamed: dict[str, str]
    """What the genome calls a contig."""


def read_annotation(
    path: str | Path,
    genome: Genome,
    *,
    features: Sequence[str] | None = None,
    class_by: str | None = None,
    met: Met | None = None,
) -> list[Feature]:
    """The features of the wanted types, in the order of the file; what the file is, its content says.

    features: types to keep, by default CDS; for BED the names (column 4) to keep, by default all.
    class_by: what names the class. None: the type; for BED column 4, or `feature` where there is none. `type`: the type
        in every format, which for BED is always `feature`. Else an attribute or qualifier such as `gene_biotype`; a
        feature that lacks it has its type as class.
    met: is told of contigs that the genome lacks, or has under another name.

    Contigs are found as `ContigNames` says, those of BED by their exact name. GFF3 and GTF hold one feature a line, so
    that a coding sequence of several exons is several features; GTF leaves the stop codon out of CDS, GFF3 and GenBank
    do not. Of a joined location in GenBank or EMBL each part is a feature.

    Raises FileNotFoundError, IsADirectoryError, and ValueError naming file and line (or record) for a name that may be that
    of several contigs, coordinates that are not on the contig, an attribute with several values, an unknown format, an empty
    file, a damaged gzip, and where no feature is of the wanted types, on a contig of the genome, or none has the attribute.
    What is not wanted may be anything.
    """
    path = Path(path)
    if isinstance(features, str) or (features is not None and not features):
        raise ValueError(f"features: got {features!r}, want a list of at least one type")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: not a regular file, want features as {_FORMATS}")  # it is read twice
    kind, met = _kind(path), met or Met(Counter(), {})
    if kind == "bed":
        return _from_bed(path, genome, features, class_by, met)
    attribute = None if class_by == TYPE else class_by
    with open_text(path, _FORMATS) as text:
        wanted = features or DEFAULT_TYPES
        rows = read_gff(text, wanted, attribute is not None) if kind == "gff" else read_flatfile(text, kind, wanted)
        return _from_rows(path, rows, genome, wanted, attribute, met)


def _from_bed(
    path: Path, genome: Genome, wanted: Collection[str] | None, class_by: str | None, met: Met
) -> list[Feature]:
    if class_by not in (None, TYPE):
        raise ValueError(
            f"class_by: got {class_by!r}, but {path} is BED, which has no attributes; want {TYPE!r} or none"
        )
    rows = read_bed(path, genome, met.absent)
    names = [UNNAMED if row.name == "." else row.name for row in rows]
    found = [
        Feature(row.interval, row.strand, UNNAMED if class_by == TYPE else name)
        for row, name in zip(rows, names, strict=True)
        if wanted is None or name in wanted
    ]
    if not found:
        raise ValueError(_nothing(path, wanted or (), Counter(names)))
    return found


def _from_rows(
    path: Path,
    rows: Iterable[FeatureRow],
    genome: Genome,
    wanted: Collection[str],
    attribute: str | None,
    met: Met,
) -> list[Feature]:
    names = ContigNames(genome)
    found: list[Feature] = []
    types: Counter[str] = Counter()
    attributes: Counter[str] = Counter()
    where, missing = "", ""
    try:
        for row in rows:
            types[row.type] += 1
            if row.type not in wanted:
                continue
            where = f"{row.where}: "
            contig = names.find(row.contig)
            if contig is None:
                missing = missing or f"{where}{names.missing(row.contig)}"
                met.absent[row.contig] += 1
                continue
            if contig != row.contig:
                met.renamed[row.contig] = contig
            attributes.update(row.attributes.keys())
            name = row.type if attribute is None else _value(row, attribute)
            found += [Feature(one, row.strand, name) for one in _on_contig(row, contig, genome.contigs[contig])]
            where = ""
    except ValueError as error:
        raise ValueError(f"{path}: {where}{error}") from None
    if not found and missing:
        raise ValueError(f"{path}: {missing}; nor is that of any other {' or '.join(wanted)}")
    if not found:
        raise ValueError(_nothing(path, wanted, types))
    if attribute is not None and attribute not in attributes:
        raise ValueError(
            f"class_by: no {' or '.join(wanted)} in {path} has an attribute {attribute!r}, "
            f"want one of {_listed(attributes)}, or {TYPE!r}"
        )
    return found


def _value(row: FeatureRow, attribute: str) -> str:
    """Of the attribute that names the class; the type where the feature lacks it."""
    values = [*dict.fromkeys(filter(None, row.attributes.get(attribute, ())))]
    if len(values) > 1:
        raise ValueError(f"attribute {attribute!r} has {len(values)} values ({', '.join(values[:4])}), want one")
    return values[0] if values else row.type


def _on_contig(row: FeatureRow, contig: str, length: int) -> list[Interval]:
    """The feature's bases; two intervals where it runs over the end of a circle."""
    if row.circular and 0 <= row.start < length < row.end <= row.start + length:
        return [Interval(contig, row.start, length), Interval(contig, 0, row.end - length)]
    if not 0 <= row.start < row.end <= length:
        raise ValueError(
            f"got bases {row.start + 1} to {row.end} of {contig}, want 1 <= start <= end <= {length}, its length"
        )
    return [Interval(contig, row.start, row.end)]


def _kind(path: Path) -> str:
    """bed, gff, genbank or embl, by the first line that is no comment, or the suffix where that says nothing."""
    with open_text(path, _FORMATS) as text:
        first, nothing = "", True
        for line in text:
            nothing = nothing and not line.strip()
            if line.strip() and not line.startswith(("#", "track", "browser")):
                first = line
                break
    if nothing:
        raise ValueError(f"{path}: empty file, want features as {_FORMATS}")
    for start, kind in (("LOCUS ", "genbank"), ("ID   ", "embl")):
        if first.startswith(start):
            return kind
    columns = first.split("\t") if "\t" in first else first.split()
    # BED before GFF: names and scores of BED may be whole numbers too, source and type of GFF hardly are.
    for kind, at in (("bed", (1, 2)), ("gff", (3, 4))):
        if all(i < len(columns) and columns[i].strip().isdecimal() for i in at):
            return kind
    for suffix in path.suffixes[-2:]:
        if suffix.lower() in _SUFFIXES and not first.startswith(">"):
            return _SUFFIXES[suffix.lower()]
    raise ValueError(f"{path}: starts with {first.strip()[:40]!r}, want {_FORMATS}")


def _nothing(path: Path, wanted: Collection[str], types: Counter[str]) -> str:
    have = f"it has {_listed(types)}" if types else "it has no features"
    return f"features: {path} has no {' or '.join(wanted)}; {have}"


def _listed(counted: Counter[str]) -> str:
    """The dozen most frequent, with their numbers."""
    shown = [f"{name} ({number:,})" for name, number in counted.most_common(12)]
    return ", ".join(shown) + (f", … ({len(counted)} in all)" if len(counted) > len(shown) else "") or "none"


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
    attributes: dict[str, list[str]]
    """The values of each; empty unless they were asked for."""
    circular: bool = False
    """Whether the file says that the contig is a circle, so that a feature may run over its end."""


def read_gff(lines: TextIO, wanted: Collection[str], attributes: bool) -> Iterator[FeatureRow]:
    """The lines of GFF3 or GTF up to `##FASTA`; 1-based inclusive coordinates become 0-based half-open. Of types that are not
    wanted the rest is not looked at.

    Raises ValueError with the line's number for fewer than 8 columns, or start and end that are no integers.
    Source: GFF3 1.26 of the Sequence Ontology, with its circular genomes; GTF2.2.
    """
    circular: set[str] = set()
    for number, line in enumerate(lines, 1):
        line = line.strip("\r\n ")
        if line.startswith(">") or line.split() == ["##FASTA"]:
            return
        if not line or line.startswith("#"):
            continue
        columns = line.split("\t")
        where = f"line {number}"
        if len(columns) < 8:
            raise ValueError(f"{where}: got {len(columns)} column(s) between tabs, want the 9 of GFF3 or GTF")
        kind, last = unquote(columns[2]), columns[8] if len(columns) > 8 else ""
        contig = unquote(columns[0])
        if "Is_circular=true" in last:
            circular.add(contig)
        if kind not in wanted:
            yield FeatureRow(where, contig, 0, 0, ".", kind, {})
            continue
        try:
            start, end = int(columns[3]), int(columns[4])
        except ValueError:
            raise ValueError(f"{where}: got start {columns[3]!r} and end {columns[4]!r}, want integers") from None
        strand = columns[6].strip()
        if strand not in (*_STRANDS, "?"):
            raise ValueError(f"{where}, column 7: got strand {strand!r}, want +, -, . or ?")
        found = _gff_attributes(last) if attributes else {}
        strand = strand.replace("?", ".")
        yield FeatureRow(where, contig, start - 1, end, strand, kind, found, contig in circular)


def read_flatfile(text: TextIO, kind: str, wanted: Collection[str]) -> Iterator[FeatureRow]:
    """The features of every record of GenBank (`genbank`) or EMBL (`embl`), a row for each part of a joined location. Those of
    types that are not wanted have no place.

    Raises ValueError naming the record for a location that cannot be read, or a file that Biopython refuses.
    """
    records = flatfile(text, kind, wanted)
    number = 0
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BiopythonParserWarning)
                record = next(records, None)
        except Exception as error:  # the parser has all kinds of them
            raise ValueError(f"not valid {kind}: record {number + 1}: {reason(error)}") from None
        if record is None:
            return
        number += 1
        name = record.name if record.id in (None, "<unknown id>") else record.id
        for feature in record.features:
            if feature.type in wanted:
                yield from _parts(feature, f"record {number} ({name})", str(name))
            else:
                yield FeatureRow("", str(name), 0, 0, ".", feature.type, {})


def _parts(feature: Any, where: str, contig: str) -> Iterator[FeatureRow]:
    where = f"{where}, {feature.type}"
    if feature.location is None:
        raise ValueError(f"{where}: a location that cannot be read")
    found = {key: [*map(str, values)] for key, values in feature.qualifiers.items()}
    for part in feature.location.parts:
        try:
            start, end = int(part.start), int(part.end)
        except TypeError:
            raise ValueError(f"{where}: location {part} is unknown, want numbers") from None
        if start < end:  # `12^13` lies between two bases
            strand = {1: "+", -1: "-"}.get(part.strand, ".")
            yield FeatureRow(f"{where} {feature.location}", part.ref or contig, start, end, strand, feature.type, found)


def _gff_attributes(text: str) -> dict[str, list[str]]:
    """Of the ninth column: `key=value;…` with escapes in GFF3, in quotes or not, `key "value"; …` in GTF."""
    pairs = [pair.partition("=") for pair in text.split(";")]
    if all(equals and " " not in key.strip() for key, equals, _ in pairs if key.strip()):
        found = [(unquote(key.strip()), unquote(_unquoted(value.strip()))) for key, equals, value in pairs if equals]
    else:
        found = [(key, quoted or plain) for key, quoted, plain in _GTF_ATTRIBUTE.findall(text)]
    values: dict[str, list[str]] = {}
    for key, value in found:
        values.setdefault(key, []).append(value)
    return values


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


class ContigNames:
    """Finds the contig that a name means.

    That is the contig of this very name; else the only one whose name is the same but for a version that one of the two
    lacks (`U00096`, `U00096.3`), for `chr` in front (`MT` is `chrM`), or for the other fields of a name with `|`
    (`gi|9626243|ref|NC_001416.1|`). Two different versions are never the same: their coordinates differ.
    """

    def __init__(self, genome: Genome) -> None:
        self._genome = genome
        self._known: dict[str, str | None] = {}
        self._contigs_of: dict[str, set[str]] = {}
        for contig in genome.contigs:
            for key in map(_without_version, _fields(contig)):
                self._contigs_of.setdefault(key, set()).add(contig)

    def find(self, name: str) -> str | None:
        """The contig, None where there is none; ValueError where it may be any of several."""
        if name in self._genome.contigs:
            return name
        if name not in self._known:
            self._known[name] = self._search(name)
        return self._known[name]

    def missing(self, name: str) -> str:
        """That there is no such contig, in words."""
        files = ", ".join(map(str, self._genome.paths))
        return f"contig {name!r} is not in {files}, which has {known_names(self._genome.contigs)}"

    def _search(self, name: str) -> str | None:
        alike = (self._contigs_of.get(_without_version(field), set()) for field in _fields(name))
        found = {contig for contig in set().union(*alike) if _agree(name, contig)}
        if len(found) > 1:
            raise ValueError(
                f"contig {name!r} may be any of {', '.join(map(repr, sorted(found)))}, want the exact name"
            )
        return found.pop() if found else None


def _fields(name: str) -> set[str]:
    """A plain name itself; of `gi|9626243|ref|NC_001416.1|` the fields with a digit, which names of databases lack."""
    fields = [field for field in name.split("|") if re.search(r"\d", field)] if "|" in name else [name]
    plain = {field.removeprefix("chr") for field in fields} - {""}
    return {"MT" if field == "M" else field for field in plain}


def _without_version(field: str) -> str:
    return _VERSION.sub("", field)


def _agree(name: str, contig: str) -> bool:
    """Whether a field of one is a field of the other, but for a version that one of the two lacks."""
    return any(
        one == other or _without_version(one) == other or one == _without_version(other)
        for one in _fields(name)
        for other in _fields(contig)
    )
