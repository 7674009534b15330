"""What each verb of the command line does and prints: from its options to the exit status.

What does the work is imported when it is called, because most of it brings torch along.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from titans_dna.context.options import ContextOptions
from titans_dna.planning.options import PlanOptions
from titans_dna.reading.options import EmbedOptions, RememberOptions
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.use_options import BenchmarkOptions, EvaluateOptions, PredictOptions
from titans_dna.train.options import PretrainOptions


def pretrain(options: PretrainOptions) -> int:
    """Train a Titans model on genome files."""
    from titans_dna.train import pretrain as training

    result = training.pretrain(options, resume=options.run.resume)
    if result.best_markov is None:
        return 0
    print(f"run: {result.directory}")
    print(
        f"held-out bits per base: {result.bits_per_base:.4f}; "
        f"best Markov model: {result.best_markov.bits_per_base:.4f} (order {result.best_markov.order})"
    )
    print(f"loss plot: {result.directory / 'loss.png'}")
    if result.outcome == "out of time":
        again = f"titans-dna pretrain --resume --out {result.directory}"
        print(f"out of time at step {result.step:,}, saved; continue with: {again}")
    if result.outcome == "diverged":
        print(
            f"titans-dna: stopped at step {result.step:,}: loss or gradient was not finite for many steps in a row. "
            "All is saved, with the weights of the last good step; try a lower --lr, a longer --warmup, a smaller "
            "--model.theta_max or --precision 32",
            file=sys.stderr,
        )
        return 1
    return 0


def embed(options: EmbedOptions) -> int:
    """Turn sequences into vectors."""
    from titans_dna.reading.embed import embed_files

    result = embed_files(options, resume=options.files.resume)
    *beside, vectors = result.files
    names = f"; names and coordinates: {beside[0]}" if beside else ""
    print(f"vectors: {vectors} ({result.rows:,} of {result.width}){names}")
    return 0


def remember(options: RememberOptions) -> int:
    """Read sequence into a state file."""
    from titans_dna.reading.remember import remember_files

    done = remember_files(options, resume=options.read.resume)
    bits = "" if math.isnan(done.bits_per_base) else f"bits per base: {done.bits_per_base:.4f}; "
    print(
        f"{bits}{done.bases:,} bases remembered, {done.bases_per_second / 1000:.1f} kb/s, "
        f"peak memory {done.peak_bytes / 2**20:,.0f} MB\nstate: {', '.join(map(str, done.files))}"
    )
    return 0


def finetune(options: FinetuneOptions) -> int:
    """Fine-tune a model on labelled sequences."""
    _want_extra("finetune")
    from titans_dna.tasks import finetune as finetuning

    result = finetuning.finetune(options, resume=options.run.resume)
    print(f"\n{result.table}\nrun: {result.directory} (results.md, predictions.csv)")
    return _diverged([f"seed {seed}" for seed in result.diverged])


def evaluate(options: EvaluateOptions) -> int:
    """Score a fine-tuned model on labelled sequences."""
    _want_extra("evaluate")
    from titans_dna.tasks.evaluate import evaluate_files

    result = evaluate_files(options, resume=options.rows.resume)
    print(f"{result.table}\nresults: {result.directory} (results.md, predictions.csv; {result.rows:,} rows)")
    return 0


def predict(options: PredictOptions) -> int:
    """Write what a fine-tuned model says of sequences. Needs neither scikit-learn nor SciPy, unlike the other verbs on
    labels, so that a fine-tuned model can be used with the package alone."""
    from titans_dna.tasks.predict import predict_files

    result = predict_files(options, resume=options.files.resume)
    print(f"predictions: {result.path} ({result.rows:,})")
    return 0


def benchmark(options: BenchmarkOptions) -> int:
    """Fine-tune on every data set of a suite."""
    _want_extra("benchmark")
    from titans_dna.tasks import suite as benchmarking

    result = benchmarking.benchmark(options, resume=options.run.resume)
    print(f"\n{result.table}\nbenchmark: {result.directory} (benchmark.md, benchmark.csv)")
    return _diverged(result.diverged)


def context(options: ContextOptions) -> int:
    """Score held-out bases after more and more context."""
    from titans_dna.context.run import bench_context

    done = bench_context(options, resume=options.files.resume)
    print(f"\n{done.table}\nresults: {done.directory} (context.md, context.png, context.csv)")
    return 0


def plan(options: PlanOptions) -> int:
    """Print what a run will need; 1 where nothing fits or the calibration failed."""
    from titans_dna.planning.run import plan as planning

    return planning(options)


def _diverged(names: Sequence[str]) -> int:
    if not names:
        return 0
    print(
        f"titans-dna: {', '.join(names)}: loss or gradient was not finite for many steps in a row; try a lower --lr or a "
        "longer --warmup",
        file=sys.stderr,
    )
    return 1


def _want_extra(verb: str) -> None:
    missing = [name for name in ("sklearn", "scipy") if find_spec(name) is None]
    if missing:
        raise ValueError(f"{verb}: {missing[0]} is not installed: pip install 'titans-dna[finetune]'")
