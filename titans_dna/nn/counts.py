"""Counted continuations: what followed the last k bases wherever these stood in a sequence, on both strands, for any k to 24.

Every base that has 24 others before it is an occurrence, filed under what it is and under the 24, the newest first. So the
occurrences behind any k bases lie side by side, and their number is the distance of two places. Places of the first `depth`
letters are a table; the rest is found by bisection.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from titans_dna.run.files import replacing
from titans_dna.tokens.vocabulary import as_bytes, base_digits

TOP = 24
"""Letters under which an occurrence is filed."""
ORDERS = (2, 4, 6, 8, 10, 11, 12, 14, 16, 18, 20, 24)
"""Numbers of bases that a model asks for, unless told otherwise."""
_FORMAT = {"format": "titans-dna counts", "version": "1"}
_BLOCK = 1 << 18
"""Bases that are worked on at once."""
_OCCURRENCE = 8 + 4
"""Bytes of an occurrence while it is filed: the whole word, and what is kept of it."""
_WORD = 4 * 4
"""Bytes of a word of the table: a place for each base."""
_BESIDE = 64e6
"""Bytes of what a block is worked on with."""


class Counts:
    """Occurrences: `places` int32 or int64 [4 · 4^depth + 1], `rest` int32 [n]; of base b behind the word w of `depth` letters,
    newest first, they are rest[places[b · 4^depth + w] : places[b · 4^depth + w + 1]], the remaining letters, in order."""

    def __init__(self, places: Tensor, rest: Tensor, of: str = "", digest: str = "") -> None:
        """of: what was counted, in any words. digest: of the counts, where it is known."""
        self.places, self.rest, self.of = places, rest, of
        self.digest = digest or _digest(places, rest)
        self.depth = (len(places) - 1).bit_length() // 2 - 1

    @property
    def occurrences(self) -> int:
        """Number of them, both strands together."""
        return len(self.rest)

    def __deepcopy__(self, memo: object) -> Counts:
        return self  # it never changes

    def to(self, device: torch.device) -> Counts:
        """The same on a device."""
        if self.rest.device == device:
            return self
        return Counts(self.places.to(device), self.rest.to(device), self.of, self.digest)

    @classmethod
    def fit(
        cls,
        sequences: Iterable[bytes | str],
        of: str = "",
        bases: int = 0,
        depth: int = 0,
        progress: Callable[[float], object] = lambda bases: None,
    ) -> Counts:
        """Count sequences, on both strands, in one pass; case is ignored, U is T, and nothing is seen across another letter.

        bases: how many there are, where that is known, which saves copies. depth: letters of the table; 0: as many as suit the
        number of bases. Raises ValueError where nothing can be counted.
        """
        filed, n = np.empty(2 * bases, np.uint64), 0
        for sequence in sequences:
            for found in _words(as_bytes(sequence), progress):
                if n + len(found) > len(filed):
                    filed = np.concatenate([filed[:n], np.empty(n + 2 * _BLOCK, np.uint64)])
                filed[n : n + len(found)] = found
                n += len(found)
        if not n:
            raise ValueError(f"sequences: got no base with {TOP} others before it, want some to count")
        filed = filed[:n]
        filed.sort()
        depth = depth or depth_for(n)
        low = np.uint64(2 * (TOP - depth))
        places = np.zeros(4 * 4**depth + 1, np.int32 if n < 2**31 else np.int64)
        rest = np.empty(n, np.int32)
        for start in range(0, n, _BLOCK):
            part = filed[start : start + _BLOCK]
            rest[start : start + _BLOCK] = part & np.uint64(4 ** (TOP - depth) - 1)
            words = (part >> low).view(np.int64)
            first = int(words[0])
            found = np.bincount(words - first)
            places[first + 1 : first + 1 + len(found)] += found.astype(places.dtype)
        np.cumsum(places, out=places)
        return cls(torch.from_numpy(places), torch.from_numpy(rest), of)

    def look(self, letters: Tensor, orders: Iterable[int], count: int, place: Tensor | None = None) -> Tensor:
        """How often A, C, G and T followed the last k letters.

        letters: A 0, C 1, G 2, T 3, else 4, [b, at least count + longest order - 1]; of the last `count` of them, each with
        those before it; place [1, count]: how many of these belong to it, where it is not all of them. Returns int64
        [b, count, orders, 4], 0 where one of the k is no base.
        """
        orders, device = list(orders), letters.device
        window = torch.nn.functional.pad(letters, (TOP, 0), value=4)[:, -(count + TOP - 1) :]
        code = torch.zeros(len(letters), count, dtype=torch.int64, device=device)
        held = torch.zeros_like(code)  # how many of the last letters are bases
        going = torch.ones_like(code, dtype=torch.bool)
        for back in range(max(orders)):
            one = window[:, TOP - 1 - back : TOP - 1 - back + count]
            going = going & (one < 4)
            held += going
            code |= (one & 3) << 2 * (TOP - 1 - back)
        if place is not None:
            held = torch.minimum(held, place + 1)
        base = torch.arange(4, device=device) * 4**self.depth
        low = 2 * (TOP - self.depth)
        found = torch.zeros(len(letters), count, len(orders), 4, dtype=torch.int64, device=device)
        inside = (code & (4 ** (TOP - self.depth) - 1))[..., None]
        begin = end = None
        for number in sorted(range(len(orders)), key=lambda number: orders[number]):
            k = orders[number]
            if k <= self.depth:
                word = code >> 2 * (TOP - k)
                first = base + (word << 2 * (self.depth - k))[..., None]
                start, stop = self.places[first].long(), self.places[first + 4 ** (self.depth - k)].long()
            else:
                if begin is None or end is None:
                    first = base + (code >> low)[..., None]
                    begin, end = self.places[first].long(), self.places[first + 1].long()
                smallest = inside & -(4 ** (TOP - k))
                begin, end = _bisect(self.rest, begin, end, smallest, smallest + 4 ** (TOP - k))
                start, stop = begin, end
            found[:, :, number] = torch.where((held >= k)[..., None], stop - start, 0)
        return found

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, which appears whole or not at all; one that holds the same stays."""
        if Path(path).is_file():
            with suppress(ValueError), _opened(path) as (_, about):
                if about["digest"] == self.digest:
                    return
        with replacing(path) as aside:
            aside.touch()
            mode = aside.stat().st_mode
            # One entry of metadata: the library writes several in any order.
            about = {"about": json.dumps({**_FORMAT, "of": self.of, "digest": self.digest})}
            save_file({"places": self.places.cpu(), "rest": self.rest.cpu()}, aside, about)
            aside.chmod(mode)  # the library lets nobody else read it

    @classmethod
    def load(cls, path: str | Path) -> Counts:
        """What `save` wrote. Raises FileNotFoundError, and ValueError naming a file that is cut short, altered or something
        else."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file, want counts, as titans-dna pretrain --counts writes them")
        with _opened(path) as (file, about):
            counts = cls(file.get_tensor("places"), file.get_tensor("rest"), about["of"])
        if counts.digest != about["digest"]:
            raise ValueError(f"{path}: damaged: its bytes are not those that were written")
        return counts


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """The file, and what it says of itself."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            if {key: about.get(key) for key in _FORMAT} != _FORMAT:
                raise ValueError(
                    f"{path}: holds something else, want counts, as titans-dna pretrain --counts writes them"
                )
            yield file, about
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: truncated or damaged: {' '.join(str(error).split())}") from None


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for one in tensors:
        digest.update(one.cpu().numpy().data)
    return digest.hexdigest()


