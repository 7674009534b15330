"""What a fine-tuned model learns from, as frozen dataclasses: labelled sequences, or labelled bases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LabelOptions:
    """Labelled sequences"""

    data: tuple[str, ...] = ()
    """What to learn: a GenomicBenchmarks or GUE directory, the name of a set under --root, a table (CSV, TSV, parquet) with
    the columns sequence and label, or a FASTA file for each class."""
    valid: tuple[str, ...] = ()
    """Files of the validation split, where --data names files; without them a part of train is held out."""
    test: tuple[str, ...] = ()
    """Files of the test split, where --data names files."""
    root: str | None = None
    """Directory of data sets to find by name; by default ~/.genomic_benchmarks."""
    sequence_column: str = "sequence"
    """Column of the sequence in a table."""
    label_column: tuple[str, ...] = ("label",)
    """Column of the label; several columns of 0 and 1 are a multilabel task."""
    split_column: str | None = None
    """Column that says train, valid or test for each row."""
    name_column: str | None = None
    """Column of the name that predictions.csv gives to a row; by default its line number."""
    task: Literal["auto", "binary", "multiclass", "multilabel", "regression"] = "auto"
    """auto decides by the labels."""
    min_length: int = 0
    """Fewest bases of a sequence; 0: 4, and 1 for GenomicBenchmarks directories."""
    valid_fraction: float = 0.1
    """Share of each class of train that is held out for validation, where no validation split is given."""


@dataclass(frozen=True)
class BaseOptions:
    """Labelled bases, in place of labelled sequences"""

    annotation: str | None = None
    """BED, GFF3, GTF, GenBank or EMBL file of features of --fasta: each base is labelled with the feature it lies in, or
    none. Held out by region: blocks, --bed, or --test_contigs."""
    fasta: tuple[str, ...] = ()
    """Genome files: FASTA, GenBank, EMBL or FASTQ, gzipped or not."""
    features: tuple[str, ...] = ()
    """Types of features that are classes; by default CDS, for BED all names of column 4."""
    class_by: str | None = None
    """Attribute that names the class of a feature, in place of its type."""
    stranded: bool = False
    """Tell features of the two strands apart, as CDS+ and CDS-."""
    context: int = 4096
    """Bases of a window, in training and in test."""
    block: int = 100_000
    """Bases of a block; one in ten is for test, another one for validation."""
    bed: str | None = None
    """BED file whose 4th column says train, valid or test."""
    valid_contigs: tuple[str, ...] = ()
    """Contigs of the validation split, with --test_contigs."""
    test_contigs: tuple[str, ...] = ()
    """Contigs of the test split."""
    both_strands: bool = True
    """Read each window from both ends, so that each base is labelled by what lies on either side of it."""
