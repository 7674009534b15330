"""Sequences to read, from memory or from a genome: what they are called, how long they are, and their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from Bio.Seq import Seq, UndefinedSequenceError
from Bio.SeqRecord import SeqRecord
from pyfaidx import FastaRecord
from pyfaidx import Sequence as Sequence_

from titans_dna.genome.genome import Genome, open_genome
from titans_dna.genome.intervals import Interval, read_bed, whole_contigs
from titans_dna.genome.records import LETTERS
from titans_dna.run.progress import say
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.tokenizer import Tokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

_ALLOWED = LETTERS + LETTERS.lower()
_LONGEST_PATH = 4096
COLUMN = "sequence"
"""Of a table."""


class Record(NamedTuple):
    """One sequence of a genome: its name, its bases, and the strand to read them from (`.` is the plus strand)."""

    name: str
    interval: Interval
    strand: str = "."


class Source:
    """Sequences by number. Safe to pickle and to fork, as far as the genome is."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = np.array(lengths, dtype=np.int64)
        """Bases of each sequence, each at least 1."""

    def part(self, number: int, start: int, end: int) -> bytes:
        """The letters [start, end) of one sequence, counted in the direction in which it is read."""
        raise AssertionError("a source defines part")


class TextSource(Source):
    """Sequences in memory."""

    def __init__(self, sequences: list[bytes]) -> None:
        super().__init__(list(map(len, sequences)))
        self._sequences = sequences

    def part(self, number: int, start: int, end: int) -> bytes:
        return self._sequences[number][start:end]


class GenomeSource(Source):
    """Records of a genome, read when they are wanted."""

    def __init__(self, genome: Genome, records: Sequence[Record]) -> None:
        super().__init__([len(record.interval) for record in records])
        self.genome, self.records = genome, records

    def part(self, number: int, start: int, end: int) -> bytes:
        _, interval, strand = self.records[number]
        if strand == "-":
            return reverse_complement(self.genome.fetch(interval.contig, interval.end - end, interval.end - start))
        return self.genome.fetch(interval.contig, interval.start + start, interval.start + end)


def genome_source(genome: Genome, bed: str | Path | None = None) -> GenomeSource:
    """The intervals of a BED file, in its order, or every record of the genome.

    A record without bases, as trimmers leave of a read, is left out, and that is said. Raises what `read_bed` raises.
    """
    if bed is not None:
        rows = read_bed(bed, genome)
        return GenomeSource(
            genome,
            [Record(str(row.interval) if row.name == "." else row.name, row.interval, row.strand) for row in rows],
        )
    there = whole_contigs(genome)
    if len(there) < len(genome.contigs):
        say(
            f"{', '.join(map(str, genome.paths))}: {len(genome.contigs) - len(there):,} record(s) without bases left out"
        )
    return GenomeSource(genome, [Record(one.contig, one) for one in there])


def as_source(sequences: Any) -> Source:
    """Whatever `embed`, `remember` and `predict` take, checked.

    A string of nucleotide letters is a sequence, any other one the path of a file. Of a dictionary the values are taken, of a
    table (as of pandas, polars or pyarrow) the column `sequence`, of an open pyfaidx.Fasta all records.
    Raises ValueError naming the sequence for one that is empty or holds a letter that is no nucleotide code, and what
    `open_genome` raises for a file.
    """
    if isinstance(sequences, Path) or (isinstance(sequences, str) and _is_path(sequences)):
        return genome_source(open_genome(sequences))
    if isinstance(sequences, (str, bytes, Seq, SeqRecord, FastaRecord, Sequence_)):
        return TextSource([_checked(sequences, "sequences")])
    columns = getattr(sequences, "column_names", getattr(sequences, "columns", None))
    if columns is not None:
        sequences = _column(sequences, [str(one) for one in columns])
    if isinstance(sequences, Mapping):
        return TextSource([_checked(one, f"sequences[{name!r}]") for name, one in sequences.items()])
    if not isinstance(sequences, Iterable):
        raise ValueError(f"sequences: got {type(sequences).__name__}, want sequences or the path of a sequence file")
    return TextSource([_checked(one, f"sequences[{i}]") for i, one in enumerate(sequences)])


def _column(table: Any, columns: list[str]) -> list[Any]:
    """Of a table, the sequences."""
    if COLUMN not in columns:
        want = f"want a column {COLUMN!r}"
        if {"chrom", "start", "end"} <= {*columns}:
            want += "; for intervals of a genome: titans-dna embed --fasta FILE --bed FILE"
        raise ValueError(f"sequences: got a table with the columns {', '.join(map(repr, columns))}, {want}")
    found = table[COLUMN]
    return found.to_pylist() if hasattr(found, "to_pylist") else list(found)


