"""Pretraining from genome files to a model directory: the order in which everything happens, and what is left for people."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from titans_dna import checkpoint
from titans_dna.baselines.markov import MarkovRow, markov_table
from titans_dna.genome.intervals import write_split
from titans_dna.nn.counts import ORDERS, Counts, check_counting, counting_bytes
from titans_dna.nn.model import TitansDNA
from titans_dna.run.device import check_memory, choose_device
from titans_dna.run.directory import RunDirectory
from titans_dna.run.files import write_csv, write_figure, write_text
from titans_dna.run.progress import Progress, say
from titans_dna.run.sealed import json_digest
from titans_dna.train.language import COLUMNS, Language
from titans_dna.train.learner import Optimisers, adamw, muon_adamw, warmup_cosine
from titans_dna.train.loop import Loop, Machine, Outcome, Settings
from titans_dna.train.loss import WRITE_FROM, validate
from titans_dna.train.options import OptimiserOptions, PretrainOptions
from titans_dna.train.record import CHECKPOINT, METRICS, Record, read_checkpoint, read_metrics
from titans_dna.train.source import Source, describe_plan, open_source

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SPLIT, EVENTS = "split.bed", "tensorboard"
_COMPARED = {"fingerprint": "--fasta", "split": "--bed (or --split)", "tokenizer": "--tokenizer"}


class RunResult(NamedTuple):
    """How a run ended."""

    directory: Path
    outcome: Outcome
    step: int
    """Steps done."""
    bits_per_base: float
    """On held-out sequence; NaN in the processes of further devices, which write nothing."""
    best_markov: MarkovRow | None


def pretrain(options: PretrainOptions, *, resume: bool = False) -> RunResult:
    """Train a model and write its directory; with `resume`, continue the run that is in it.

    All input is checked before anything is written. The directory then holds `run.yaml`, `data.json`, `split.bed`,
    `metrics.csv`, TensorBoard events and `checkpoint.pt`, at the end also the model (see `titans_dna.checkpoint`),
    `markov.csv`, `loss.png` and `README.md`.

    Raises ValueError or OSError, with one line for people, for any fault of the input, and `Stopped` where a signal came.
    """
    # Lightning starts a process for each device; the first one does all the writing.
    first = options.run.devices == 1 or _first_of_several()
    with RunDirectory(options.run.out, "pretrain", first=first) as home:
        home.check(resume, options)
        device = _device(options)
        source = open_source(options)
        about = _about(source)
        run = json_digest([options.fixed(), {name: about[name] for name in _COMPARED}])
        saved = _read_saved(home, about, run) if resume else None
        if options.run.threads:
            torch.set_num_threads(options.run.threads)
        if options.data.counts:
            check_counting(source.train_bases)
        loop = _prepare(options, source, home.path, device, run, saved)
        home.open(options, about)
        if first:
            write_split(home.path / SPLIT, source.split)
            say("\n".join(describe_plan(options, source, _model(loop).parameter_count())))
            if loop.step:
                say(f"resumed at step {loop.step:,}")
        if options.data.counts:
            _model(loop).counts = _counts(
                home.path / checkpoint.COUNTS, source, json_digest({name: about[name] for name in _COMPARED})
            )
        done = loop.run(lambda step, fabric: _batches(options, source, step, fabric))
        if not first:
            return RunResult(home.path, done.outcome, done.step, math.nan, None)
        return _report(home.path, options, source, _model(loop), done.outcome, done.step)


def _first_of_several() -> bool:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def _device(options: PretrainOptions) -> str:
    kind = choose_device(options.run.accelerator)
    there, what = (torch.cuda.device_count(), "GPUs") if kind == "cuda" else (os.cpu_count() or 1, "cores")
    if options.run.devices > there:
        raise ValueError(f"--devices: got {options.run.devices}, want at most the {there} {what} of this machine")
    check_memory(options.config.parameters, kind)
    return kind


def _about(source: Source) -> dict[str, Any]:
    rows = [f"{name} {one}" for name, part in source.split._asdict().items() for one in part]
    return {**source.describe(), "split": json_digest(rows), "tokenizer": json_digest(source.tokenizer.to_dict())}


def _read_saved(home: RunDirectory, about: dict[str, Any], run: str) -> dict[str, Any] | None:
    """The checkpoint, once the data are those of the run; None where the run was killed before its first one."""
    home.check_same(about, _COMPARED, since=("split", "tokenizer"))
    saved = read_checkpoint(home.path / CHECKPOINT, run)
    if saved is None:
        return None
    # Version 0.1.0 kept these in its checkpoint, as they are.
    for name in ("split", "tokenizer") if "about" in saved else ():
        if json_digest(saved["about"][name]) != about[name]:
            raise ValueError(f"--resume: {_COMPARED[name]} is not that of the run in {home.path}: its {name} differs")
    # One that diverged has the steps left to recover in.
    return {**saved, "outcome": "running"}


def _prepare(
    options: PretrainOptions, source: Source, directory: Path, device: str, run: str, saved: dict[str, Any] | None
) -> Loop:
    optimiser, how = options.optimiser, options.run
    torch.manual_seed(optimiser.seed)
    config = options.config.replace(vocab_size=source.tokenizer.vocab_size)
    if options.data.counts and not config.counts:
        config = config.replace(counts=list(ORDERS))
    model = TitansDNA(config)
    model.activation_checkpointing = how.activation_checkpointing
    learner = Language(
        model,
        source.tokenizer.lengths,
        seed=optimiser.seed,
        accumulate=optimiser.accumulate,
        carry=options.data.lane > 0,
        scale=optimiser.batch_size * options.data.context,
        piece=how.piece,
        counted=options.data.counts,
        write_price=optimiser.write_price,
        price_from=round(WRITE_FROM * optimiser.steps),
    )

    def held_out_bits(fabric: Fabric) -> dict[str, float]:
        piece = min(options.data.context, how.piece or options.data.context)
        batches = source.valid_batches()
        return {
            "valid_bits_per_base": validate(model, batches, learner.lengths, piece=piece, precision=fabric.autocast())
        }

    def rate(step: int) -> float:
        fall = optimiser.steps - 1 - optimiser.warmup
        return warmup_cosine(
            step, rise=optimiser.warmup, warmup=optimiser.warmup, fall=fall, high=optimiser.lr, low=optimiser.min_lr
        )

    return Loop(
        learner,
        _optimiser(model, optimiser),
        Settings(
            optimiser.steps,
            rate,
            clip=optimiser.clip,
            valid_every=how.valid_every,
            save_every=how.save_every,
            seconds=how.max_time * 60,
        ),
        Machine(device, how.devices, how.strategy, optimiser.precision),
        validate=held_out_bits,
        # The norm of the whole gradient has always been added up in the order of the model.
        clipped=model.parameters(),
        checkpoint=directory / CHECKPOINT,
        run=run,
        saved=saved,
        record=Record(directory / METRICS, COLUMNS, events=directory / EVENTS),
        title="pretrain",
    )


def _counts(path: Path, source: Source, of: str) -> Counts:
    """Of the training intervals: from the file where that is theirs, and otherwise counted into it."""
    if path.is_file():
        counts = Counts.load(path)
        if counts.of != of:
            raise ValueError(
                f"{path}: holds counts of another genome, split or tokenizer, want it away: it is made anew"
            )
        return counts
    say(
        f"counts: {source.train_bases:,} bases, {counting_bytes(source.train_bases) / 1e9:,.2f} GB of memory while it lasts"
    )
    with Progress("counting", float(source.train_bases)) as progress:
        counts = Counts.fit(source.train_letters(), of, source.train_bases, progress=progress.add)
    counts.save(path)
    return counts


def _optimiser(model: TitansDNA, how: OptimiserOptions) -> torch.optim.AdamW | Optimisers:
    betas = (how.beta1, how.beta2)
    if how.optimizer == "muon":
        return muon_adamw(model, how.weight_decay, betas, relative=how.muon_lr / how.lr)
    return adamw(model, how.weight_decay, betas)


def _batches(options: PretrainOptions, source: Source, step: int, fabric: Fabric) -> Iterator[Iterator[Any]]:
    accumulate = options.optimiser.accumulate
    batches = iter(source.module.train_batches(step * accumulate, rank=fabric.global_rank, ranks=fabric.world_size))
    return (islice(batches, accumulate) for _ in count())


def _model(loop: Loop) -> TitansDNA:
    assert isinstance(loop.learner.model, TitansDNA)
    return loop.learner.model


def _report(
    directory: Path, options: PretrainOptions, source: Source, model: TitansDNA, outcome: Outcome, step: int
) -> RunResult:
    """Model, Markov table, plot and card."""
    checkpoint.save(model, directory, source.tokenizer)
    best = write_markov(directory, source)
    bits = held_out(directory)
    plot_loss(directory, best)
    write_card(directory, options, source, model.parameter_count(), bits, best)
    return RunResult(directory, outcome, step, bits, best)


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
    architecture = f"{'mixers' if config.mixers else 'variant'} {config.architecture}"
    verdict = "below" if bits < best.bits_per_base else "not below"
    files = ", ".join(Path(name).name for name in about["files"])
    text = f"""# {config.architecture.upper()} model of {files}

A Titans language model of DNA (arXiv 2501.00663), {architecture}, preset {options.model.preset},
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
with torch.inference_mode():
    out = model(ids)  # out.logits [1, tokens, ids]: what comes after each token
    out = model(ids, out.state)  # goes on from there, for any length in the same memory
```

`run.yaml` repeats the run (`titans-dna pretrain --config run.yaml --out NEW`), `split.bed` says which bases were held
out, `metrics.csv` and `loss.png` how it went, `markov.csv` what the Markov models of order 0 to 12 reach.
"""
    write_text(directory / CARD, text)
