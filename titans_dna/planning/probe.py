"""The calibration's own process: a model of one or two blocks makes real steps at small sizes, and is measured.

`python -m titans_dna.planning.probe` reads a task (JSON) from its standard input and writes one line of JSON for each
measurement. Its memory is its own, so that nothing of the caller's counts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA, map_state
from titans_dna.run.device import process_peak
from titans_dna.train.learner import muon_adamw
from titans_dna.train.loss import LossSums, loss_sums
from titans_dna.train.piecewise import piecewise_loss

BORDERS = "borders"
"""What the states at the borders of many pieces take; a measurement beside the modes."""
PIECES = 16
WARM = (64, 32)
"""Window and piece of the first steps, which bring in code and the optimiser's moments."""
TENSOR_BYTES = 2**21
"""The largest size has tensors of this many bytes: smaller ones come from the heap, which grows in another way."""
_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class Task(NamedTuple):
    """What is to be measured, as the caller sends it."""

    config: dict[str, Any]
    modes: list[str]
    """whole, pieces (a window of two), again (pieces with activation checkpointing), whole-again, or read."""
    length: int
    """No size goes beyond it."""
    device: str
    threads: int
    seconds: float
    """What all of it may take, about."""


def main() -> None:
    """Measure, and write a line for each measurement; the last line is the process itself."""
    task = Task(**json.load(sys.stdin))
    if task.threads:
        torch.set_num_threads(task.threads)
    _import_verb(task.modes)
    config = TitansConfig.from_dict(task.config)
    unit = unit_of(config)
    runs = [(mode, blocks) for mode in task.modes for blocks in _blocks(mode, config)]
    fewest = config.layers if _differ(config) else 1
    first = _apart(task, task.modes[0], fewest, max(2 * unit, 512))
    weight = 4 + sum(blocks * (1 if mode in ("whole", "read") else 2.7) for mode, blocks in runs)
    tokens = task.seconds / (first["seconds"] / fewest / first["tokens"] * weight * 1.25)
    largest = _power(min(tokens, TENSOR_BYTES / 4 / config.width))
    largest = min(max(largest, 2 * unit), _power(max(task.length, 2)))
    sizes = (max(largest // 4 if largest // 4 >= unit else largest // 2, 1), largest)
    bordered = [(mode, blocks) for mode, blocks in runs if mode in ("pieces", "again")][:1]
    _say({"runs": len(runs) * len(sizes) + len(bordered)})
    for mode, blocks in runs:
        for size in sizes:
            _say(_apart(task, mode, blocks, size))
    for _, blocks in bordered:
        _say(_apart(task, BORDERS, blocks, sizes[0]))
    _say(_base(task, *runs[0], first))


def _base(task: Task, mode: str, blocks: int, first: dict[str, Any]) -> dict[str, int]:
    """The process after its first steps, and the same in a fork, which has but a part of the libraries' pages."""
    if not can_fork(task.device):
        return {"base": first["warm"], "base_in_fork": first["warm"]}
    within = _apart(task, mode, blocks, WARM[1])["warm"]
    step = _Step(task, mode, blocks)
    step.warm()
    return {"base": step.peak.highest(), "base_in_fork": within}


def unit_of(config: TitansConfig) -> int:
    """The smallest sensible piece: a chunk, and a segment or window of the attention."""
    memories = [kind for kind in config.kinds if kind != "conv"]
    reach = {"lmm": 1, "mac": config.segment, "mag": config.window, "mal": config.window}
    attention = [reach[kind] for kind in memories if config.attention]
    return max([1, *attention, *[config.chunk] * bool(memories)])


def _import_verb(modes: list[str]) -> None:
    # The verb's own libraries are part of what a user sees.
    import_module("titans_dna.reading.embed" if modes == ["read"] else "titans_dna.train.pretrain")


def _blocks(mode: str, config: TitansConfig) -> list[int]:
    """Where all blocks cost alike, two of them tell of any number; checkpointed ones keep their input alone."""
    few = [config.layers] if config.layers <= 2 or _differ(config) else None
    return few or ([2] if mode in ("again", "whole-again") else [1, 2])


def _differ(config: TitansConfig) -> bool:
    """Whether one block may cost other than the next."""
    return bool(config.mixers or config.restart)


def _power(n: float) -> int:
    return 1 << max(int(n).bit_length() - 1, 0)


def _say(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def _apart(task: Task, mode: str, blocks: int, size: int) -> dict[str, Any]:
    """One measurement in a process of its own where that is possible, so that the last one's leavings do not count."""
    if not can_fork(task.device):
        return _measure(task, mode, blocks, size)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(_measure(task, mode, blocks, size)).encode())
            status = 0
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        raise SystemExit(f"{mode}: {blocks} block(s), {size:,} bases at a time: out of memory, or stopped")
    return json.loads(text)


def _measure(task: Task, mode: str, blocks: int, size: int) -> dict[str, Any]:
    step = _Step(task, mode, blocks)
    step.warm()
    warm = step.peak.highest()
    step.peak.reset()
    if mode == BORDERS:
        return {"mode": mode, "blocks": blocks, "growth": step.growth(size)}
    tokens = size if mode in ("whole", "whole-again") else 2 * size
    began = time.perf_counter()
    step(tokens, size)
    if task.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {
        "mode": mode,
        "blocks": blocks,
        "piece": size,
        "tokens": tokens,
        "seconds": seconds,
        "warm": warm,
        "peak": step.peak.highest(),
        "after": step.peak.now(),
        "state": step.state_bytes(size),
        "parameters": step.model.parameter_count(),
    }


def _no_loss(logits: Tensor) -> LossSums:
    return LossSums(*(logits[0, 0, 0] for _ in LossSums._fields))


class _Step:
    """An optimiser step on random bases, as `titans-dna pretrain` makes it; or a call without a gradient."""

    def __init__(self, task: Task, mode: str, blocks: int) -> None:
        self.mode, self.device = mode, task.device
        self.peak = Peak(task.device)
        self.model = TitansDNA(TitansConfig.from_dict({**task.config, "layers": blocks})).to(task.device)
        self.model.activation_checkpointing = mode in ("again", "whole-again")
        self.optimiser = None
        if mode != "read":
            self.optimiser = muon_adamw(self.model, 0.1, (0.9, 0.95), relative=5.0)

    def warm(self) -> None:
        for _ in range(2):
            self(*WARM)

    def __call__(self, tokens: int, piece: int) -> None:
        ids = torch.randint(0, self.model.config.vocab_size, (1, tokens + 1), device=self.device)
        if self.optimiser is None:
            self._read(ids[:, :-1], piece)
            return
        lengths = torch.ones(self.model.config.vocab_size, device=self.device)
        weight = torch.ones(1, tokens + 1, device=self.device)

        def of_piece(logits: Tensor, at: slice) -> Any:
            return loss_sums(logits, ids[:, 1:][:, at], weight[:, 1:][:, at], lengths)

        if piece < tokens:
            sums, _ = piecewise_loss(self.model, ids[:, :-1], of_piece, piece)
        else:
            sums = of_piece(self.model(ids[:, :-1]).logits, slice(None))
        (sums.weighted / tokens).backward()
        dense = [one for one in self.model.parameters() if one.grad is not None and not one.grad.is_sparse]
        nn.utils.clip_grad_norm_(dense, 1.0, foreach=True)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _read(self, ids: Tensor, piece: int) -> None:
        state = None
        for start in range(0, ids.shape[1], piece):
            state = self.model(ids[:, start : start + piece], state).state

    def growth(self, piece: int) -> float:
        """Bytes that a border adds as the forward goes over many pieces.

        More than its state: the state stays behind in the heap where larger things were around it, and their room is
        lost to larger things.
        """
        found = []
        for pieces in (2, PIECES):
            ids = torch.zeros(1, pieces * piece, dtype=torch.long, device=self.device)
            sums = piecewise_loss(self.model, ids, lambda logits, at: _no_loss(logits), piece)
            found.append(self.peak.now())
            del sums
        return max(found[1] - found[0], 0) / (PIECES - 2)

    @torch.no_grad()
    def state_bytes(self, tokens: int) -> int:
        """What a state of one sequence holds on to after so many tokens, in bytes."""
        return held_bytes(self.model(torch.zeros(1, tokens, dtype=torch.long, device=self.device)).state)


def held_bytes(state: Any) -> int:
    """What the tensors of a state hold on to, in bytes."""
    held: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    map_state(note, state)
    return sum(held.values())


class Peak:
    """Highest and present memory in bytes: of the process, or what PyTorch took of a GPU (untested on one)."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def reset(self) -> None:
        """Forget the highest so far, on a GPU; a process keeps it."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def highest(self) -> int:
        """The most there has been."""
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        return _status("VmHWM") or process_peak()

    def now(self) -> int:
        """What there is."""
        return torch.cuda.memory_allocated() if self.cuda else _status("VmRSS") or process_peak()


def can_fork(device: str) -> bool:
    """Whether a measurement may run in a fork of this process."""
    return sys.platform == "linux" and device == "cpu" and hasattr(os, "fork")


def machine_memory(device: str) -> tuple[int, int]:
    """Bytes available and in all, of this machine or of its first GPU."""
    if device == "cuda":
        return torch.cuda.mem_get_info()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _read(_MEMINFO, "MemAvailable") or total
    limit, used = (_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is None:
        return available, total
    return min(available, limit - (used or 0)), min(total, limit)


def _number(path: Path) -> int | None:
    # A container's own limit; "max" where it has none.
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None


def _status(name: str) -> int:
    return _read(_STATUS, name)


def _read(path: Path, name: str) -> int:
    """A line `name: n kB` in bytes; 0 where there is none, as on macOS."""
    if not path.is_file():
        return 0
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