class Tokens(NamedTuple):
    """Some tokens of one strand of one sequence."""

    ids: np.ndarray
    """[tokens]"""
    widths: np.ndarray | None
    """Bases that each token adds to those before it, [tokens]; None where each adds one."""


class Strand:
    """One strand of one sequence as tokens, of which any stretch can be taken alone.

    Single bases and k-mers are tokenised from the letters of the stretch, so that no more of the sequence is ever in
    memory. Where byte-pair encoding cuts depends on all that comes before: it is given the whole sequence, once.
    """

    def __init__(self, source: Source, number: int, tokenizer: Tokenizer, other: bool = False) -> None:
        """other: the reverse complement of sequence `number`, which is read from its end."""
        self._source, self._number, self._tokenizer, self._other = source, number, tokenizer, other
        self._bases = bases = int(source.lengths[number])
        self._stride, self._overlap = layout(tokenizer) or (1, 0)
        # A sequence shorter than an overlapping k-mer is the tokens of its bases.
        self._overlap *= bases > self._overlap
        self._whole = tokenised(self._letters(0, bases), tokenizer) if layout(tokenizer) is None else None
        self.tokens = bases // self._stride + bases % self._stride - self._overlap
        """Number of tokens."""
        if self._whole is not None:
            self.tokens = len(self._whole.ids)
        self.later = other
        """Whether of two strands side by side this is the second one."""

    def take(self, start: int, stop: int) -> Tokens:
        """Tokens [start, stop), 0 <= start < stop <= `tokens`."""
        if self._whole is not None:
            ids, widths = self._whole
            return Tokens(ids[start:stop], None if widths is None else widths[start:stop])
        letters = self._letters(self._place(start), self._place(stop) + self._overlap)
        return tokenised(letters, self._tokenizer, known=self._overlap if start else 0)

    def _place(self, token: int) -> int:
        """Where a token begins: after whole k-mers come the bases that are left, one by one."""
        whole = self._bases // self._stride
        return min(token, whole) * self._stride + max(token - whole, 0)

    def _letters(self, start: int, end: int) -> bytes:
        if self._other:
            return reverse_complement(self._source.part(self._number, self._bases - end, self._bases - start))
        return self._source.part(self._number, start, end)


def turned(source: Source, number: int) -> bool:
    """Whether the reverse complement of a sequence comes before it in the alphabet."""
    bases, at, step = int(source.lengths[number]), 0, 32
    while at < bases:
        end = min(at + step, bases)
        one = source.part(number, at, end).upper()
        other = reverse_complement(source.part(number, bases - end, bases - at)).upper()
        if one != other:
            return other < one
        at, step = end, min(2 * step, 4096)
    return False


def layout(tokenizer: Tokenizer) -> tuple[int, int] | None:
    """Bases from a token to the next, and bases that the next one shares with it; None where that depends on the letters."""
    if isinstance(tokenizer, KmerTokenizer):
        return (1, tokenizer.k - 1) if tokenizer.overlapping else (tokenizer.k, 0)
    return (1, 0) if isinstance(tokenizer, NucleotideTokenizer) else None


def tokenised(letters: bytes, tokenizer: Tokenizer, known: int = 0) -> Tokens:
    """The tokens of letters, of which the first `known` stand in the token before."""
    ids = tokenizer.encode(letters)
    if len(ids) == len(letters):  # every token adds a base or more, so here exactly one
        return Tokens(ids, None)
    # Overlapping k-mers: each adds the base it ends with, the first of a sequence all of its own.
    return Tokens(ids, np.diff(tokenizer.spans(letters)[:, 1], prepend=known))


def _is_path(text: str) -> bool:
    if not text or not text.encode("ascii", "replace").translate(None, _ALLOWED) or len(text) > _LONGEST_PATH:
        return False
    return "/" in text or "." in text or Path(text).exists()


def _checked(sequence: Any, name: str) -> bytes:
    if isinstance(sequence, (FastaRecord, Sequence_)):
        name, sequence = f"{name} ({sequence.name})", str(sequence)
    if isinstance(sequence, SeqRecord):
        name, sequence = f"{name} ({sequence.id})", sequence.seq
    if isinstance(sequence, str):
        sequence = sequence.encode("ascii", "replace")
    elif isinstance(sequence, Seq):
        try:
            sequence = bytes(sequence)
        except UndefinedSequenceError:
            raise ValueError(f"{name}: its sequence is not defined, want one with its bases") from None
    if not isinstance(sequence, bytes):
        raise ValueError(f"{name}: got {type(sequence).__name__}, want str, bytes, a record of Biopython or of pyfaidx")
    if not sequence:
        raise ValueError(f"{name}: got an empty sequence, want at least one base")
    if strange := sequence.translate(None, _ALLOWED):
        at = sequence.index(strange[:1])
        raise ValueError(f"{name}: got letter {chr(strange[0])!r} at {at}, want {LETTERS.decode()} in either case")
    return sequence
