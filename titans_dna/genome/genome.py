"""Random access to the bases of a genome, from any process or thread.

Each file is indexed once: index and digests, and a clean copy of a file that cannot be read in place, lie in a cache directory.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index as as_integer
from pathlib import Path
from typing import Any, BinaryIO

from pyfaidx import Faidx

from titans_dna.genome.records import RecordReader
from titans_dna.run.files import replacing
from titans_dna.run.progress import Progress, say
from titans_dna.run.sealed import digest_of, read_json, write_json

LAYOUT = 2
KEPT = 30 * 86400.0
"""Seconds after which what was not opened goes from the cache."""
COPY_WIDTH = 1 << 16


def open_genome(path: str | Path, cache_dir: str | Path | None = None) -> Genome:
    """Open one FASTA, GenBank, EMBL or FASTQ file, plain or gzipped (bgzip included).

    The file is read through once (letters, names, digest) and indexed; both are kept in `cache_dir`, keyed by the
    file's path, size and times, so that the next opening is immediate and a changed file is indexed afresh. Nothing
    is ever written beside the file. A file that cannot be read in place (compressed, another format, CRLF, uneven
    lines) gets a clean uncompressed copy in the cache directory.

    cache_dir: by default what the environment variable TITANS_DNA_CACHE says, else `titans_dna` below XDG_CACHE_HOME or
    `~/.cache` (macOS: `~/Library/Caches`), or a directory of this user's alone under the system's temporary one where that
    cannot be written. What another user could have put there is not used. A file has one entry: that of an earlier state of
    it goes when it is indexed afresh, and so does what was not opened for 30 days. All of it may be deleted at any time.

    Raises FileNotFoundError, IsADirectoryError, OSError for an unwritable `cache_dir`, and ValueError for a file that
    is empty, holds no bases, is no such format, is not nucleotide, is damaged, or has two records of one name.
    """
    return open_genomes([path], cache_dir)


def open_genomes(paths: Sequence[str | Path], cache_dir: str | Path | None = None) -> Genome:
    """Open several files as one genome, contigs in the order of the files; otherwise as `open_genome`.

    A contig whose name stands in several of them has the file's name in front there: `human:chr1` of human.fa.

    Raises what `open_genome` raises, and ValueError for no path or for names that are the same with that too.
    """
    if isinstance(paths, str | Path) or not paths:
        raise ValueError(f"paths: got {paths!r}, want a list of at least one file")
    genome = Genome([Path(path) for path in paths], [prepare(path, cache_dir) for path in paths])
    if genome.renamed:
        say(f"contigs of one name in several files: called by the file's name too, as {genome.renamed}")
    return genome


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
        self.renamed = ""
        """A name with its file's in front, where there are such."""
        self._files = files
        self._place: dict[str, tuple[int, str]] = {}
        seen = Counter(name for file in files for name in file.contigs)
        for number, file in enumerate(files):
            for inside, bases in file.contigs.items():
                name = inside
                if seen[inside] > 1:
                    self.renamed = name = f"{_stem(paths[number])}:{inside}"
                if name in self.contigs:
                    first = paths[self._place[name][0]]
                    raise ValueError(f"{paths[number]}: contig {name!r} stands in {first} too, want each name once")
                self.contigs[name], self._place[name] = bases, (number, inside)
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
        number, inside = self._place[contig]
        bases = str(self._handle(number).fetch(inside, start + 1, end))
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


def _stem(path: Path) -> str:
    """A file's name without its suffixes."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def known_names(contigs: Sequence[str] | dict[str, int]) -> str:
    """Up to three contig names, for messages."""
    names = list(contigs)
    return ", ".join(map(repr, names[:3])) + (f", … ({len(names)} in all)" if len(names) > 3 else "")


@dataclass(frozen=True)
class IndexedFasta:
    """A FASTA file that pyfaidx can read, its index, and what it holds."""

    fasta: Path
    """The file itself, or its clean copy in the cache."""
    index: Path
    """The `.fai`, always in the cache: a stale one beside the file is never trusted, none is ever written there."""
    stamp: tuple[int, int, int]
    """Size, modification and change time (ns) of `fasta` when it was opened."""
    contigs: dict[str, int]
    """Bases of each contig, in file order."""
    digests: dict[str, str]
    """Digest of each contig's bases, case included."""

    def open(self) -> Faidx:
        """A new handle. Raises OSError where the file is gone or no longer the one that was indexed."""
        if _stamp(self.fasta)[:2] != self.stamp[:2]:
            raise OSError(f"{self.fasta}: changed since it was opened; open it again")
        return Faidx(
            str(self.fasta), str(self.index), as_raw=True, strict_bounds=True, rebuild=False, build_index=False
        )


def prepare(path: str | Path, cache_dir: str | Path | None = None) -> IndexedFasta:
    """Index one sequence file, from the cache where the file has not changed since the last time.

    Safe when several processes prepare the same file at once: each writes aside and renames, the record comes last.

    Raises what `RecordReader` raises, ValueError for two records of one name, and OSError for a cache directory that
    cannot be written.
    """
    reader = RecordReader(path)
    source = reader.path.resolve()
    stamp = _stamp(source)
    keys = [hashlib.sha256(repr((LAYOUT, one)).encode()).hexdigest()[:16] for one in (str(source), stamp)]
    name = f"{source.name[:80]}.{keys[0]}.{keys[1]}"
    folders = _folders(cache_dir)
    for folder in folders:
        if found := _cached(source, folder / name):
            return found
    entry = _writable(folders) / name
    _build(reader, source, entry)
    found = _cached(source, entry)
    if found is None or _stamp(source) != stamp:
        raise OSError(f"{path}: changed while it was being read; open it again")
    _prune(entry)
    return found


