"""Compiles every kernel for every target, on a machine without a device, and compares what each takes with the table.

    python kernels/aot/compile.py                 status 1 where a limit is passed or a figure is not the table's
    python kernels/aot/compile.py --write         write the table anew; status 1 where a limit is passed
    python kernels/aot/compile.py --more          also the cases that take long and are not in the table

Columns and limits: README.md beside this file.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # of this process: it is compiled here, whatever tests elsewhere need
sys.path.insert(0, str(Path(__file__).parents[1]))

import triton
from launches import CASES, Case, record
from resources import TARGETS, resources

TABLE = Path(__file__).with_name("resources.csv")
WITHOUT_SPILLS = ("sm_100", "gfx942")
"""Where the default configurations do not spill; elsewhere some do, by what the table says. On sm_90 they were timed."""
COLUMNS = (
    "case", "kernel", "target", "block", "warps", "stages", "registers", "spills", "shared", "matrix", "triton"
)  # fmt: skip
Row = dict[str, str]


def main() -> int:
    options = _options()
    cases = [case for case in CASES if (case.name in options.case if options.case else options.more or not case.more)]
    targets = [target for target in TARGETS if not options.target or target in options.target]
    found = sorted(compile_all(cases, targets, options.jobs), key=_place)
    faults = [fault for row in found for fault in limits(row)]
    if options.write:
        kept = [row for row in _read(options.table) if _key(row) not in {_key(x) for x in found}]
        whole = {case.name for case in cases}, set(targets)
        kept = [row for row in kept if not (row["case"] in whole[0] and row["target"] in whole[1])]
        _write(options.table, sorted(kept + found, key=_place))
    else:
        faults += differences(found, _read(options.table), cases, targets)
    for fault in faults:
        print(fault)
    print(
        f"{len(found)} kernels compiled, {len(faults)} faults" if faults else f"{len(found)} kernels compiled, all well"
    )
    return 1 if faults else 0


def compile_all(cases: list[Case], targets: list[str], jobs: int) -> Iterator[Row]:
    """Rows in any order; progress goes to the standard error stream."""
    tasks = [(case, target) for case in cases for target in targets]
    begun = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(compile_case, *task): task for task in tasks}
        for done, future in enumerate(as_completed(waiting), 1):
            case, target = waiting[future]
            yield from future.result()
            passed = time.monotonic() - begun
            left = passed / done * (len(tasks) - done)
            print(f"{done}/{len(tasks)} {case.name} {target}: {passed:.0f} s, about {left:.0f} s left", file=sys.stderr)


def compile_case(case: Case, target: str) -> list[Row]:
    chosen = TARGETS[target]
    rows = []
    for one in record(case, chosen.family, chosen.gpu.warp_size):
        took = resources(one, chosen)
        launched = (one.options["num_warps"], one.options["num_stages"])
        values = (case.name, one.name, target, one.block, *launched, *took, triton.__version__)
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    return rows


def limits(row: Row) -> Iterator[str]:
    """What no kernel may do, whatever the table says."""
    case, target = next(x for x in CASES if x.name == row["case"]), TARGETS[row["target"]]
    where = _where(row)
    if int(row["shared"]) > target.shared:
        yield f"{where}: shared memory: got {row['shared']} bytes, want at most {target.shared}"
    if case.default and row["target"] in WITHOUT_SPILLS and int(row["spills"]):
        yield f"{where}: spills: got {row['spills']} bytes a thread, want 0 in a default configuration"
    products = row["kernel"].startswith(("read", "write")) and case.dtype.itemsize == 2
    own, wide = "HGMMA" in row["matrix"], case.key == case.chunk == 64
    if row["target"] == "sm_90 wgmma" and wide and products and not own:
        yield f"{where}: matrix instructions: got {row['matrix']}, want HGMMA"
    if row["target"] == "sm_90" and own:
        yield f"{where}: matrix instructions: got {row['matrix']}, want none that assemblers before 13.3 get wrong"


def differences(found: list[Row], table: list[Row], cases: Iterable[Case], targets: Iterable[str]) -> Iterator[str]:
    """Where the table of another Triton is compared with, only its rows."""
    names, targets = {case.name for case in cases}, set(targets)
    want = {_key(row): row for row in table if row["case"] in names and row["target"] in targets}
    for row in found:
        known = want.pop(_key(row), None)
        if known is None:
            yield f"{_where(row)}: not in the table; write it anew with --write"
        elif known["triton"] == row["triton"]:
            for column in COLUMNS[3:-1]:
                if row[column] != known[column]:
                    yield f"{_where(row)}: {column}: got {row[column]}, want the table's {known[column]}"
    for row in want.values():
        yield f"{_where(row)}: in the table, but not compiled; write it anew with --write"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compile every kernel for every target and compare with the table.")
    parser.add_argument("--write", action="store_true", help="write the table anew, or the rows of --case and --target")
    parser.add_argument("--more", action="store_true", help="all cases")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this; repeatable")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this; repeatable")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--table", type=Path, default=TABLE, help="another table")
    return parser.parse_args()


def _key(row: Row) -> tuple[str, str, str]:
    return row["case"], row["kernel"], row["target"]


def _place(row: Row) -> tuple[int, int, str]:
    names = [case.name for case in CASES]
    return names.index(row["case"]) if row["case"] in names else -1, list(TARGETS).index(row["target"]), row["kernel"]


def _where(row: Row) -> str:
    return f"{row['case']} {row['kernel']} {row['target']}"


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[Row]) -> None:
    beside = path.with_suffix(".tmp")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main())
