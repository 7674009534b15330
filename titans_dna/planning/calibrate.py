"""What a model takes, from a short run of it: bytes a base, bytes a state, seconds a base."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.planning.probe import BORDERS, Task, held_bytes, unit_of

MODES = {"train": ("whole", "pieces", "again", "whole-again"), "read": ("read",)}
SECONDS = 40.0
"""What the measurements may take, about; starting the process comes on top."""
LONGEST = 150.0
"""Seconds after which it is given up, whatever is missing."""
ROUGH_PROCESS = 540e6
ROUGH_VALUES = {"conv": 25, "lmm": 55, "mac": 80, "mag": 95, "mal": 90}
"""Values that a block keeps of a token, in units of the width, as the presets took them."""
ROUGH_GROWTH = 2.5
"""Of these values, what a token leaves as lost room where states are kept."""
HEAP = 2**25
"""Bytes of the largest tensor that the C library puts into the heap; the largest of a piece is [piece, 3 width]."""


class Coefficients(NamedTuple):
    """Of one way to run the whole model. Peak = fixed + token * (tokens of a piece) + states, ids and the like."""

    fixed: float
    """Bytes besides: process, weights, gradients, moments, what a chunk works on."""
    token: float
    """Bytes that a token of a piece takes while it is worked on."""
    left: float
    """Bytes that a token of a piece leaves in the process afterwards, as free heap."""
    seconds: float
    """Seconds a token; NaN where nothing was run."""


class Calibration(NamedTuple):
    """What is known of a model."""

    modes: dict[str, Coefficients]
    state: float
    """Bytes of a state of one sequence."""
    growth: float
    """Bytes that a border adds beyond its state, for each token of the piece: room in the heap that is lost."""
    in_heap: float
    """The most tokens of a piece that count for it: larger tensors lie outside the heap."""
    process: float
    """Bytes of the process with its libraries; 0 on a GPU, whose memory holds tensors alone."""
    parameters: int
    source: str
    """Where the figures come from, in words."""
    seconds: float
    """What the calibration took."""
    device: str


def calibrate(
    config: TitansConfig,
    modes: list[str],
    length: int,
    device: str,
    threads: int,
    seconds: float = SECONDS,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Calibration:
    """Run a model of this shape in a process of its own and measure it.

    modes: of MODES. length: bases; no size goes beyond it. progress: called with measurements done and their number.
    Raises RuntimeError with one line where the process ends early, as for want of memory, or takes longer than LONGEST.
    """
    began = time.monotonic()
    rows, base, extra = _probe(Task(config.to_dict(), modes, length, device, threads, seconds), progress)
    parameters = config.parameters
    found = {mode: _fit([row for row in rows if row["mode"] == mode], config, parameters, extra) for mode in modes}
    steps = [row for row in rows if row["mode"] != BORDERS]
    state = _over_blocks({row["blocks"]: float(row["state"]) for row in steps}, config.layers)
    growth = 0.0
    for row in (row for row in rows if row["mode"] == BORDERS):
        border = _over_blocks({row["blocks"]: row["growth"]}, config.layers)
        growth = max(border - state, 0.0) / min(one["piece"] for one in steps)
    took = time.monotonic() - began
    count = threads or torch.get_num_threads()
    where = f"CPU, {count} thread{'s' if count > 1 else ''}" if device == "cpu" else "GPU"
    source = f"measured on this machine ({where}) in {took:.0f} s"
    in_heap = HEAP / (12 * config.width)
    return Calibration(
        found, state, growth, in_heap, float(base if device == "cpu" else 0), parameters, source, took, device
    )


def rough(config: TitansConfig, modes: list[str], device: str) -> Calibration:
    """The same from a table, without running anything: within a factor of two, and no time."""
    parameters = config.parameters
    kinds = [kind if config.attention or kind == "conv" else "lmm" for kind in config.kinds]
    block = 4.0 * config.width * sum(ROUGH_VALUES[kind] for kind in kinds) / len(kinds)
    process = ROUGH_PROCESS if device == "cpu" else 0.0
    found = {}
    for mode in modes:
        kept = block * config.layers
        if mode in ("again", "whole-again"):
            kept = block + 4.0 * config.width * config.layers
        if mode == "read":
            kept = block / 2
        fixed = process + bytes_a_parameter(mode) * parameters
        found[mode] = Coefficients(fixed, kept, kept / 2, float("nan"))
    with torch.no_grad():
        small = config if config.mixers or config.restart else config.replace(layers=1)
        some = TitansDNA(small)(torch.zeros(1, unit_of(config), dtype=torch.long)).state
    state = config.layers // small.layers * held_bytes(some)
    growth = ROUGH_GROWTH * 4 * config.width * config.layers if "pieces" in modes else 0.0
    in_heap = HEAP / (12 * config.width)
    return Calibration(found, state, growth, in_heap, process, parameters, "from a table, not measured", 0.0, device)


def on_gpu(calibration: Calibration) -> Calibration:
    """The same for a GPU, of which only tensors take memory."""
    modes = {
        name: one._replace(fixed=one.fixed - calibration.process, left=0.0) for name, one in calibration.modes.items()
    }
    return calibration._replace(modes=modes, growth=0.0, process=0.0, device="cuda")


def bytes_a_parameter(mode: str) -> int:
    """Weight and gradient, two moments (Muon has one), and in pieces the gradient of one piece beside that of the window."""
    return {"read": 4, "whole": 16, "whole-again": 16}.get(mode, 20)


def _fit(rows: list[dict[str, Any]], config: TitansConfig, parameters: int, extra: float) -> Coefficients:
    """Lines through the sizes of each number of blocks, then over the blocks.

    extra: bytes that a process has and a measurement does not see.
    """
    mode, lines = rows[0]["mode"], {}
    for blocks in sorted({row["blocks"] for row in rows}):
        low, high = sorted((row for row in rows if row["blocks"] == blocks), key=lambda row: row["piece"])
        lines[blocks] = _line(low, high)
    layers, most = config.layers, max(lines)
    counted = {row["blocks"]: row["parameters"] for row in rows}
    fixed = lines[most].fixed + extra
    fixed += bytes_a_parameter(mode) * (parameters - counted[most])
    if mode in ("again", "whole-again"):
        inputs = 4.0 * config.width * (layers - most)  # all that a checkpointed block keeps
        token, left = lines[most].token + inputs, lines[most].left + inputs
        seconds = lines[most].seconds * layers / most
    else:
        token, left, seconds = (
            _over_blocks({blocks: getattr(line, name) for blocks, line in lines.items()}, layers)
            for name in ("token", "left", "seconds")
        )
    return Coefficients(fixed, max(token, 0.0), min(max(left, 0.0), max(token, 0.0)), seconds)


def _line(low: dict[str, Any], high: dict[str, Any]) -> Coefficients:
    span = high["piece"] - low["piece"]
    token = max((high["peak"] - low["peak"]) / span, 0.0)
    left = max((high["after"] - low["after"]) / span, 0.0)
    return Coefficients(high["peak"] - token * high["piece"], token, left, high["seconds"] / high["tokens"])


def _over_blocks(values: dict[int, float], layers: int) -> float:
    """A straight line through the figures of one and two blocks; with one number of blocks its share."""
    if layers in values:
        return values[layers]
    if len(values) == 1:
        ((blocks, value),) = values.items()
        return value * layers / blocks
    return values[1] + (layers - 1) * max(values[2] - values[1], 0.0)


def _probe(task: Task, progress: Callable[[int, int], None]) -> tuple[list[dict[str, Any]], int, int]:
    """Measurements, bytes of the process, and bytes of it that the measurements do not see."""
    command = [sys.executable, "-m", "titans_dna.planning.probe"]
    rows: list[dict[str, Any]] = []
    base = extra = runs = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        late = threading.Timer(LONGEST, process.kill)
        late.start()
        try:
            with process.stdin as task_in:
                json.dump(task._asdict(), task_in)
            for line in process.stdout:
                values = json.loads(line)
                runs = values.get("runs", runs)
                if "base" in values:
                    base, extra = values["base"], values["base"] - values["base_in_fork"]
                if "mode" in values:
                    rows.append(values)
                progress(len(rows), runs)
            said = process.stderr.read().strip()
        finally:
            over = not late.is_alive()
            late.cancel()
            process.kill()
    if over:
        raise RuntimeError(
            f"the calibration was not done after {LONGEST:.0f} s, which takes {SECONDS:.0f} s or so on a machine at rest"
        )
    if not base:
        reason = said.splitlines()[-1] if said else f"it was ended by signal {-(process.returncode or 0)}"
        raise RuntimeError(f"the calibration stopped early: {reason}")
    return rows, base, extra
