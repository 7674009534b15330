"""`titans-dna plan`: calibrate, choose, print."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

import torch

from titans_dna.planning.calibrate import Calibration, calibrate, on_gpu, rough
from titans_dna.planning.estimate import modes_of, search
from titans_dna.planning.options import PlanOptions
from titans_dna.planning.probe import machine_memory
from titans_dna.planning.report import as_dict, as_text
from titans_dna.run.device import choose_device
from titans_dna.run.progress import Progress


def plan(options: PlanOptions) -> int:
    """Print what a run will need; returns the exit status: 0, or 1 where nothing fits or the calibration failed."""
    device, other = _device(options)
    available, _ = machine_memory(device)
    memory = options.memory or available
    try:
        calibration = _calibration(options, device, memory)
    except RuntimeError as error:
        print(f"titans-dna: {error}; --no_calibration plans without one", file=sys.stderr)
        return 1
    if other and options.flags.accelerator == "cuda":
        calibration = on_gpu(calibration)
    found = search(options, calibration, memory)
    if options.flags.json:
        print(json.dumps(as_dict(options, calibration, found, memory, other), indent=2))
    else:
        print(as_text(options, calibration, found, memory, other))
    return 0 if found.fits else 1


def _device(options: PlanOptions) -> tuple[str, str]:
    """The device to run on here, and what to say where the plan is for another one."""
    wanted = options.flags.accelerator
    if wanted == "cuda" and not torch.cuda.is_available():
        return "cpu", "extrapolated to a GPU, which is not here: its kernels keep other things, and its time is unknown"
    device = choose_device(wanted)
    if options.memory > machine_memory(device)[1]:
        return device, "extrapolated to another machine, with more memory: its time is unknown"
    return device, ""


def _calibration(options: PlanOptions, device: str, memory: float) -> Calibration:
    modes = modes_of(options, memory)
    if options.flags.no_calibration:
        return rough(options.config, modes, device)
    with ExitStack() as stack:
        bar: Progress | None = None

        def progress(done: int, of: int) -> None:
            nonlocal bar
            bar = bar or stack.enter_context(Progress("plan", of, unit=" measurements"))
            bar.add(done - bar.done)

        return calibrate(options.config, modes, options.length, device, options.flags.threads, progress=progress)
