"""Tokens a second and peak memory over length: our models, titans-pytorch and Transformer++, forward and forward+backward.

    pip install titans-pytorch==0.5.5
    python scripts/bench_long_context.py --out results/long_context [--threads 2] [--seconds 7200]
    python scripts/bench_long_context.py --out quick --models lmm mac full --lengths 1k 4k 16k --passes forward

Writes long_context.csv, long_context.md and long_context.png. Every measurement is a process of its own; one that passes
--memory or --seconds is ended, the table says which, and longer ones of that model are not tried. Where a model streams, one
way to the longest length marks the time and the peak at every length above --piece as it passes it: the call is the same,
repeated. --seconds holds for a whole way: 16M bases at 20,000 a second are 840 seconds. Nothing is measured unless, first,
streamed logits are those of one call and gradients in pieces are the plain ones. The same command again goes on where it
stopped. On --device cuda (untested) peaks are those of the tensors on the GPU.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch

from long_context.check import check
from long_context.child import follow
from long_context.measure import measure, streams
from long_context.models import LABELS, PEER, PEER_VERSION, PEERS, peer_version
from long_context.plot import plot
from long_context.report import PASSES, judge, name_length, write_report
from long_context.rows import Key, Row, Settings, make_row, read_rows, these_settings, write_rows
from titans_dna.config import preset_names

LENGTHS = {"forward": [4**n << 10 for n in range(8)], "backward": [4**n << 10 for n in range(6)]}
COMPARED = 2048
"""A length more for the two MACs, forward and backward: the goal's."""
LONG = 256 << 10
"""From here on once is enough."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.measure:
        name, pass_, lengths, repeats = options.measure
        limit = options.memory * 1024
        numbers = ([int(one) for one in text.split(",")] for text in (lengths, repeats))
        measure(name, pass_, *numbers, options.preset, options.piece, options.device, limit)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(Bench(options).run())
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        print(f"bench_long_context.py: error: {error}", file=sys.stderr)
        sys.exit(2)


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--out", type=Path, help="directory of the three files (wanted)")
    parser.add_argument("--models", nargs="+", choices=LABELS, default=None, help="default: all that are installed")
    parser.add_argument(
        "--passes", nargs="+", choices=PASSES, default=list(PASSES), help="backward: forward and backward"
    )
    parser.add_argument("--lengths", nargs="+", type=length, help="bases, such as 4096, 4k, 1M (1,024s); default: 1k to 1M "
                        "by fours, forward also 4M and 16M, the two MACs forward and backward also 2k")  # fmt: skip
    parser.add_argument("--piece", type=whole, default=8192, help="bases a call where a model streams (%(default)s)")
    parser.add_argument(
        "--preset", choices=preset_names(), default="small-0.1.0", help="sizes of all models (%(default)s)"
    )
    parser.add_argument("--threads", type=whole, default=torch.get_num_threads(), help="threads (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", type=above_zero, default=16.0, help="most GB of one measurement (%(default)s)")
    parser.add_argument(
        "--seconds", type=above_zero, default=300.0, help="longest time of one measurement (%(default)s)"
    )
    parser.add_argument("--repeats", type=whole, help="times each; default 3, from 256k on 1")
    parser.add_argument("--fresh", action="store_true", help="start again in place of going on")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out is None and not options.measure:
        parser.error("argument --out: got none, want a directory")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: got cuda, want cpu: torch sees no GPU here")
    if not options.measure:
        missing = peer_version() != PEER_VERSION
        asked = [name for name in options.models or () if name in PEERS]
        if missing and asked:
            parser.error(f"argument --models: got {asked[0]}, want it installed: pip install {PEER}=={PEER_VERSION}")
        if missing and options.models is None:
            print(f"{PEER} {PEER_VERSION} is not installed, and left out", file=sys.stderr)
        left = [name for name in LABELS if not (missing and name in PEERS)]
        options.models = left if options.models is None else [name for name in LABELS if name in options.models]
    return options


class Bench:
    """One run over all that is asked for; rows are kept as they come."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.settings: Settings = these_settings(options.preset, options.piece, options.device, options.threads)
        self.path: Path = options.out / "long_context.csv"
        self.rows: dict[Key, Row] = {} if options.fresh else read_rows(self.path)
        for row in self.rows.values():
            if row.settings != self.settings:
                raise ValueError(f"--out: {self.path} holds rows of {row.settings}, got {self.settings}, want the same, "
                                 "another --out, or --fresh")  # fmt: skip
        self.failed = False

    def run(self) -> int:
        self.options.out.mkdir(parents=True, exist_ok=True)
        try:
            todo = [key for key in self.keys() if not self.kept(key)]
            if todo:
                start = time.perf_counter()
                wrong = check(list(dict.fromkeys(name for name, _, _ in todo)), self.options.preset)
                if wrong:
                    print(f"nothing is measured: {wrong}", file=sys.stderr)
                    return 1
                print(
                    f"checked in {time.perf_counter() - start:.0f} s: streams and gradients are exact", file=sys.stderr
                )
            for key in self.keys():
                if not self.kept(key):
                    self.measure(*key)
        finally:
            self.report()
        return int(self.failed)

    def keys(self) -> list[Key]:
        """All that is asked for, in the order in which it is measured: models beside each other at each length."""
        keys = []
        for pass_ in self.options.passes:
            default = [*LENGTHS[pass_], COMPARED] if pass_ == "backward" else LENGTHS[pass_]
            for length in sorted(set(self.options.lengths or default)):
                for name in self.options.models:
                    if self.options.lengths or length != COMPARED or name in ("mac", "peer-mac"):
                        keys.append((name, pass_, length))
        return keys

    def kept(self, key: Key) -> bool:
        row = self.rows.get(key)
        if row is None or row.status == "failed":
            return False
        if row.status == "ok":
            return row.repeats >= self.repeats(key[2])
        return (row.memory_limit, row.seconds_limit) == (self.options.memory, self.options.seconds)

    def repeats(self, length: int) -> int:
        return self.options.repeats or (1 if length >= LONG else 3)

    def measure(self, name: str, pass_: str, length: int) -> None:
        """Measure one length, or all that lie on the same way, and keep the rows."""
        stopped = [row for row in self.rows.values() if (row.model, row.pass_) == (name, pass_) and self.kept(row.key)
                   and row.status.startswith("over") and row.length < length]  # fmt: skip
        if stopped:
            self.keep((name, pass_, length), [], stopped[0].status)
            return
        lengths = [length]
        if streams(name, pass_, length, self.options.piece):
            same = [key[2] for key in self.keys() if key[:2] == (name, pass_) and not self.kept(key)]
            lengths = [one for one in same if one >= length]
        marks: dict[int, list[dict[str, Any]]] = {one: [] for one in lengths}
        status = "failed"
        for message in follow(self.command(name, pass_, lengths), self.limit(), self.options.seconds):
            if "length" in message:
                found = marks[message["length"]]
                found.append(message)
                if len(found) == self.repeats(message["length"]):
                    self.keep((name, pass_, message["length"]), found, "ok")
            elif "at" in message:
                print(f"{PASSES[pass_].lower()}, {LABELS[name]}: at {message['at']:,} bases", file=sys.stderr)
            elif "over" in message:
                memory = message["over"] == "memory"
                status = f"over {self.options.memory:g} GB" if memory else f"over {self.options.seconds:g} s"
            else:
                print(f"{name}, {pass_}: {message['failed']}", file=sys.stderr)
        for one, found in marks.items():
            if len(found) < self.repeats(one):
                self.keep((name, pass_, one), found, "ok" if found else status)

    def limit(self) -> float:
        """Of resident memory; on a GPU the limit is on the tensors there, and the process sees to it."""
        return self.options.memory * 1024 if self.options.device == "cpu" else float("inf")

    def command(self, name: str, pass_: str, lengths: list[int]) -> list[str]:
        options = self.options
        given = {"piece": options.piece, "preset": options.preset, "threads": options.threads,
                 "device": options.device, "memory": options.memory}  # fmt: skip
        flags = [part for flag, value in given.items() for part in (f"--{flag}", str(value))]
        lists = (",".join(map(str, numbers)) for numbers in (lengths, map(self.repeats, lengths)))
        return [sys.executable, __file__, *flags, "--measure", name, pass_, *lists]

    def keep(self, key: Key, marks: list[dict[str, Any]], status: str) -> None:
        row = make_row(key, marks, status, (self.options.memory, self.options.seconds), self.settings)
        self.failed |= status == "failed"
        self.rows[key] = row
        write_rows(self.path, self.rows)
        found = status if row.rate is None else f"{row.rate:,.0f} tokens/s, peak {row.peak:,.0f} MB"
        print(f"{PASSES[key[1]].lower()}, {LABELS[key[0]]}, {name_length(key[2])}: {found}", file=sys.stderr)

    def report(self) -> None:
        if not self.rows:
            return
        goals = judge(self.rows)
        write_report(self.options.out / "long_context.md", self.rows, self.settings, goals)
        plot(self.options.out / "long_context.png", self.rows)
        print("\n".join(goals))


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a whole number, at least 1")
    return int(text)


def length(text: str) -> int:
    unit = {"k": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
    digits = text[:-1] if unit > 1 else text
    if not digits.isdecimal() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, want bases, such as 4096, 4k or 1M")
    return int(digits) * unit


def above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"got {text!r}, want a number above 0")
    return value


if __name__ == "__main__":
    main()
