"""Random access to the bases of a genome, from any process or thread."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from operator import index as as_integer
from pathlib import Path
from typing import Any

from pyfaidx import Faidx

from titans_dna.genome.index import IndexedFasta, prepare


def open_genome(path: str | Path, cache_dir: str | Path | None = None) -> Genome:
    """Open one FASTA, GenBank, EMBL or FASTQ file, plain or gzipped (bgzip included).

    The file is read through once (letters, names, digest) and indexed; both are kept in `cache_dir`, keyed by the
    file's path, size and times, so that the next opening is immediate and a changed file is indexed afresh. Nothing
    is ever written beside the file. A file that cannot be read in place (compressed, another format, CRLF, uneven
    lines) gets a clean uncompressed copy in the cache directory.

    cache_dir: `~/.cache/titans_dna` (macOS: `~/Library/Caches/titans_dna`) by default, or a directory under the
    system's temporary one where that cannot be written.

    Raises FileNotFoundError, IsADirectoryError, OSError for an unwritable `cache_dir`, and ValueError for a file that
    is empty, holds no bases, is no such format, is not nucleotide, is damaged, or has two records of one name.
    """
    return open_genomes([path], cache_dir)


def open_genomes(paths: Sequence[str | Path], cache_dir: str | Path | None = None) -> Genome:
    """Open several files as one genome, contigs in the order of the files; otherwise as `open_genome`.

    Raises what `open_genome` raises, and ValueError for no path or for a contig name that stands in two files.
    """
    if isinstance(paths, str | Path) or not paths:
        raise ValueError(f"paths: got {paths!r}, want a list of at least one file")
    return Genome([Path(path) for path in paths], [prepare(path, cache_dir) for path in paths])


class Genome:
    """Named contigs and their bases. Made by `open_genome`.

    Safe under forked and spawned workers, pickling and threads: every thread of every process opens its own handle on
    first use. (One pyfaidx handle shared by forked workers shares its file position, and returns wrong bases.)
    """

    def __init__(self, paths: list[Path], files: list[IndexedFasta]) -> None:
        self.paths = paths
        """The files as they were named, in order."""
        self.contigs: dict[str, int] = {}
        """Bases of each contig, in file order; empty records count 0."""
        self._files = files
        self._file_of: dict[str, int] = {}
        for number, file in enumerate(files):
            for name, bases in file.contigs.items():
                if name in self.contigs:
                    first = paths[self._file_of[name]]
                    raise ValueError(f"{paths[number]}: contig {name!r} stands in {first} too, want each name once")
                self.contigs[name], self._file_of[name] = bases, number
        self._local = threading.local()

    @property
    def path(self) -> Path:
        """The file, the first one where there are several."""
        return self.paths[0]

    def fetch(self, contig: str, start: int, end: int) -> bytes:
        """Bases [start, end) of a contig, 0-based half-open, letters and case as in the file.

        Raises ValueError for an unknown contig or unless 0 <= start <= end <= length, and OSError where the file has
        changed since it was opened.
        """
        length = self.contigs.get(contig)
        if length is None:
            raise ValueError(f"contig: got {contig!r}, want one of {known_names(self.contigs)}")
        start, end = as_integer(start), as_integer(end)
        if not 0 <= start <= end <= length:
            raise ValueError(f"interval: got {contig}:{start}-{end}, want 0 <= start <= end <= {length}")
        if start == end:
            return b""
        bases = str(self._handle(self._file_of[contig]).fetch(contig, start + 1, end))
        if len(bases) != end - start:
            raise OSError(f"{self.path}: {contig}:{start}-{end} gave {len(bases)} bases; the file has changed")
        return bases.encode("ascii")

    def fingerprint(self) -> str:
        """Digest of the contigs' names, lengths and bases (case included), in order: 32 hexadecimal digits.

        Independent of line width, line ends, compression, descriptions, and of how contigs are spread over files.
        """
        digest = hashlib.blake2b(digest_size=16)
        for file in self._files:
            for name, bases in file.contigs.items():
                digest.update(f"{name}\t{bases}\t{file.digests[name]}\n".encode())
        return digest.hexdigest()

    def _handle(self, number: int) -> Faidx:
        # Per thread instead of behind a lock: a lock that another thread holds during a fork stays locked in the child.
        owner, handles = getattr(self._local, "held", (None, {}))
        if owner != os.getpid():
            handles = {}
            self._local.held = os.getpid(), handles
        if number not in handles:
            handles[number] = self._files[number].open()
        return handles[number]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    def __repr__(self) -> str:
        files = ", ".join(map(str, self.paths))
        return f"Genome({files}: {len(self.contigs)} contigs, {sum(self.contigs.values()):,} bases)"


def known_names(contigs: Sequence[str] | dict[str, int]) -> str:
    """Up to three contig names, for messages."""
    names = list(contigs)
    return ", ".join(map(repr, names[:3])) + (f", … ({len(names)} in all)" if len(names) > 3 else "")
