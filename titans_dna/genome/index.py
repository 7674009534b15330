"""The cache directory: an index and digests per sequence file, and a clean copy where it cannot be read in place."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pyfaidx import Faidx

from titans_dna.genome.records import RecordReader
from titans_dna.run.files import replacing

LAYOUT = 1
COPY_WIDTH = 1 << 16


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
    key = hashlib.sha256(repr((LAYOUT, str(source), stamp)).encode()).hexdigest()[:20]
    name = f"{source.name[:80]}.{key}"
    folders = _folders(cache_dir)
    for folder in folders:
        if found := _cached(source, folder / name):
            return found
    entry = _writable(folders) / name
    _build(reader, source, entry)
    found = _cached(source, entry)
    if found is None or _stamp(source) != stamp:
        raise OSError(f"{path}: changed while it was being read; open it again")
    return found


def _folders(cache_dir: str | Path | None) -> list[Path]:
    """The cache directory; by default a second one too, for a home that is absent or read-only."""
    if cache_dir is not None:
        return [Path(cache_dir).expanduser()]
    home = os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return [Path(home) / "titans_dna", Path(tempfile.gettempdir()) / f"titans_dna-{user}"]


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
        known = json.loads(record.read_text(encoding="utf-8"))
        fasta = copy if known["copied"] else source
        stamp = _stamp(fasta)
        if (stamp[0], index.stat().st_size) != (known["fasta_size"], known["index_size"]):
            return None
        return IndexedFasta(fasta, index, stamp, known["contigs"], known["digests"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(reader: RecordReader, source: Path, entry: Path) -> None:
    contigs, digests = _scan(reader)
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
        "index_size": index.stat().st_size,
        "contigs": contigs,
        "digests": digests,
    }
    with replacing(record) as aside:
        aside.write_text(json.dumps(known), encoding="utf-8")


def _scan(reader: RecordReader) -> tuple[dict[str, int], dict[str, str]]:
    contigs: dict[str, int] = {}
    hashes = {}
    name = ""
    for found, piece in reader:
        if found is not None:
            name = found
            if name in contigs:
                raise ValueError(f"{reader.path}: two records are named {name!r}, want each name once")
            contigs[name], hashes[name] = 0, hashlib.blake2b(digest_size=16)
        contigs[name] += len(piece)
        hashes[name].update(piece)
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
