"""The command line: one plain function per verb."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import jsonargparse
import yaml

from titans_dna.config import TitansConfig
from titans_dna.context.options import ContextOptions
from titans_dna.flags import check_lists, check_once, one_line, part
from titans_dna.parsers import (
    BENCHMARK_PARTS,
    CONTEXT_PARTS,
    EMBED_PARTS,
    EVALUATE_PARTS,
    FINETUNE_PARTS,
    PREDICT_PARTS,
    PRETRAIN_PARTS,
    REMEMBER_PARTS,
    VOCABULARY,
    make_parser,
    option_names,
)
from titans_dna.planning.options import PlanFlags, PlanOptions
from titans_dna.reading.embed_options import EmbedOptions
from titans_dna.reading.remember_options import RememberOptions
from titans_dna.run.directory import RunDirectory
from titans_dna.run.signals import Stopped, stoppable
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.use_options import BenchmarkOptions, EvaluateOptions, PredictOptions
from titans_dna.train.options import PretrainOptions


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `titans-dna` with these arguments, by default the process's; ends with SystemExit.

    Exit status: 0 done, 1 the run had to stop, 2 wrong input (one line on stderr), 130 and 143 interrupted and saved.
    """
    try:
        with stoppable():
            status = _run(sys.argv[1:] if arguments is None else list(arguments))
    except (ValueError, OSError, ArgumentError, yaml.YAMLError) as error:
        print(f"titans-dna: error: {one_line(error)}", file=sys.stderr)
        status = 2
    except Stopped as stop:
        print(f"titans-dna: interrupted; {stop.advice or 'the same command starts again'}", file=sys.stderr)
        status = stop.status
    raise SystemExit(status)


def pretrain(options: PretrainOptions, resume: bool) -> int:
    """Train a Titans model on genome files; returns the exit status."""
    from titans_dna.train import pretrain as training

    result = training.pretrain(options, resume=resume)
    again = f"titans-dna pretrain --resume --out {result.directory}"
    if result.best_markov is None:
        return 0
    print(f"run: {result.directory}")
    print(
        f"held-out bits per base: {result.bits_per_base:.4f}; "
        f"best Markov model: {result.best_markov.bits_per_base:.4f} (order {result.best_markov.order})"
    )
    print(f"loss plot: {result.directory / 'loss.png'}")
    if result.outcome == "out of time":
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
    """Turn sequences into vectors; returns the exit status."""
    from titans_dna.reading.embed_files import embed_files

    result = embed_files(options)
    *beside, vectors = result.files
    names = f"; names and coordinates: {beside[0]}" if beside else ""
    print(f"vectors: {vectors} ({result.rows:,} of {result.width}){names}")
    return 0


def remember(options: RememberOptions) -> int:
    """Read sequence into a state file; returns the exit status."""
    from titans_dna.reading.remember_files import remember_files

    try:
        done = remember_files(options)
    except FloatingPointError as error:
        print(f"titans-dna: stopped: {error}; nothing was written", file=sys.stderr)
        return 1
    bits = "" if done.bits_per_base != done.bits_per_base else f"bits per base: {done.bits_per_base:.4f}; "
    print(
        f"{bits}{done.bases:,} bases remembered, {done.bases_per_second / 1000:.1f} kb/s, "
        f"peak memory {done.peak_bytes / 2**20:,.0f} MB\nstate: {', '.join(map(str, done.files))}"
    )
    return 0


def finetune(options: FinetuneOptions, resume: bool) -> int:
    """Fine-tune a model on labelled sequences; returns the exit status."""
    from titans_dna.tasks import finetune as finetuning

    result = finetuning.finetune(options, resume=resume)
    print(f"\n{result.table}\nrun: {result.directory} (results.md, predictions.csv)")
    return _diverged([f"seed {seed}" for seed in result.diverged])


def evaluate(options: EvaluateOptions) -> int:
    """Score a fine-tuned model on labelled sequences; returns the exit status."""
    from titans_dna.tasks.evaluate import evaluate_files

    result = evaluate_files(options)
    print(f"{result.table}\nresults: {result.directory} (results.md, predictions.csv; {result.rows:,} rows)")
    return 0


def predict(options: PredictOptions) -> int:
    """Write what a fine-tuned model says of sequences; returns the exit status."""
    from titans_dna.tasks.predict import predict_files

    result = predict_files(options)
    print(f"predictions: {result.path} ({result.rows:,})")
    return 0


def benchmark(options: BenchmarkOptions, resume: bool) -> int:
    """Fine-tune on every data set of a suite; returns the exit status."""
    from titans_dna.tasks import benchmark as benchmarking

    result = benchmarking.benchmark(options, resume=resume)
    print(f"\n{result.table}\nbenchmark: {result.directory} (benchmark.md, benchmark.csv)")
    return _diverged(result.diverged)


def context(options: ContextOptions) -> int:
    """Score held-out bases after more and more context; returns the exit status."""
    from titans_dna.context.run import bench_context

    done = _until_stopped(lambda: bench_context(options), "what is done is kept; the same command goes on")
    print(f"\n{done.table}\nresults: {done.directory} (context.md, context.png, context.csv)")
    return 0


