"""The command line of a verb: a parser made from its options, and one clear line for whatever is wrong."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import yaml

from titans_dna.config import read_yaml
from titans_dna.run.directory import RunDirectory, check_output
from titans_dna.run.options import Flag, Options, check_inputs, current_names, flags, flat, nested, suggestion, titles

Kind = TypeVar("Kind", bound=Options)


def parse(kind: type[Kind], arguments: Sequence[str], *, verb: str, program: str) -> Kind:
    """The options of a verb from its arguments, those after its name. program: what it is called by.

    `--help` and `--print_config` print and end with SystemExit. With `--resume` the options of the run in `--out` are the
    defaults. Raises ValueError or OSError with one line for whatever is wrong with them.
    """
    words = _current(kind, arguments, program)
    # Twice: the run to go on with (or the preset) gives the defaults that the other flags and files then change.
    first = _values(kind, [word for word in words if not word.startswith("--print_config")], program)
    if first.get("resume"):
        defaults = _saved(kind, verb, first["out"], program)
    else:
        defaults = kind.defaults(first, _named(words))
    options = kind.from_dict(_values(kind, [_config(defaults), *words] if defaults else words, program))
    # Before anything is imported that takes seconds.
    check_inputs(options)
    _check_place(options, verb, program)
    return options


def as_typed(kind: type[Options], message: str, arguments: Sequence[str]) -> str:
    """What is wrong with an argument of a function, `layer: got 9`, as the command line calls it: `--layer: got 9`; but not of
    a file of such a name that stands among the arguments."""
    names = {name: flag.name for flag in flags(kind) for name in (flag.name.rpartition(".")[2], flag.name)}
    word = message.partition(": got ")[0]
    return f"--{names[word]}{message.removeprefix(word)}" if word in names and word not in arguments else message


def _check_place(options: Options, verb: str, program: str) -> None:
    """What is wrong with `--out`, where there is one; OSError or ValueError as `RunDirectory` and `check_output` have it."""
    kind, given = type(options), {flag.name: options.value(flag) for flag in flags(type(options))}
    if not kind.output or "LOCAL_RANK" in os.environ:  # of further processes of a run that began
        return
    resume, out = given.get("resume", False), Path(given["out"])
    if kind.output == "run":
        RunDirectory(out, verb, record=kind.record, command=program).check(resume, options)
    elif kind.output == "file":
        inputs = [
            one
            for flag in flags(kind)
            if flag.field.metadata.get("path") == "input"
            for one in _listed(given[flag.name])
        ]
        check_output([out], inputs=inputs, overwrite=given["overwrite"])
    else:
        RunDirectory(out, verb).check(False)


def _listed(value: Any) -> Sequence[str]:
    return value if isinstance(value, tuple) else [value] if value else []


def _values(kind: type[Options], words: list[str], program: str) -> dict[str, Any]:
    """Plain values by the names of the flags."""
    try:
        found = _parser(kind, program).parse_args(words)
    except ArgumentError as error:
        raise ValueError(_of_parser(str(error))) from None
    return {flag.name: found[flag.name] for flag in flags(kind)}


def _named(words: list[str]) -> set[str]:
    """The flags that have a value in arguments or files, as `_current` gives them."""
    names = set[str]()
    for name, item in _items(words):
        names |= flat(yaml.safe_load(item[0].partition("=")[2]) or {}).keys() if name == "config" else {name}
    return names


def _saved(kind: type[Options], verb: str, out: str, program: str) -> dict[str, Any]:
    """The options of the run in a directory."""
    if not out:
        raise ValueError("--out: got none, want that of the run to go on with")
    aside = kind.output in ("file", "whole")
    place = RunDirectory.beside(out, verb) if aside else RunDirectory(out, verb, record=kind.record, command=program)
    saved = place.options()
    try:
        before = {flag.name: flag.before for flag in flags(kind) if flag.before != flag.default}
        return {**before, **kind.upgraded(current_names(kind, saved)), "out": out}
    except ValueError as error:
        raise ValueError(f"--resume: {out}: {place.record} is not as {program} wrote it: {error}") from None


def _parser(kind: type[Options], program: str) -> Any:
    """The flags of a verb with their help."""
    import jsonargparse  # as late as this, because it takes a third of a second

    class Formatter(jsonargparse.DefaultHelpFormatter):
        def _get_help_string(self, action: Any) -> str:
            return action.help or ""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            parts = text.split("\n\n")
            return "\n\n".join(super(Formatter, self)._fill_text(part, width, indent) for part in parts)

    class Parser(jsonargparse.ArgumentParser):
        def _print_message(self, message: str, file: Any = None) -> None:
            # As argparse does, which takes no notice where there is no room for it.
            print(message, end="", file=file or sys.stdout)

    parser = Parser(
        prog=program,
        usage=f"{program} [options]",
        description=getdoc(kind),
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    parser.add_argument(
        "--config", action="config", metavar="FILE", help="YAML file of options, named as the flags; later ones win."
    )
    printing = next(one for one in parser._actions if "--print_config" in one.option_strings)
    printing.help = "Print all options as such a file, and end; with =skip_default those that are not the default."
    groups = {name: parser.add_argument_group(title) for name, title in titles(kind).items()}
    helps = _docstrings(kind)
    for flag in flags(kind):
        about: dict[str, Any] = {"type": flag.one, "default": flag.default, "metavar": _metavar(flag)}
        if flag.several:
            # A list of the model's that is named without a value is empty, whatever a file says.
            about |= {"nargs": "*" if flag.name.startswith("model.") else "+"}
        elif flag.type is bool:
            about |= {"nargs": "?", "const": True}
        text = helps[flag.name] if flag.name in helps else flag.field.metadata["help"] + _default(flag)
        groups[flag.group].add_argument(f"--{flag.name}", help=text, **about)
    return parser


def _docstrings(kind: type[Options]) -> dict[str, str]:
    """Help for the fields of a group that is more than that, such as the configuration of a model: their docstrings. Its
    defaults are those of the class, and not what the verb begins with."""
    from docstring_parser import parse_from_object

    kinds, found = get_type_hints(kind), {}
    for name in {flag.group for flag in flags(kind) if "help" not in flag.field.metadata}:
        said = {one.arg_name: " ".join(str(one.description).split()) for one in parse_from_object(kinds[name]).params}
        found |= {flag.name: said[flag.field.name] for flag in flags(kind) if flag.group == name}
    return found


def _metavar(flag: Flag) -> str | None:
    if flag.choices or flag.type is bool:
        return "{" + ",".join(flag.choices or ("true", "false")) + "}"
    path = "PATH" if flag.field.metadata.get("path") or flag.name == "out" else "NAME"
    return {int: "N", float: "X"}.get(flag.one, path)


def _default(flag: Flag) -> str:
    default = flag.default
    if flag.field.metadata.get("required"):
        return " (required)"
    if default is None or default in ("", []):
        return ""
    shown = " ".join(map(str, default)) if flag.several else str(default).lower() if flag.type is bool else default
    return f" (default: {shown})"


class _Item(NamedTuple):
    """A flag and what follows it."""

    name: str
    words: list[str]


def _items(arguments: Sequence[str]) -> Iterator[_Item]:
    name, words = "", list[str]()
    for word in arguments:
        if word.startswith("--"):
            yield _Item(name, words)
            name, words = word[2:].split("=", 1)[0], []
        words.append(word)
    yield _Item(name, words)


def _current(kind: type[Options], arguments: Sequence[str], program: str) -> list[str]:
    """The arguments with today's names, and with what files say in place of the files. ValueError for what the parser would
    take in silence, or word obscurely."""
    known = {name: flag for flag in flags(kind) for name in (flag.name, *flag.old)}
    items = [one for one in _items(arguments) if one.words]
    for name, words in items:
        if words[0].startswith("--") and name not in (*known, "config", "print_config", "help"):
            raise ValueError(f"--{name}: is no option of {program}{suggestion(name, known, '--')}")
    given: dict[str, Any] = {name: words for name, words in items if name in known}
    files = [_read(kind, words, program) if name == "config" else {} for name, words in items]
    for values in files:
        given |= values
    spared = kind.outdated(given)
    names = [known[name].name for name, _ in items if name in known and name not in spared]
    for name in names:
        several = known[name].several
        if (times := names.count(name)) > 1 and (several or not kind.overridable):
            want = f"once with all the names: --{name} A B" if several else "once"
            raise ValueError(f"--{name}: got it {times} times, want it {want}")
    for name in dict.fromkeys(name for name in given if name in known and name != known[name].name):
        print(f"{program}: --{name} is now --{known[name].name}", file=sys.stderr)
    found: list[str] = []
    for (name, words), values in zip(items, files, strict=True):
        if name == "config":
            kept = {known[one].name: value for one, value in values.items() if one not in spared}
            found += [_config(kept), *words[1 if "=" in words[0] else 2 :]]
        elif name not in spared:
            found += [words[0].replace(name, known[name].name, 1), *words[1:]] if name in known else words
    return found


def _read(kind: type[Options], words: list[str], program: str) -> dict[str, Any]:
    """The options of `--config FILE`, by whole names; a text in place of a file is taken as what one would hold."""
    path = words[0].partition("=")[2] or "".join(words[1:2])
    file = os.path.isfile(path)
    try:
        values = read_yaml(Path(path).read_text(encoding="utf-8") if file else path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        if not path:
            raise ValueError("--config: got no value, want a file")
        if not file:
            raise FileNotFoundError(f"--config: {path}: no such file")
        raise ValueError(f"{path}: got {values!r}, want options, such as steps: 100")
    known = {name: flag for flag in flags(kind) for name in (flag.name, *flag.old)}
    for name in {name.partition(".")[0] for name in known if "." in name} - known.keys():
        if not isinstance(values.get(name, {}), dict):
            raise ValueError(f"{path}: {name}: got {values[name]!r}, want fields, such as {{layers: 2}}")
    found = {}
    for name, value in flat(values).items():
        if name not in known:
            raise ValueError(f"{path}: {name}: is no option of {program}{suggestion(str(name), known)}")
        try:
            found[name] = _read_value(known[name], value)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from None
    return found


def _read_value(flag: Flag, value: Any) -> Any:
    if flag.several and not isinstance(value, list):
        raise ValueError(f"got {value!r}, want a list, such as [{value}]")
    if str(value) in flag.choices:
        return str(value)
    for one in value if flag.several else (value,):
        if flag.one is str and not isinstance(one, str | None):
            raise ValueError(f'got {one!r}, want text; quote it: "{one}"')
    return value


def _config(values: dict[str, Any]) -> str:
    """Options as the parser takes them from a file."""
    return "--config=" + yaml.safe_dump(nested(values))


def _of_parser(text: str) -> str:
    """What the parser finds wrong, with the flag that it is about."""
    text = " ".join(text.split())
    wrong = re.search(
        r"Parser key \"(.+)\"(?: element \d+)?: Expected a (?:<class '(\w+)'>|typing\.Literal\[(.+)\])\. Got value: (.*)",
        text,
    )
    if wrong:
        return f"--{wrong[1]}: got {wrong[4]}, want {wrong[2] or 'one of ' + wrong[3]}"
    return re.sub(r"^argument (--[\w.]+): expected (?:at least )?one argument$", r"\1: got no value, want one", text)
