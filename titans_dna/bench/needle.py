"""Needle in a genome: `titans-dna bench needle`."""

from __future__ import annotations

from titans_dna.bench.needle_options import NeedleOptions


def bench_needle(options: NeedleOptions, resume: bool = False) -> str:
    """Train and test every model of the options, and return the table of `needle.md`."""
    raise ValueError(f"bench needle: got {options.run.out}, {resume}: being written")
