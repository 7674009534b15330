"""One measurement, in a process of its own: a model and a pass, at one length or at several on one way.

Prints one JSON object a line: {"start": true} before each timed pass, then a mark for each length that it reaches.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from long_context.models import STREAMED, load
from titans_dna.train.loss import LossSums
from titans_dna.train.piecewise import piecewise_loss

WARM_UP = 4096
"""Most tokens of the call before the timed ones."""
TELL = 60
"""Seconds between two words on how far a long way has come."""
FIRST_BASE, LAST_BASE = 7, 12
MB = 1 << 20


def streams(name: str, pass_: str, length: int, piece: int) -> bool:
    """Whether a pass of that length is a stream, whose shorter lengths are marks on its way."""
    return name in STREAMED and pass_ == "forward" and length > piece


def measure(
    name: str, pass_: str, lengths: list[int], repeats: list[int], preset: str, piece: int, device: str, limit: float
) -> None:
    """Time and peak memory of a model at `lengths`, rising, each `repeats` times (never more often than a shorter one).

    Several lengths only where all of them stream; the longest way is the last one, so that what stops it costs no other.
    limit: memory in units of 2^20 bytes, enforced here on a GPU alone.
    """
    make = load(name, preset)
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit * MB / torch.cuda.mem_get_info()[1]))
        torch.zeros(1, device=device)
        torch.cuda.reset_peak_memory_stats()
    baseline = memory(device)[0]
    torch.manual_seed(0)
    model = make().to(device).train(pass_ != "forward")
    known = {"baseline": baseline, "parameters": sum(p.numel() for p in model.parameters())}
    try:
        run(model, name, pass_, min(lengths[0], WARM_UP), piece, device)
        for turn in reversed(range(max(repeats))):
            wanted = [one for one, times in zip(lengths, repeats, strict=True) if times > turn]
            say({"start": True})
            for length, seconds, finite in timed(model, name, pass_, wanted, piece, device):
                say({"length": length, "seconds": seconds, "finite": finite, "peak": memory(device)[1], **known})
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        say({"over": "memory"})


def timed(
    model: nn.Module, name: str, pass_: str, lengths: list[int], piece: int, device: str
) -> Iterator[tuple[int, float, bool]]:
    """Lengths as they are reached, seconds since the start, and whether all that came out is finite."""
    start = now(device)
    if streams(name, pass_, lengths[0], piece):
        yield from stream(model, lengths, piece, device)
        return
    (length,) = lengths
    out = run(model, name, pass_, length, piece, device)
    seconds = now(device) - start
    yield length, seconds, bool(out.isfinite().all())


@torch.inference_mode()
def stream(model: nn.Module, lengths: list[int], piece: int, device: str) -> Iterator[tuple[int, float, bool]]:
    """Read up to the last length in pieces, the logits of each let go; ids are drawn as they are needed."""
    generator = torch.Generator().manual_seed(1)
    state, done, seconds, finite, told = None, 0, 0.0, True, time.monotonic()
    for length in lengths:
        while done < length:
            ids = draw(min(piece, length - done), device, generator)
            start = now(device)
            out = model(ids, state)
            state = out.state
            seconds += now(device) - start
            finite = finite and bool(out.logits.isfinite().all())
            done += ids.shape[1]
            del out
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                say({"at": done})
        yield length, seconds, finite


def run(model: nn.Module, name: str, pass_: str, length: int, piece: int, device: str) -> Tensor:
    """One call, or forward and backward, the latter in pieces where the model can be cut and the length is above one piece.

    Returns the logits, or the loss.
    """
    ids = draw(length + 1, device, torch.Generator().manual_seed(1))
    if pass_ == "forward":
        with torch.inference_mode():
            return model(ids[:, :length]).logits
    model.zero_grad(set_to_none=True)
    loss = losses(name, ids[:, 1:])
    if name in STREAMED and length > piece:
        sums, _ = piecewise_loss(model, ids[:, :length], loss, piece)
    else:
        sums = loss(model(ids[:, :length]).logits, slice(0, length))
    sums.weighted.backward()
    return sums.weighted.detach()


def losses(name: str, targets: Tensor) -> Callable[[Tensor, slice], LossSums]:
    """Cross-entropy of the next token; of a bare layer the mean square of what it returns."""
    count = targets.shape[1]

    def loss(logits: Tensor, where: slice) -> LossSums:
        if name.endswith("memory"):
            total = logits.square().sum() / count
        else:
            total = F.cross_entropy(logits.flatten(0, 1), targets[:, where].flatten(), reduction="sum") / count
        return LossSums(total, *(torch.zeros((), device=logits.device) for _ in range(3)))

    return loss


def draw(length: int, device: str, generator: torch.Generator) -> Tensor:
    """Random bases [1, length]."""
    return torch.randint(FIRST_BASE, LAST_BASE, (1, length), generator=generator).to(device)


def now(device: str) -> float:
    """Seconds, once the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def memory(device: str) -> tuple[float, float]:
    """Memory in use and the peak so far, in units of 2^20 bytes: of the process, or of the GPU's tensors."""
    if device == "cuda":
        return torch.cuda.memory_allocated() / MB, torch.cuda.max_memory_allocated() / MB
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would begin with the peak of the process that started this one
        fields: dict[str, Any] = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return tuple(int(fields[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else MB)
    return peak, peak


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)
