"""The memory's kernels on a GPU: are they right, how fast are they, and are the goals met? One command, in a time box.

    python kernels/benchmarks/memory_gpu.py --out DIR [--minutes 10] [--quick]
    python kernels/benchmarks/memory_gpu.py --empty           results/memory_gpu.md with every cell unmeasured
    python kernels/benchmarks/memory_gpu.py --dry --out DIR   the same steps at tiny sizes on a CPU, for a test

Needs torch, triton and the folder this file is in; other people's packages are measured where they are installed. Checks come
first, and nothing is timed where one is red. Tables are written after every section, most important sections first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
if "--dry" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import gpu_checks
import gpu_peers
import gpu_report as report
import torch
import triton
from gpu_sections import SECTIONS, Bench
from gpu_timing import Deadline

RESERVE = 15
"""Seconds kept for writing and leaving."""
CHECKS, CHECKS_AT_MOST = 0.4, 0.7
"""Parts of the time that all checks may take, and those that timing depends on."""


class Verdict(NamedTuple):
    red: bool
    finished: bool
    """Whether those that timing depends on were all done."""


def main() -> int:
    options = parse()
    if options.empty:
        report.Report({"Date, GPU, versions": report.UNMEASURED}).write_markdown(Path(__file__).parent / "results")
        return 0
    device = torch.device("cpu" if options.dry else "cuda")
    if options.check:
        return check_here(options.check, device, options.dry)
    if not options.out:
        sys.exit("--out: got nothing, want a folder for the results")
    if not options.dry and not torch.cuda.is_available():
        sys.exit("a GPU: got none that torch sees, want one (or --dry)")
    deadline = Deadline(60 * options.minutes - RESERVE)
    found = report.Report(about(options, device), options.dry)
    verdict = check_all(options, found, device, deadline)
    found.write(options.out)
    if verdict.red or not verdict.finished:
        found.note(
            "Nothing is timed: "
            + ("a check is red." if verdict.red else "the checks that it depends on were not all done.")
        )
        found.write(options.out)
        return 1
    bench = Bench(found, device, deadline, tiny=options.dry, quick=options.quick)
    for section in SECTIONS:
        run_section(section, bench)
        found.write(options.out)
    print(*found.goals(), sep="\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--quick", action="store_true", help="only the checks that timing depends on, and fewer lengths"
    )
    parser.add_argument("--workers", type=int, default=6, help="processes that check, and so compile, at a time")
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--check", action="append", help=argparse.SUPPRESS)
    return parser.parse_args()


def about(options: argparse.Namespace, device: torch.device) -> dict[str, str]:
    name = "none: a dry run, times mean nothing" if options.dry else torch.cuda.get_device_name(device)
    versions = dict(torch=torch.__version__, triton=triton.__version__) | gpu_peers.versions()
    return {
        "Date": date.today().isoformat(),
        "GPU": name,
        "Versions": ", ".join(f"{package} {found}" for package, found in versions.items()),
        "Command": f"python kernels/benchmarks/memory_gpu.py {' '.join(sys.argv[1:])}",
    }


def run_section(section: Callable[[Bench], None], bench: Bench) -> None:
    """What goes wrong in one section is told and does not stop the next."""
    name = (section.__doc__ or section.__name__).splitlines()[0].rstrip(".")
    if bench.deadline.left <= 0:
        bench.report.note(f"{name}: not reached in time.")
        return
    start = time.monotonic()
    try:
        section(bench)
    except Exception as error:
        bench.report.note(f"{name}: stopped by {type(error).__name__}: {first_line(error)}")
    print(f"{name}: {time.monotonic() - start:.0f} s, {bench.deadline.left:.0f} s left", flush=True)
    bench.clean()


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


def check_here(names: list[str], device: torch.device, tiny: bool) -> int:
    """One line of JSON a check, as it is done."""
    for name in names:
        try:
            found = gpu_checks.perform(name, device, tiny)
            line = dict(found._asdict(), name=name, right=found.right)
        except torch.cuda.OutOfMemoryError as error:  # says nothing of the kernels
            print(f"{name}: not done, {first_line(error)}", file=sys.stderr, flush=True)
            continue
        except Exception as error:
            line = dict(name=name, right=False, error=float("nan"), tensor="", tolerance=0.0,
                        remark=f"{type(error).__name__}: {first_line(error)}")  # fmt: skip
        print(json.dumps(line), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 0


def check_all(options: argparse.Namespace, found: report.Report, device: torch.device, deadline: Deadline) -> Verdict:
    """In several processes at once: most of the time goes to compiling, and what they compile is then there for the timing."""
    names = [*gpu_checks.REQUIRED, gpu_checks.OTHERS[0].name] if options.dry else gpu_checks.names(options.quick)
    workers = 1 if options.dry else max(1, min(options.workers, len(names)))
    folder = options.out / "checks"
    folder.mkdir(parents=True, exist_ok=True)
    processes = []
    for i in range(workers):
        chosen = [part for name in names[i::workers] for part in ("--check", name)]
        command = [sys.executable, __file__, *(["--dry"] if options.dry else []), *chosen]
        with (folder / f"{i}.jsonl").open("w") as out, (folder / f"{i}.log").open("w") as log:
            processes.append(subprocess.Popen(command, stdout=out, stderr=log))
    whole = deadline.left
    while any(process.poll() is None for process in processes):
        done = results(folder)
        spent = 1 - deadline.left / whole
        if spent > CHECKS_AT_MOST or (spent > CHECKS and all(name in done for name in gpu_checks.REQUIRED)):
            break
        if any(not done[name]["right"] for name in gpu_checks.REQUIRED if name in done):
            break
        time.sleep(0.2)
    died = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    return verdict(found, names, results(folder), [status for status in died if status])


def results(folder: Path) -> dict[str, dict]:
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines(keepends=True)]
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return {line["name"]: line for line in found}


def verdict(found: report.Report, names: list[str], done: dict[str, dict], died: list[int]) -> Verdict:
    for name in names:
        line = done.get(name)
        if line is None:
            found.checks.append((name, "not done", ""))
            continue
        worst = f"{line['error']:.1e} of {line['tolerance']:.0e} {line['tensor']} {line['remark']}".rstrip()
        found.checks.append((name, "right" if line["right"] else "**wrong**", worst))
        print(f"{name}: {'right' if line['right'] else 'WRONG'}, {worst}", flush=True)
    if died:
        found.note(f"Checks: processes ended with status {', '.join(map(str, died))}; see checks/*.log")
    red = bool(died) or any(not line["right"] for line in done.values())
    return Verdict(red, all(name in done for name in gpu_checks.REQUIRED))


if __name__ == "__main__":
    sys.exit(main())
