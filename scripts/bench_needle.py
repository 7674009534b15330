"""The needle benchmark from the shell: `needle.options` says what it does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from needle.options import NeedleOptions
from titans_dna.run.commandline import parse
from titans_dna.run.signals import ended


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with these arguments, by default the process's; ends with SystemExit, as `titans-dna` does."""
    given = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(ended(lambda: _run(given), "bench_needle.py"))


def _run(arguments: Sequence[str]) -> int:
    options = parse(NeedleOptions, arguments, verb="bench needle", program="python scripts/bench_needle.py")
    from needle.run import bench_needle  # which brings torch along

    print(bench_needle(options, resume=options.run.resume))
    return 0


if __name__ == "__main__":
    main()
