"""Sizes as people write them: 250k, 1M, 3.1Gb, 1Mi bases; 80GB, 16GiB of memory. And the way back."""

from __future__ import annotations

import re

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bases(text: str, flag: str) -> int:
    """A number of bases: 1048576, 1,048,576, 250k, 1M, 1Mb, 3.1 Gbp (thousands), or 1Mi (1,048,576).

    Raises ValueError naming the flag for anything else, and for less than one base.
    """
    return _parse(text, flag, "b|bp|bases", "a number of bases, such as 250k, 1M, 3.1Gb, 1048576 or 1Mi")


def parse_bytes(text: str, flag: str) -> int:
    """An amount of memory: 80GB (thousands), 16GiB (1,024 each), 500M. Raises ValueError naming the flag."""
    return _parse(text, flag, "b|bytes", "an amount of memory, such as 80GB, 16GiB or 500MB")


def show_bases(n: int) -> str:
    """1,048,576, and 3.1 G from ten millions on."""
    return f"{n:,}" if n < 10**7 else _short(n, "")


def show_bytes(n: float) -> str:
    """Three digits and a unit of thousands: 4.12 GB."""
    return _short(n, "B")


def show_time(seconds: float) -> str:
    """A duration in the unit that suits it: 0.31 s, 12 min, 5.0 h, 19 days."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"), (63_072_000, 86_400, "days")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}" if seconds / unit < 10 else f"{seconds / unit:,.0f} {name}"
    return f"{seconds / 31_557_600:,.0f} years"


def _parse(text: str, flag: str, unit: str, wanted: str) -> int:
    found = re.fullmatch(rf"([0-9][0-9_,]*\.?[0-9]*)\s*([kmgt]?)(i?)({unit})?", text.strip(), re.IGNORECASE)
    if not found or (found[3] and not found[2]):
        raise ValueError(f"{flag}: got {text!r}, want {wanted}")
    number = float(re.sub("[_,]", "", found[1])) * (1024 if found[3] else 1000) ** _POWERS[found[2].lower()]
    if not 1 <= number < 1e18:
        raise ValueError(f"{flag}: got {text!r}, want {wanted}, from 1 to 10^18")
    return round(number)


def _short(n: float, unit: str) -> str:
    for power, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= power:
            return f"{n / power:.3g} {name}{unit}"
    return f"{n:.0f} {unit}".rstrip()