def _folders(cache_dir: str | Path | None) -> list[Path]:
    """The cache directory; by default a second one too, for a home that is absent or read-only."""
    if cache_dir is not None:
        return [Path(cache_dir).expanduser()]
    if named := os.environ.get("TITANS_DNA_CACHE"):
        return [Path(named).expanduser()]
    home = os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    home = os.environ.get("XDG_CACHE_HOME") or home
    aside = Path(tempfile.gettempdir()) / f"titans_dna-{os.getuid()}"
    return [Path(home) / "titans_dna", *([aside] if not aside.exists() or _private(aside) else [])]


def _private(folder: Path) -> bool:
    """Whether nobody but this user can have written there: anybody may make a directory under the temporary one."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def _prune(entry: Path) -> None:
    """Take away entries of an earlier state of the same file, and those that nobody has opened for long."""
    same, recent = entry.name.rpartition(".")[0], time.time() - KEPT
    for record in entry.parent.glob("*.json"):
        with suppress(OSError):  # another process is at it too
            name = record.name.removesuffix(".json")
            if name != entry.name and (name.rpartition(".")[0] == same or record.stat().st_mtime < recent):
                for suffix in (".json", ".fai", ".fa"):
                    record.with_name(name + suffix).unlink(missing_ok=True)


def _writable(folders: list[Path]) -> Path:
    problem = ""
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            problem = problem or error.strerror or str(error)
    raise OSError(f"cache_dir: cannot write in {folders[0]} ({problem}), want a writable directory")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _cached(source: Path, entry: Path) -> IndexedFasta | None:
    """The entry if it is complete, else None."""
    copy, index, record = (entry.with_name(entry.name + suffix) for suffix in (".fa", ".fai", ".json"))
    try:
        known = read_json(record)
        fasta = copy if known["copied"] else source
        stamp = _stamp(fasta)
        # A copy has the time of its file, so whoever changes it gives it another one.
        if stamp[:2] != (known["fasta_size"], known["fasta_time"]) or digest_of(index) != known["index_digest"]:
            return None
        with suppress(OSError):  # a cache may be there to be read alone
            os.utime(record)
        return IndexedFasta(fasta, index, stamp, known["contigs"], known["digests"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(reader: RecordReader, source: Path, entry: Path) -> None:
    contigs, digests = _scan(reader)
    if reader.pairs:
        say(f"{reader.path}: {reader.pairs:,} pair(s) of reads of one name, called NAME/1 and NAME/2")
    copy, index, record = (entry.with_name(entry.name + suffix) for suffix in (".fa", ".fai", ".json"))
    fasta, lines = source, reader.lines
    if not reader.plain:
        fasta = copy
        with replacing(copy) as aside:
            lines = _write_copy(reader, aside)
            # The file's own time: another process that renames its equal copy over this one must not age the index.
            os.utime(aside, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    with replacing(index) as aside:
        with open(aside, "w", encoding="utf-8", newline="\n") as out:
            for (name, bases), (offset, width, step) in zip(contigs.items(), lines, strict=True):
                out.write(f"{name}\t{bases}\t{offset}\t{width}\t{step}\n")
        # pyfaidx warns of an index older than its file, as it would be for a file dated in the future.
        newest = max(aside.stat().st_mtime_ns, fasta.stat().st_mtime_ns)
        os.utime(aside, ns=(newest, newest))
    known = {
        "copied": not reader.plain,
        "fasta_size": fasta.stat().st_size,
        "fasta_time": fasta.stat().st_mtime_ns,
        "index_digest": digest_of(index),
        "contigs": contigs,
        "digests": digests,
    }
    write_json(record, known)


def _scan(reader: RecordReader) -> tuple[dict[str, int], dict[str, str]]:
    contigs: dict[str, int] = {}
    hashes = {}
    name = ""
    with Progress(f"indexing {reader.path.name}", math.inf) as progress:
        for found, piece in reader:
            if found is not None:
                name = found
                if name in contigs:
                    raise ValueError(f"{reader.path}: two records are named {name!r}, want each name once")
                contigs[name], hashes[name] = 0, hashlib.blake2b(digest_size=16)
            contigs[name] += len(piece)
            hashes[name].update(piece)
            progress.add(len(piece))
    return contigs, {name: digest.hexdigest() for name, digest in hashes.items()}


def _write_copy(reader: RecordReader, path: Path) -> list[tuple[int, int, int]]:
    """The records as FASTA with long lines, names alone in the headers; returns what `RecordReader.lines` would be."""
    lines: list[tuple[int, int, int]] = []
    with open(path, "wb") as out:
        rest, offset, bases = b"", 0, 0
        for name, piece in reader:
            if name is not None:
                _write_lines(out, rest, end=True)
                lines += [_copied(offset, bases)] if offset else []
                out.write(b">" + name.encode() + b"\n")
                rest, offset, bases = b"", out.tell(), 0
            rest = _write_lines(out, rest + piece, end=False)
            bases += len(piece)
        _write_lines(out, rest, end=True)
    return [*lines, _copied(offset, bases)]


def _copied(offset: int, bases: int) -> tuple[int, int, int]:
    width = min(bases, COPY_WIDTH)
    return offset, width, width + 1 if width else 0


def _write_lines(out: BinaryIO, bases: bytes, *, end: bool) -> bytes:
    """Write whole lines of `bases`, at the end the short last one too; returns what is left."""
    whole = len(bases) if end else len(bases) // COPY_WIDTH * COPY_WIDTH
    out.writelines(bases[i : i + COPY_WIDTH] + b"\n" for i in range(0, whole, COPY_WIDTH))
    return bases[whole:]