def _diverged(names: Sequence[str]) -> int:
    if not names:
        return 0
    print(
        f"titans-dna: {', '.join(names)}: loss or gradient was not finite for many steps in a row; try a lower --lr or a "
        "longer --warmup",
        file=sys.stderr,
    )
    return 1


def _until_stopped(work: Callable[[], Any], advice: str) -> Any:
    """What `work` returns; where it is stopped, with this advice."""
    try:
        return work()
    except Stopped as stop:
        stop.advice = stop.advice or advice
        raise


def _run(arguments: list[str]) -> int:
    if arguments[:2] == ["bench", "needle"]:
        raise ValueError(
            "bench needle: moved out of the package; in the repository: python scripts/bench_needle.py --help"
        )
    # Twice: the preset (or the run to resume) gives the defaults that the other flags and files then change.
    check_lists(arguments, nested=("model",) if "pretrain" in arguments[:1] else ())
    chosen = make_parser().parse_args([one for one in arguments if not one.startswith("--print_config")])
    verb = chosen.subcommand
    first = chosen[verb]
    if verb not in ("pretrain", "finetune"):
        check_once(arguments)
    if verb == "embed":
        return embed(EmbedOptions(*(part(kind, first) for kind in EMBED_PARTS)))
    if verb == "remember":
        return remember(RememberOptions(*(part(kind, first) for kind in REMEMBER_PARTS)))
    if verb == "plan":
        return _plan(arguments, first.preset)
    if verb == "bench":
        return _bench(first)
    if verb == "pretrain":
        defaults = _run_defaults(first) if first.resume else _preset_defaults(first.preset)
        values = make_parser(verb, defaults).parse_args(arguments).pretrain
        return pretrain(_options(values), values.resume)
    _want_extra(verb)
    if verb == "evaluate":
        options = EvaluateOptions(*(part(kind, first) for kind in EVALUATE_PARTS))
        return _whole(lambda: evaluate(options))
    if verb == "predict":
        options = PredictOptions(*(part(kind, first) for kind in PREDICT_PARTS))
        return _whole(lambda: predict(options))
    parts = FINETUNE_PARTS if verb == "finetune" else BENCHMARK_PARTS
    defaults = _saved_defaults(verb, first.out, parts) if first.resume else {}
    values = make_parser(verb, defaults).parse_args(arguments)[verb]
    given = [part(kind, values) for kind in parts]
    if verb == "finetune":
        return finetune(FinetuneOptions(*given), values.resume)
    return benchmark(BenchmarkOptions(*given), values.resume)


def _plan(arguments: list[str], preset: str) -> int:
    from titans_dna.planning.run import plan

    values = make_parser("plan", _preset_defaults(preset)).parse_args(arguments).plan
    values["work"] = values["pass"]
    return plan(PlanOptions(part(PlanFlags, values), _config(values)))


def _bench(chosen: jsonargparse.Namespace) -> int:
    """One of the measurements of `titans-dna bench`."""
    values = chosen[chosen.subcommand]
    return context(ContextOptions(*(part(kind, values) for kind in CONTEXT_PARTS)))


def _whole(verb: Callable[[], int]) -> int:
    return _until_stopped(verb, "nothing was written; the same command starts again")


def _want_extra(verb: str) -> None:
    # predict needs neither of the two, so that a fine-tuned model can be used with the package alone.
    missing = [] if verb == "predict" else [name for name in ("sklearn", "scipy") if find_spec(name) is None]
    if missing:
        raise ValueError(f"{verb}: {missing[0]} is not installed: pip install 'titans-dna[finetune]'")


def _preset_defaults(name: str) -> dict[str, Any]:
    return {
        f"model.{field}": value for field, value in TitansConfig.preset(name).to_dict().items() if field != VOCABULARY
    }


def _run_defaults(values: jsonargparse.Namespace) -> dict[str, Any]:
    saved = RunDirectory(values.out, "pretrain").options()
    model = saved.pop("model", None)
    fields = option_names((TitansConfig,)) - {VOCABULARY}
    if not isinstance(model, dict) or not saved.keys() <= option_names(PRETRAIN_PARTS) or not model.keys() <= fields:
        raise ValueError(f"--resume: {values.out}: run.yaml is not as titans-dna pretrain wrote it")
    return {**saved, **{f"model.{field}": value for field, value in model.items()}, "out": values.out}


def _saved_defaults(verb: str, out: str, parts: tuple[type, ...]) -> dict[str, Any]:
    """Options of the fine-tuning run or the benchmark in a directory."""
    record = "run.yaml" if verb == "finetune" else "benchmark.yaml"
    saved = RunDirectory(out, verb, record=record).options()
    if not saved.keys() <= option_names(parts):
        raise ValueError(f"--resume: {out}: holds options that titans-dna {verb} does not have")
    return {**saved, "out": out}


def _options(values: jsonargparse.Namespace) -> PretrainOptions:
    data, chosen, optimiser, run = (part(kind, values) for kind in PRETRAIN_PARTS)
    return PretrainOptions(data, chosen, _config(values), optimiser, run)


def _config(values: jsonargparse.Namespace) -> TitansConfig:
    model = dict(vars(values.model))
    if values.variant != "preset":
        model["variant"] = values.variant
    try:
        return TitansConfig.from_dict(model)
    except ValueError as error:
        raise ValueError(f"--model.{error}") from None


if __name__ == "__main__":
    main()
