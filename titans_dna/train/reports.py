"""What a run leaves behind for people: the Markov table, the loss plot, the model card."""

from __future__ import annotations

import math
from pathlib import Path

from titans_dna.baselines.markov import MarkovRow, markov_table
from titans_dna.run.tables import write_csv, write_figure, write_text
from titans_dna.train.options import PretrainOptions
from titans_dna.train.record import METRICS, read_metrics
from titans_dna.train.source import Source

PLOT, CARD, MARKOV = "loss.png", "README.md", "markov.csv"


def write_markov(directory: Path, source: Source) -> MarkovRow:
    """`markov.csv`: orders 0 to 12, fitted on the training split, on the validation targets; returns the best."""
    table = markov_table(source.train_letters(), source.valid_letters())
    write_csv(directory / MARKOV, ("order", "bits_per_base"), ((row.order, repr(row.bits_per_base)) for row in table))
    return min(table, key=lambda row: row.bits_per_base)


def held_out(directory: Path) -> float:
    """The last validation's bits per base in `metrics.csv`; NaN where there was none."""
    rows = read_metrics(directory / METRICS)
    return next((row["valid_bits_per_base"] for row in reversed(rows) if "valid_bits_per_base" in row), math.nan)


def plot_loss(directory: Path, best: MarkovRow) -> None:
    """`loss.png`: training and held-out bits per base over the steps, and the best Markov model as a line."""
    from matplotlib.figure import Figure

    rows = read_metrics(directory / METRICS)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    steps, bits = _column(rows, "bits_per_base")
    axes.plot(steps, bits, label="training", linewidth=0.8, alpha=0.6)
    steps, bits = _column(rows, "valid_bits_per_base")
    axes.plot(steps, bits, label="held out", marker="o", markersize=3)
    axes.axhline(best.bits_per_base, color="0.3", linestyle="--", label=f"best Markov model (order {best.order})")
    axes.set(xlabel="step", ylabel="bits per base")
    axes.legend(frameon=False)
    write_figure(directory / PLOT, figure)


def _column(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [row["step"] for row in rows if name in row], [row[name] for row in rows if name in row]


def write_card(
    directory: Path, options: PretrainOptions, source: Source, parameters: int, bits: float, best: MarkovRow
) -> None:
    """`README.md`: what the model is, what it learned from, how good it is, how to use it."""
    rows = read_metrics(directory / METRICS)
    about = source.describe()
    data, optimiser, config = options.data, options.optimiser, options.config
    skipped = sum(int(row["skipped"]) for row in rows)
    verdict = "below" if bits < best.bits_per_base else "not below"
    files = ", ".join(Path(name).name for name in about["files"])
    text = f"""# {config.variant.upper()} model of {files}

A Titans language model of DNA (arXiv 2501.00663), variant {config.variant}, preset {options.model.preset},
{parameters:,} parameters, trained by `titans-dna pretrain`. It predicts the next base from those before it.

| | |
|---|---|
| held-out bits per base | {bits:.4f} |
| best Markov model on the same bases | {best.bits_per_base:.4f} (order {best.order}) |
| steps | {len(rows):,} of {optimiser.steps:,}, {skipped} skipped as not finite |
| bases seen | {sum(int(row["bases"]) for row in rows):,} |
| training bases | {about["train_bases"]:,} |
| held-out bases | {about["valid_bases"]:,}, of which {source.valid_targets:,} are scored |
| window | {data.context:,} bases{f", state carried over {data.lane:,}" if data.lane else ""} |
| tokenizer | {data.tokenizer} |
| data fingerprint | `{about["fingerprint"]}` |

The held-out figure is {verdict} the best Markov model's. It is for these bases alone: nothing is known of
other genomes.

```python
import torch
import titans_dna

model = titans_dna.load("{directory.name}")
ids = torch.as_tensor(model.tokenizer.encode("ACGTACGT"))[None]
logits = model(ids).logits  # [1, tokens, ids]: what comes after each token
```

`run.yaml` repeats the run (`titans-dna pretrain --config run.yaml --out NEW`), `split.bed` says which bases were held
out, `metrics.csv` and `loss.png` how it went, `markov.csv` what the Markov models of order 0 to 12 reach.
"""
    write_text(directory / CARD, text)
