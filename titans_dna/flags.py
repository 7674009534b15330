"""Dataclasses of options as flags, and what is wrong with a command line in words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import jsonargparse
import yaml
from docstring_parser import parse_from_object

LISTS = (
    "fasta",
    "valid_contigs",
    "data",
    "valid",
    "test",
    "label_column",
    "baselines",
    "features",
    "test_contigs",
    "only",
)
SWITCHES = ("overwrite", "rc", "no_calibration", "json")


def add_options(
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
        lists = {tuple[str, ...]: (str, "NAME"), tuple[int, ...]: (int, "N")}
        if types[field.name] in lists:
            kind_of_one, shown = lists[types[field.name]]
            several: Any = field.default
            group.add_argument(flag, nargs="+", type=kind_of_one, default=list(several), help=text, metavar=shown)
        elif field.name in SWITCHES:
            group.add_argument(flag, action="store_true", help=text)
        elif types[field.name] is bool:
            group.add_argument(flag, type=bool, nargs="?", const=True, default=field.default, help=text)
        else:
            group.add_argument(flag, type=types[field.name], default=field.default, help=text)


def part(kind: type, values: jsonargparse.Namespace) -> Any:
    """A dataclass from the values of its flags. ValueError for a flag that was left empty."""
    given = {field.name: values[field.name] for field in dataclasses.fields(kind)}
    empty = [
        field.name for field in dataclasses.fields(kind) if given[field.name] is None and field.default is not None
    ]
    if empty:
        raise ValueError(f"--{empty[0]}: got no value, want one")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def check_lists(arguments: list[str], nested: Sequence[str] = ()) -> None:
    """The parser would keep only the last of two lists, and word what is wrong in a file obscurely.

    nested: options that hold fields of their own.
    """
    for name in LISTS:
        times = sum(one.split("=")[0] == f"--{name}" for one in arguments)
        if times > 1:
            raise ValueError(f"--{name}: got it {times} times, want it once with all the names: --{name} A B")
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        path = Path(flag.removeprefix("--config=") if flag.startswith("--config=") else value)
        if flag.split("=")[0] == "--config" and path.is_file():
            _check_file(path, nested)


def check_once(arguments: list[str]) -> None:
    """ValueError for a flag that is there twice."""
    flags = [one.split("=")[0] for one in arguments if one.startswith("--")]
    for flag in flags:
        if flags.count(flag) > 1:
            raise ValueError(f"{flag}: got it {flags.count(flag)} times, want it once")


def _check_file(path: Path, nested: Sequence[str]) -> None:
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got {values!r}, want options, such as steps: 100")
    for name in nested:
        if not isinstance(values.get(name, {}), dict):
            raise ValueError(f"{path}: {name}: got {values[name]!r}, want fields, such as {{layers: 2}}")
    for name in LISTS:
        got = values.get(name, [])
        if not isinstance(got, list):
            raise ValueError(f"{path}: {name}: got {got!r}, want a list, such as [{got}]")
        for one in got:
            if not isinstance(one, str):
                raise ValueError(f'{path}: {name}: got {one!r}, want text; quote it: "{one}"')


def one_line(error: Exception) -> str:
    """An error in one line for people, with the flag that it is about."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    wrong = re.search(
        r"Parser key \"(.+)\"(?: element \d+)?: Expected a (?:<class '(\w+)'>|typing\.Literal\[(.+)\])\. Got value: (.*)",
        text,
    )
    if wrong:
        return f"--{wrong[1]}: got {wrong[4]}, want {wrong[2] or 'one of ' + wrong[3]}"
    return text
