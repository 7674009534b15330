"""Features of a genome, each with a class and a strand, from BED, GFF3, GTF, GenBank or EMBL."""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from titans_dna.genome.genome import Genome
from titans_dna.genome.intervals import read_bed
from titans_dna.genome.records import GZIP_MAGIC
from titans_dna.genome.regions import Interval
from titans_dna.labels.annotation_formats import FeatureRow, read_flatfile, read_gff
from titans_dna.labels.contig_names import ContigNames

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


class Feature(NamedTuple):
    """A stretch of a contig that belongs to a class. What is joined from several stretches is several of these."""

    interval: Interval
    strand: str
    """`+`, `-`, or `.` for none."""
    name: str
    """Of the class."""


def read_annotation(
    path: str | Path, genome: Genome, *, features: Sequence[str] | None = None, class_by: str | None = None
) -> list[Feature]:
    """The features of the wanted types, in the order of the file; what the file is, its content says.

    features: types to keep, by default CDS; for BED the names (column 4) to keep, by default all.
    class_by: what names the class. None: the type; for BED column 4, or `feature` where there is none. `type`: the type
        in every format, which for BED is always `feature`. Else an attribute or qualifier such as `gene_biotype`; a
        feature that lacks it has its type as class.

    Contigs are found as `ContigNames` says, those of BED by their exact name. GFF3 and GTF hold one feature a line, so
    that a coding sequence of several exons is several features; GTF leaves the stop codon out of CDS, GFF3 and GenBank
    do not. Of a joined location in GenBank or EMBL each part is a feature.

    Raises FileNotFoundError, IsADirectoryError, and ValueError naming file and line (or record) for a contig that is not
    in the genome, coordinates that are not on it, an unknown format, an empty file, a damaged gzip, and where no feature
    is of the wanted types or none has the attribute.
    """
    path = Path(path)
    if isinstance(features, str) or (features is not None and not features):
        raise ValueError(f"features: got {features!r}, want a list of at least one type")
    kind = _kind(path)
    if kind == "bed":
        return _from_bed(path, genome, features, class_by)
    attribute = None if class_by == TYPE else class_by
    with _opened(path) as text:
        rows = read_gff(text, attributes=attribute is not None) if kind == "gff" else read_flatfile(text, kind)
        return _from_rows(path, rows, genome, features or DEFAULT_TYPES, attribute)


def _from_bed(path: Path, genome: Genome, wanted: Collection[str] | None, class_by: str | None) -> list[Feature]:
    if class_by not in (None, TYPE):
        raise ValueError(
            f"class_by: got {class_by!r}, but {path} is BED, which has no attributes; want {TYPE!r} or none"
        )
    rows = read_bed(path, genome)
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
    path: Path, rows: Iterable[FeatureRow], genome: Genome, wanted: Collection[str], attribute: str | None
) -> list[Feature]:
    names = ContigNames(genome)
    found: list[Feature] = []
    types: Counter[str] = Counter()
    attributes: Counter[str] = Counter()
    where = ""
    try:
        for row in rows:
            types[row.type] += 1
            if row.type not in wanted:
                continue
            where = f"{row.where}: "
            contig = names.find(row.contig)
            attributes.update(row.attributes.keys())
            name = row.type if attribute is None else row.attributes.get(attribute) or row.type
            found += [Feature(one, row.strand, name) for one in _on_contig(row, contig, genome.contigs[contig])]
            where = ""
    except ValueError as error:
        raise ValueError(f"{path}: {where}{error}") from None
    if not found:
        raise ValueError(_nothing(path, wanted, types))
    if attribute is not None and attribute not in attributes:
        raise ValueError(
            f"class_by: no {' or '.join(wanted)} in {path} has an attribute {attribute!r}, "
            f"want one of {_listed(attributes)}, or {TYPE!r}"
        )
    return found


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
    with _opened(path) as text:
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


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory, want {_FORMATS}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            binary: Any = gzip.open(raw) if zipped else raw  # noqa: SIM115 (closed with `raw`, which it reads)
            with io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace") as text:
                yield text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip: {error}") from None


def _nothing(path: Path, wanted: Collection[str], types: Counter[str]) -> str:
    have = f"it has {_listed(types)}" if types else "it has no features"
    return f"features: {path} has no {' or '.join(wanted)}; {have}"


def _listed(counted: Counter[str]) -> str:
    """The dozen most frequent, with their numbers."""
    shown = [f"{name} ({number:,})" for name, number in counted.most_common(12)]
    return ", ".join(shown) + (f", … ({len(counted)} in all)" if len(counted) > len(shown) else "") or "none"
