"""Names of sequences in one file to the contigs of a genome, where the two files name them a little differently."""

from __future__ import annotations

import re

from titans_dna.genome.genome import Genome, known_names

_VERSION = re.compile(r"\.\d+$")


class ContigNames:
    """Finds the contig that a name means.

    That is the contig of this very name; else the only one whose name is the same but for a version that one of the two
    lacks (`U00096`, `U00096.3`), for `chr` in front, or for the other fields of a name with `|`
    (`gi|9626243|ref|NC_001416.1|`). Two different versions are never the same: their coordinates differ.
    """

    def __init__(self, genome: Genome) -> None:
        self._genome = genome
        self._known: dict[str, str] = {}
        self._contigs_of: dict[str, set[str]] = {}
        for contig in genome.contigs:
            for key in map(_without_version, _fields(contig)):
                self._contigs_of.setdefault(key, set()).add(contig)

    def find(self, name: str) -> str:
        """The contig; ValueError where there is none or more than one."""
        if name in self._genome.contigs:
            return name
        if name not in self._known:
            self._known[name] = self._search(name)
        return self._known[name]

    def _search(self, name: str) -> str:
        alike = (self._contigs_of.get(_without_version(field), set()) for field in _fields(name))
        found = {contig for contig in set().union(*alike) if _agree(name, contig)}
        if len(found) > 1:
            raise ValueError(
                f"contig {name!r} may be any of {', '.join(map(repr, sorted(found)))}, want the exact name"
            )
        if not found:
            files = ", ".join(map(str, self._genome.paths))
            raise ValueError(f"contig {name!r} is not in {files}, which has {known_names(self._genome.contigs)}")
        return found.pop()


def _fields(name: str) -> set[str]:
    """A plain name itself; of `gi|9626243|ref|NC_001416.1|` the fields with a digit, which names of databases lack."""
    fields = [field for field in name.split("|") if re.search(r"\d", field)] if "|" in name else [name]
    return {field.removeprefix("chr") for field in fields} - {""}


def _without_version(field: str) -> str:
    return _VERSION.sub("", field)


def _agree(name: str, contig: str) -> bool:
    """Whether a field of one is a field of the other, but for a version that one of the two lacks."""
    return any(
        one == other or _without_version(one) == other or one == _without_version(other)
        for one in _fields(name)
        for other in _fields(contig)
    )
