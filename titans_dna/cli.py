"""The command line: one plain function per verb."""

from __future__ import annotations

import dataclasses
import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import jsonargparse
import yaml
from docstring_parser import parse_from_object

from titans_dna.config import TitansConfig
from titans_dna.embedding.options import EmbedOptions, FileOptions, SpeedOptions, VectorOptions
from titans_dna.training.options import DataOptions, ModelOptions, OptimiserOptions, PretrainOptions, RunOptions

PARTS = (DataOptions, ModelOptions, OptimiserOptions, RunOptions)
EMBED_PARTS = (FileOptions, VectorOptions, SpeedOptions)
LISTS = ("fasta", "valid_contigs")
SWITCHES = ("overwrite", "rc")
VOCABULARY = "vocab_size"  # the tokeniser's


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `titans-dna` with these arguments, by default the process's; ends with SystemExit.

    Exit status: 0 done, 1 the run had to stop, 2 wrong input (one line on stderr), 130 and 143 interrupted and saved.
    """
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
    except (ValueError, OSError, ArgumentError, yaml.YAMLError) as error:
        print(f"titans-dna: error: {_one_line(error)}", file=sys.stderr)
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


def _run(arguments: list[str]) -> int:
    # Twice: the preset (or the run to resume) gives the defaults that the other flags and files then change.
    _check_lists(arguments)
    chosen = _parser({}).parse_args([one for one in arguments if not one.startswith("--print_config")])
    if chosen.subcommand == "embed":
        _check_once(arguments)
        return embed(EmbedOptions(*(_part(kind, chosen.embed) for kind in EMBED_PARTS)))
    first = chosen.pretrain
    defaults = _run_defaults(first) if first.resume else _preset_defaults(first.preset)
    values = _parser(defaults).parse_args(arguments).pretrain
    return pretrain(_options(values), values.resume)


def _check_lists(arguments: list[str]) -> None:
    """The parser would keep only the last of two lists, and word what is wrong in a file obscurely."""
    for name in LISTS:
        times = sum(one.split("=")[0] == f"--{name}" for one in arguments)
        if times > 1:
            raise ValueError(f"--{name}: got it {times} times, want it once with all the names: --{name} A B")
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        path = Path(flag.removeprefix("--config=") if flag.startswith("--config=") else value)
        if flag.split("=")[0] == "--config" and path.is_file():
            _check_file(path)


def _check_once(arguments: list[str]) -> None:
    flags = [one.split("=")[0] for one in arguments if one.startswith("--")]
    for flag in flags:
        if flags.count(flag) > 1:
            raise ValueError(f"{flag}: got it {flags.count(flag)} times, want it once")


def _check_file(path: Path) -> None:
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got {values!r}, want options, such as steps: 100")
    if not isinstance(values.get("model", {}), dict):
        raise ValueError(f"{path}: model: got {values['model']!r}, want fields, such as {{layers: 2}}")
    for name in LISTS:
        got = values.get(name, [])
        if not isinstance(got, list):
            raise ValueError(f"{path}: {name}: got {got!r}, want a list, such as [{got}]")
        for one in got:
            if not isinstance(one, str):
                raise ValueError(f'{path}: {name}: got {one!r}, want text; quote it: "{one}"')


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


def _parser(defaults: dict[str, Any]) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog="titans-dna",
        description="Titans models on DNA: neural memory that learns while it reads.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"titans-dna {version('titans-dna')}")
    verbs = parser.add_subcommands(required=True)
    verbs.add_subcommand("pretrain", _pretrain_parser(defaults), help="train a model on genome files")
    verbs.add_subcommand("embed", _embed_parser(), help="turn sequences into vectors")
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
        _add_options(parser, kind, str(kind.__doc__))
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; its own options are defaults")
    _add_options(parser, TitansConfig, "Model fields, each in place of the preset's", prefix="model.", skip=VOCABULARY)
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
        _add_options(parser, kind, str(kind.__doc__))
    return parser


def _add_options(
    parser: jsonargparse.ArgumentParser, kind: type, title: str, prefix: str = "", skip: str | None = None
) -> None:
    """A group with one flag for each field of a dataclass, its docstring the help."""
    group = parser.add_argument_group(title)
    types = get_type_hints(kind)
    helps = {one.arg_name: " ".join(str(one.description).split()) for one in parse_from_object(kind).params}
    for field in dataclasses.fields(kind):
        if field.name == skip:
            continue
        flag, text = f"--{prefix}{field.name}", helps[field.name].replace("%", "%%")
        if types[field.name] == tuple[str, ...]:
            group.add_argument(flag, nargs="+", type=str, default=[], help=text, metavar="NAME")
        elif field.name in SWITCHES:
            group.add_argument(flag, action="store_true", help=text)
        else:
            group.add_argument(flag, type=types[field.name], default=field.default, help=text)


def _options(values: jsonargparse.Namespace) -> PretrainOptions:
    model = dict(vars(values.model))
    if values.variant != "preset":
        model["variant"] = values.variant
    data, chosen, optimiser, run = (_part(kind, values) for kind in PARTS)
    try:
        config = TitansConfig.from_dict(model)
    except ValueError as error:
        raise ValueError(f"--model.{error}") from None
    return PretrainOptions(data, chosen, config, optimiser, run)


def _part(kind: type, values: jsonargparse.Namespace) -> Any:
    given = {field.name: values[field.name] for field in dataclasses.fields(kind)}
    empty = [
        field.name for field in dataclasses.fields(kind) if given[field.name] is None and field.default is not None
    ]
    if empty:
        raise ValueError(f"--{empty[0]}: got no value, want one")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    wrong = re.search(
        r"Parser key \"(.+)\": Expected a (?:<class '(\w+)'>|typing\.Literal\[(.+)\])\. Got value: (.*)", text
    )
    if wrong:
        return f"--{wrong[1]}: got {wrong[4]}, want {wrong[2] or 'one of ' + wrong[3]}"
    return text


if __name__ == "__main__":
    main()
