"""What a fine-tuning run says while it trains: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from titans_dna.tasks.module import Step
from titans_dna.train.progress import duration

SECONDS = 30
"""Between two lines where there is no terminal."""


class Progress:
    """Of one seed's steps; `first` is the number of steps done before, `total` the most there can be."""

    def __init__(self, title: str, first: int, total: int) -> None:
        self.title, self.first, self.total = title, first, total
        self._bar = tqdm(
            total=total, initial=first, unit="step", dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()
        )
        self._bases = 0
        self._began = self._said = time.monotonic()

    def step(self, result: Step, valid: dict[str, float] | None) -> None:
        """After each step; `valid` where it was validated."""
        self._bases += result.bases
        now = time.monotonic()
        if result.skipped:
            self.say(f"step {result.number}: loss or gradient is not finite; the step was skipped")
        speed = f"{self._bases / max(now - self._began, 1e-9) / 1000:,.1f} kb/s"
        self._bar.set_postfix_str(f"loss {result.loss:.3f}, {speed}", refresh=False)
        self._bar.update()
        if valid is None and not (self._bar.disable and now - self._said > SECONDS):
            return
        self._said = now
        left = (now - self._began) / (result.number - self.first) * (self.total - result.number)
        text = f"step {result.number}/{self.total}, {speed}, at most {duration(left)} left"
        if valid is not None:
            shown = {name: value for name, value in valid.items() if name not in ("step", "train_loss")}
            text += "; held out: " + ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
        self.say(text)

    def say(self, text: str) -> None:
        """One line above the bar, or plainly."""
        with tqdm.external_write_mode(file=sys.stdout):
            print(f"{self.title}: {text}", flush=True)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
