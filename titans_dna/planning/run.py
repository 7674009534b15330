"""`titans-dna plan`: calibrate, choose, and print a plan for people or for scripts."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from contextlib import ExitStack
from typing import Any

import torch

from titans_dna.config import TitansConfig
from titans_dna.planning.calibrate import Calibration, calibrate, on_gpu, rough
from titans_dna.planning.estimate import SHARE, Found, modes_of, search
from titans_dna.planning.options import PlanOptions, show_bases, show_bytes, show_time
from titans_dna.planning.probe import machine_memory
from titans_dna.run.device import choose_device
from titans_dna.run.progress import Progress, say


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
    if busy := load(options.flags.threads):
        say(busy)
    with ExitStack() as stack:
        bar: Progress | None = None

        def progress(done: int, of: int) -> None:
            nonlocal bar
            bar = bar or stack.enter_context(Progress("plan", of, unit=" measurements"))
            bar.add(done - bar.done)

        return calibrate(options.config, modes, options.length, device, options.flags.threads, progress=progress)


def load(threads: int) -> str:
    """In words, that other processes leave a run too few of the cores; nothing where they do not."""
    cores, taken = os.cpu_count() or 1, os.getloadavg()[0]
    wanted = threads or cores
    if taken < cores - wanted + 1:
        return ""
    return f"the machine is busy (load {taken:.1f} on {cores} cores): the times found here are those of a busy machine"


PARTS = ("process", "parameters", "activations", "states", "ids")


def as_dict(options: PlanOptions, calibration: Calibration, found: Found, memory: float, other: str) -> dict[str, Any]:
    """The plan in plain values; a time that is not known is None."""
    settings, expected = found.settings, found.estimate
    speed = expected.bases_per_second * options.flags.devices
    known = not other and math.isfinite(speed)
    return {
        "model": {"preset": options.flags.preset, "variant": options.config.architecture},
        "parameters": calibration.parameters,
        "source": calibration.source,
        "calibration_seconds": round(calibration.seconds, 1),
        "other_device": other or None,
        "settings": {
            "length": settings.length,
            "piece": 0 if settings.at_once == settings.length and not settings.read else settings.at_once,
            "batch_size": settings.batch_size,
            "accumulate": settings.accumulate,
            "activation_checkpointing": settings.again,
            "devices": options.flags.devices,
        },
        "memory_bytes": {
            **{name: round(getattr(expected, name)) for name in (*PARTS, "training", "report", "peak")},
            "state": round(calibration.state),
            "available": round(memory),
            "limit": round(SHARE * memory),
        },
        "fits": found.fits,
        "bases_per_second": speed if known else None,
        "seconds_per_step": expected.seconds_per_step if known else None,
        "seconds": options.bases / speed if known and options.bases else None,
        "command": command(options, found),
    }


def as_text(options: PlanOptions, calibration: Calibration, found: Found, memory: float, other: str) -> str:
    """The plan in words."""
    plan = as_dict(options, calibration, found, memory, other)
    settings, expected, devices = found.settings, found.estimate, options.flags.devices
    read = settings.read
    lines = [
        f"model: {options.flags.preset}, {options.config.architecture}, {calibration.parameters:,} parameters; "
        f"its state {show_bytes(calibration.state)} a sequence",
        f"figures: {calibration.source}{'; ' + other if other else ''}",
        f"{'reading' if read else 'training'}: {show_bases(settings.length)} bases "
        f"{'a sequence' if read else 'a window'}, {_batch(settings.batch_size, settings.accumulate, devices)}",
        f"settings: {_settings(found)}",
        f"memory{' of each device' if devices > 1 else ''}: {show_bytes(expected.peak)} at most, "
        f"{'within' if found.fits else 'MORE THAN'} {show_bytes(SHARE * memory)} (90 % of {show_bytes(memory)})",
    ]
    notes = {
        "process": "the process and its libraries",
        "parameters": "weights" if read else "weights, gradients, moments",
        "activations": f"activations of {'a window' if settings.at_once == settings.length else 'a piece'}",
        "states": "the state" if read else f"states at {settings.borders:,} borders",
        "ids": "token ids" if read else "token ids and loss weights",
    }
    lines += [f"  {show_bytes(getattr(expected, name)):>8}  {notes[name]}" for name in PARTS]
    if expected.report:
        lines += [f"  {show_bytes(expected.report):>8}  in all at the end, while the Markov models are fitted"]
        lines += ["  beside it: one byte for each base of a genome below 512 M bases"]
    lines.append(f"time: {_time(plan, options, read)}")
    if devices > 1:
        lines.append("devices: data parallel, each with its own windows and all of the model; time assumes no waiting")
    if not found.fits:
        lines.append(f"nothing fits: these are the smallest settings, and need {show_bytes(expected.peak / SHARE)}")
    lines.append(f"command: {plan['command']}")
    return "\n".join(lines)


def command(options: PlanOptions, found: Found) -> str:
    """The line to run, GENOME and DIR to be filled in."""
    settings, flags = found.settings, options.flags
    if settings.read and settings.batch_size == 1:
        words = ["titans-dna", "remember", "--model", "DIR", "--fasta", "GENOME", "--out", "STATE"]
        return " ".join([*words, "--piece", str(settings.at_once)])
    if settings.read:
        words = ["titans-dna", "embed", "--model", "DIR", "--fasta", "GENOME", "--out", "vectors.npy"]
        return " ".join([*words, "--batch_size", str(settings.batch_size), "--piece", str(settings.at_once)])
    words = ["titans-dna", "pretrain", "--fasta", "GENOME", "--preset", flags.preset]
    preset = TitansConfig.preset(flags.preset).to_dict()
    mixers = options.config.mixers
    means_something = not mixers or "memory" in mixers
    for name, value in options.config.to_dict().items():
        if means_something if name == "variant" else value != preset[name]:
            values = map(str, value) if isinstance(value, list) else [str(value)]
            words += [f"--{name}" if name == "variant" else f"--model.{name}", *values]
    words += ["--context", str(settings.length), "--batch_size", str(settings.batch_size)]
    words += ["--accumulate", str(settings.accumulate)] if settings.accumulate > 1 else []
    words += ["--piece", str(settings.piece)] if settings.borders else []
    words += ["--activation_checkpointing"] if settings.again else []
    words += ["--devices", str(flags.devices), "--strategy", "ddp"] if flags.devices > 1 else []
    words += ["--threads", str(flags.threads)] if flags.threads else []
    return shlex.join([*words, "--out", "DIR"])


def _batch(rows: int, accumulate: int, devices: int) -> str:
    text = f"{rows} side by side"
    text += f", {accumulate} batches a step" if accumulate > 1 else ""
    return text + (f", on each of {devices} devices" if devices > 1 else "")


def _settings(found: Found) -> str:
    settings = found.settings
    whole = settings.at_once == settings.length
    text = "the whole window at once" if whole else f"pieces of {settings.at_once:,} bases"
    if settings.read:
        return text.replace("window", "sequence")
    return f"{text}, activation checkpointing {'on' if settings.again else 'off'}"


def _time(plan: dict[str, Any], options: PlanOptions, read: bool) -> str:
    if plan["bases_per_second"] is None:
        return "not known for that device" if plan["other_device"] else "not known: nothing was run"
    text = f"{plan['bases_per_second']:,.0f} bases a second"
    text += f", {show_time(plan['seconds_per_step'])} {'a call of these sequences' if read else 'an optimiser step'}"
    if plan["seconds"] is not None:
        text += f", {show_time(plan['seconds'])} for {show_bases(options.bases)} bases"
    return text