def depth_for(occurrences: int) -> int:
    """Letters of a table of at most as many places as there are occurrences; the other letters must fit into 31 bits."""
    return min(max((occurrences.bit_length() - 1) // 2 - 1, 9), 12)


def counting_bytes(bases: int) -> float:
    """Memory that counting so many bases takes, at its highest."""
    return 2 * bases * _OCCURRENCE + _WORD * 4 ** depth_for(2 * bases) + _BESIDE


def check_counting(bases: int) -> None:
    """ValueError where counting so many bases takes more memory than this machine has."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if counting_bytes(bases) > there:
        raise ValueError(
            f"--counts: got {bases:,} bases to count, which takes {counting_bytes(bases) / 1e9:,.1f} GB, want what fits "
            f"into the {there / 1e9:,.1f} GB of this machine, such as the intervals of a --bed"
        )


def _words(letters: bytes | bytearray, progress: Callable[[float], object]) -> Iterable[np.ndarray]:
    """Of every base with TOP others before it, on either strand: what it is, then those, the newest first; uint64."""
    for start in range(0, len(letters), _BLOCK):
        digits = base_digits(letters[max(start - TOP, 0) : start + _BLOCK])
        if len(digits) > TOP:
            bad = np.append(0, np.cumsum(digits > 3))
            known = bad[TOP + 1 :] == bad[: -TOP - 1]
            # A stretch of 25 letters s: the last of them behind the others; on the other strand, the complement of the first.
            for stretch in (digits & 3, 3 - (digits[::-1] & 3)):
                yield _filed(stretch)[known]
                known = known[::-1]
        progress(min(_BLOCK, len(letters) - start))


def _filed(digits: np.ndarray) -> np.ndarray:
    """Of each stretch of TOP + 1 digits, uint8 [n]: the last, then the others from the last but one to the first, uint64
    [n - TOP]; in half the time of `tokens.kmers.kmer_codes` the other way round."""
    power, size, taken, n, k = digits, 1, 0, len(digits) - TOP, TOP + 1
    code = np.zeros(n, np.uint64)
    while True:  # power[j]: of the `size` digits from j on, the last first
        if k & size:
            code |= power[taken : taken + n].astype(np.uint64) << np.uint64(2 * taken)
            taken += size
        if taken == k:
            return code
        kind = np.dtype(f"u{max(size // 2, 1)}")  # no wider than it must be: quicker
        upper = power[size:].astype(kind)
        upper <<= kind.type(2 * size)
        upper |= power[:-size]
        power, size = upper, 2 * size


def _bisect(rest: Tensor, begin: Tensor, end: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """First places in rest[begin:end] of what is at least `low`, and of what is at least `high`; begin and end are
    [b, t, 4], low and high [b, t, 1]."""
    wanted = torch.stack([low.expand_as(begin), high.expand_as(begin)])
    left, right = begin.expand(2, *begin.shape).clone(), end.expand(2, *end.shape).clone()
    for _ in range(int((end - begin).max()).bit_length() if begin.numel() else 0):
        middle = (left + right) >> 1
        below = (rest[middle.clamp(max=len(rest) - 1)] < wanted) & (left < right)
        left, right = torch.where(below, middle + 1, left), torch.where(below, right, middle)
    return left[0], left[1]


def leave_out(counts: Tensor, own: Tensor) -> Tensor:
    """Counts [b, t, orders, 4] without one occurrence of the base `own` [b, t] (0 to 3, else none) behind each."""
    mine = torch.nn.functional.one_hot(own.clamp(max=4).long(), 5)[..., :4]
    return (counts - mine[:, :, None]).clamp(min=0)
