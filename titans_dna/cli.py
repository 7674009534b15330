"""The command line: one plain function per verb."""

from __future__ import annotations

import dataclasses
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from titans_dna.config import TitansConfig
from titans_dna.embedding.options import EmbedOptions, FileOptions, SpeedOptions, VectorOptions
from titans_dna.finetuning.options import (
    FinetuneOptions,
    FinetuneRunOptions,
    LabelOptions,
    TrainOptions,
    TuneOptions,
)
from titans_dna.flags import add_options, check_lists, check_once, one_line, part
from titans_dna.training.options import DataOptions, ModelOptions, OptimiserOptions, PretrainOptions, RunOptions

PARTS = (DataOptions, ModelOptions, OptimiserOptions, RunOptions)
EMBED_PARTS = (FileOptions, VectorOptions, SpeedOptions)
FINETUNE_PARTS = (LabelOptions, TuneOptions, TrainOptions, FinetuneRunOptions)
VOCABULARY = "vocab_size"  # the tokeniser's


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `titans-dna` with these arguments, by default the process's; ends with SystemExit.

    Exit status: 0 done, 1 the run had to stop, 2 wrong input (one line on stderr), 130 and 143 interrupted and saved.
    """
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
    except (ValueError, OSError, ArgumentError, yaml.YAMLError) as error:
        print(f"titans-dna: error: {one_line(error)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("titans-dna: stopped at once; what was saved before stands", file=sys.stderr)
        status = 130
    raise SystemExit(status)


def pretrain(options: PretrainOptions, resume: bool) -> int:
    """Train a Titans model on genome files; returns the exit status."""
    from titans_dna.training import pretrain as training

    result = training.pretrain(options, resume=resume)
    again = f"titans-dna pretrain --resume --out {result.directory}"
    if result.outcome == "interrupted":
        print(f"interrupted and saved at step {result.step:,}; continue with: {again}", file=sys.stderr)
        return 128 + (result.signal or 2)
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
    from titans_dna.embedding.run import embed_files

    result = embed_files(options)
    *beside, vectors = result.files
    names = f"; names and coordinates: {beside[0]}" if beside else ""
    print(f"vectors: {vectors} ({result.rows:,} of {result.width}){names}")
    return 0


def finetune(options: FinetuneOptions, resume: bool) -> int:
    """Fine-tune a model on labelled sequences; returns the exit status."""
    try:
        from titans_dna.finetuning import run as finetuning
    except ImportError as error:
        raise ValueError(f"finetune: {error.name} is not installed: pip install 'titans-dna[finetune]'") from None

    result = finetuning.finetune(options, resume=resume)
    if result.signal is not None:
        again = f"titans-dna finetune --resume --out {result.directory}"
        print(f"interrupted and saved; continue with: {again}", file=sys.stderr)
        return 128 + result.signal
    print(f"\n{result.table}\nrun: {result.directory} (results.md, predictions.csv)")
    if result.diverged:
        seeds = ", ".join(map(str, result.diverged))
        print(
            f"titans-dna: seed {seeds}: loss or gradient was not finite for many steps in a row; try a lower --lr or a "
            "longer --warmup",
            file=sys.stderr,
        )
        return 1
    return 0


def _run(arguments: list[str]) -> int:
    # Twice: the preset (or the run to resume) gives the defaults that the other flags and files then change.
    check_lists(arguments, nested=("model",) if "pretrain" in arguments[:1] else ())
    chosen = _parser().parse_args([one for one in arguments if not one.startswith("--print_config")])
    if chosen.subcommand == "finetune":
        first = chosen.finetune
        defaults = _finetune_defaults(first) if first.resume else {}
        values = _parser("finetune", defaults).parse_args(arguments).finetune
        return finetune(FinetuneOptions(*(part(kind, values) for kind in FINETUNE_PARTS)), values.resume)
    if chosen.subcommand == "embed":
        check_once(arguments)
        return embed(EmbedOptions(*(part(kind, chosen.embed) for kind in EMBED_PARTS)))
    first = chosen.pretrain
    defaults = _run_defaults(first) if first.resume else _preset_defaults(first.preset)
    values = _parser("pretrain", defaults).parse_args(arguments).pretrain
    return pretrain(_options(values), values.resume)


def _preset_defaults(name: str) -> dict[str, Any]:
    return {
        f"model.{field}": value for field, value in TitansConfig.preset(name).to_dict().items() if field != VOCABULARY
    }


def _run_defaults(values: jsonargparse.Namespace) -> dict[str, Any]:
    from titans_dna.training.pretrain import read_run

    saved = read_run(Path(values.out))
    model = saved.pop("model", None)
    options = {field.name for kind in PARTS for field in dataclasses.fields(kind)}
    fields = {field.name for field in dataclasses.fields(TitansConfig)} - {VOCABULARY}
    if not isinstance(model, dict) or not saved.keys() <= options or not model.keys() <= fields:
        raise ValueError(f"--resume: {values.out}: run.yaml is not as titans-dna pretrain wrote it")
    return {**saved, **{f"model.{field}": value for field, value in model.items()}, "out": values.out}


def _finetune_defaults(values: jsonargparse.Namespace) -> dict[str, Any]:
    from titans_dna.finetuning.directory import read_run

    saved = read_run(Path(values.out))
    if not saved.keys() <= {field.name for kind in FINETUNE_PARTS for field in dataclasses.fields(kind)}:
        raise ValueError(f"--resume: {values.out}: run.yaml is not as titans-dna finetune wrote it")
    return {**saved, "out": values.out}


def _parser(verb: str = "", defaults: dict[str, Any] | None = None) -> jsonargparse.ArgumentParser:
    """defaults: those of one verb."""
    given = {verb: defaults or {}}
    parser = jsonargparse.ArgumentParser(
        prog="titans-dna",
        description="Titans models on DNA: neural memory that learns while it reads.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"titans-dna {version('titans-dna')}")
    verbs = parser.add_subcommands(required=True)
    verbs.add_subcommand("pretrain", _pretrain_parser(given.get("pretrain", {})), help="train a model on genome files")
    verbs.add_subcommand("embed", _embed_parser(), help="turn sequences into vectors")
    verbs.add_subcommand(
        "finetune", _finetune_parser(given.get("finetune", {})), help="train a model on labelled sequences"
    )
    return parser


def _pretrain_parser(defaults: dict[str, Any]) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        description="Train a Titans language model on genome files. Example: "
        "titans-dna pretrain --fasta genome.fa --variant mac --out runs/first",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of options, named as the flags; later ones win")
    for kind in PARTS:
        add_options(parser, kind, str(kind.__doc__))
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; its own options are defaults")
    add_options(parser, TitansConfig, "Model fields, each in place of the preset's", prefix="model.", skip=VOCABULARY)
    parser.set_defaults(defaults)
    return parser


def _finetune_parser(defaults: dict[str, Any]) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        description="Fine-tune a model on labelled sequences, or train one from scratch, and compare it with baselines. "
        "Example: titans-dna finetune --model runs/first --data train.csv --test test.csv --out runs/promoters",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of options, named as the flags; later ones win")
    for kind in FINETUNE_PARTS:
        add_options(parser, kind, str(kind.__doc__))
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; its own options are defaults")
    parser.set_defaults(defaults)
    return parser


def _embed_parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        description="Turn sequences into vectors with a trained model. Example: "
        "titans-dna embed --model runs/first --fasta genome.fa --bed genes.bed --out genes.npy",
        exit_on_error=False,
        allow_abbrev=False,
    )
    for kind in EMBED_PARTS:
        add_options(parser, kind, str(kind.__doc__))
    return parser


def _options(values: jsonargparse.Namespace) -> PretrainOptions:
    model = dict(vars(values.model))
    if values.variant != "preset":
        model["variant"] = values.variant
    data, chosen, optimiser, run = (part(kind, values) for kind in PARTS)
    try:
        config = TitansConfig.from_dict(model)
    except ValueError as error:
        raise ValueError(f"--model.{error}") from None
    return PretrainOptions(data, chosen, config, optimiser, run)


if __name__ == "__main__":
    main()
