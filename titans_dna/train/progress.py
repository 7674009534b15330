"""What a run says while it trains: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time

from tqdm import tqdm

from titans_dna.train.module import StepResult

MEASURED_STEPS = 5
"""Steps that an estimate of the time rests on."""


class Progress:
    """Reports each step; `first` is the number of steps done before, `total` of the whole run."""

    def __init__(self, first: int, total: int) -> None:
        self.first, self.total = first, total
        self._bar = tqdm(
            total=total, initial=first, unit="step", dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()
        )
        self._every = max(total // 20, 1)
        self._began = time.monotonic()

    def step(self, result: StepResult, speed: float, valid: float | None) -> None:
        """One line: loss in bits per base, bases per second, and the validation where there was one."""
        text = f"{_bits(result.bits_per_base)} bits/base, {speed / 1000:,.1f} kb/s"
        if valid is not None:
            text += f", held out {_bits(valid)}"
        if result.skipped:
            self.say(f"step {result.step}: loss or gradient is not finite; the step was skipped")
        if self._bar.disable:
            if valid is not None or result.step % self._every == 0:
                self.say(f"step {result.step}/{self.total}: {text}")
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
            if valid is not None:
                self.say(f"step {result.step}/{self.total}: held out {_bits(valid)} bits/base")
        if result.step - self.first == MEASURED_STEPS:
            left = (time.monotonic() - self._began) / MEASURED_STEPS * (self.total - result.step)
            self.say(f"about {duration(left)} for the {self.total - result.step:,} steps left")

    def say(self, text: str) -> None:
        """One line above the bar, or plainly."""
        with tqdm.external_write_mode(file=sys.stdout):
            print(text, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _bits(value: float) -> str:
    return "no" if math.isnan(value) else f"{value:.4f}"
