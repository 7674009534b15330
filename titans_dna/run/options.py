"""Options as dataclasses: what there is to say of one stands at its field, and the rest follows from there.

A group is a frozen dataclass whose fields are made by `option`; its docstring is the title in the help. The options of a verb
are a frozen dataclass, derived from `Options`, whose fields are groups; its docstring is what the help says first. From
these follow the command line (`titans_dna.run.commandline`), `run.yaml`, and what a run that goes on is held to.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Iterable, Set
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from titans_dna.config import shipped_models


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    want: str = "",
    required: bool = False,
    free: bool = False,
    kept: bool = True,
    path: Literal["", "input", "model", "data", "file", "any", "new"] = "",
    words: tuple[str, ...] = (),
    name: str = "",
    old: tuple[str, ...] = (),
    before: Any = ...,
) -> Any:
    """A field of a group of options.

    help: what it is, with its unit. least, above, most, below: its range, the limits of `above` and `below` excluded; a
        number with a range is finite, unless `most` is infinite.
    want: what a value is, in words, for the message where there is none. required: empty and missing values are refused.
    free: may be another one when a run goes on, because no result depends on it, or because a fingerprint is compared.
    kept: is written down with the run; what only says how this call is meant is not.
    path: names files, and is kept with absolute paths: where there is such a file ("file"), a file or a directory ("any"),
        or always, for a file to be written ("new"). "input": a file that has to be there. "model": a directory, or a name on
        a hub. "data": a file, a directory, or the name of a data set. words: these are no paths, whatever files there are.
    name: of the flag, where the field cannot have it.
    old: earlier names, which the command line, `--config` and earlier runs still use.
    before: what runs had that do not know the option, where that is not the default.
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    said = {"help": help, "want": want, "required": required, "free": free, "kept": kept, "path": path, "words": words}
    return dataclasses.field(default=default, metadata={**limits, **said, "name": name, "old": old, "before": before})


def group(kind: type, prefix: str = "", skip: tuple[str, ...] = (), free: bool = False, title: str = "") -> Any:
    """A field of a verb's options: a group, whose flags begin with `prefix` and a point where there is one.

    skip: fields that are no options. free: every field of it may change when a run goes on. title: in the help, in place of
    its docstring.
    """
    about = {"prefix": prefix, "skip": skip, "free": free, "title": title}
    return dataclasses.field(default_factory=kind, metadata=about)


def resume_option() -> Any:
    """The field `resume: bool` of a verb that can take long."""
    said = "Go on with the unfinished run of --out; its own options are the defaults."
    return option(False, said, free=True, kept=False)


Accelerator = Literal["auto", "cpu", "cuda"]
"""What `accelerator_option` is for."""


def accelerator_option(what: str = "compute on") -> Any:
    """The field `accelerator: Accelerator` of a verb that computes."""
    return option("auto", f"Device to {what}; auto takes a GPU where there is one.", free=True)


def threads_option() -> Any:
    """The field `threads: int`, which `choose_device` takes."""
    return option(0, "CPU threads; 0 leaves the choice to PyTorch.", least=0, most=4096, free=True)


class Flag(NamedTuple):
    """One option of a verb."""

    name: str
    """As the command line has it, without the dashes: `steps`, `model.width`."""
    group: str
    """Field of the verb's options that it belongs to."""
    field: dataclasses.Field[Any]
    type: Any
    free: bool
    """Whether it may change when a run goes on."""

    @property
    def default(self) -> Any:
        """As a plain value."""
        return _plain(self.field.default)

    @property
    def before(self) -> Any:
        """The value of a run that does not know the option, as a plain one."""
        before = self.field.metadata.get("before", ...)
        return self.default if before is ... else before

    @property
    def old(self) -> tuple[str, ...]:
        """Earlier names."""
        return self.field.metadata.get("old", ())

    @property
    def kept(self) -> bool:
        """Whether it is written down with the run."""
        return self.field.metadata.get("kept", True)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that there are, where they are words."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def several(self) -> bool:
        """Whether it is a list."""
        return get_origin(self.type) is tuple

    @property
    def one(self) -> Any:
        """The type of a value, of a list that of its elements: str, int, float, bool, or the `Literal` of its choices."""
        if self.several or get_origin(self.type) in (Union, types.UnionType):
            return next(one for one in get_args(self.type) if one is not types.NoneType)
        return self.type


@dataclasses.dataclass(frozen=True)
class Options:
    """All of a call of a verb. Raises ValueError naming the option, the value got and the value wanted."""

    record: ClassVar[str] = "run.yaml"
    """The file of a run's directory with its options."""
    output: ClassVar[str] = ""
    """What `--out` names, which is then looked at before anything else: the directory of a run ("run"), or a file ("file") or a
    directory ("whole") that appears whole or not at all, with the directory of an unfinished run beside it."""
    overridable: ClassVar[bool] = False
    """Whether the last one counts of a flag that is there twice, as where a script adds to a command; else that is refused, as
    is a list that is there twice."""

    def __post_init__(self) -> None:
        for flag in flags(type(self)):
            _check(flag, self.value(flag))
        for flag in flags(type(self)):
            if flag.field.metadata.get("required") and _is_missing(self.value(flag)):
                raise ValueError(f"--{flag.name}: got none, want {flag.field.metadata.get('want') or 'a value'}")
        self.check()

    def check(self) -> None:
        """What one option asks of another; ValueError where it is not so."""

    @classmethod
    def defaults(cls, values: dict[str, Any], named: Set[str]) -> dict[str, Any]:
        """Defaults that follow from other options, all by the names of their flags. named: those that were given."""
        return {}

    @classmethod
    def upgraded(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """The options of a run that an earlier version began, by today's names, with today's values of the same meaning."""
        return saved

    @classmethod
    def outdated(cls, given: dict[str, Any]) -> set[str]:
        """Of the names that are given with their values, earlier ones that mean nothing beside the others."""
        return set()

    def value(self, flag: Flag) -> Any:
        """The value of an option."""
        return getattr(getattr(self, flag.group), flag.field.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by the names of the flags; those with a prefix are a dictionary under it, after the others."""
        return nested({flag.name: _plain(self.value(flag)) for flag in flags(type(self)) if flag.kept})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; what is missing has its default. ValueError for an unknown name."""
        given = current_names(cls, values)
        parts: dict[str, dict[str, Any]] = {one.name: {} for one in dataclasses.fields(cls)}
        for flag in flags(cls):
            if flag.name in given:
                value = given[flag.name]
                parts[flag.group][flag.field.name] = tuple(value) if isinstance(value, list) else value
        kinds, made = get_type_hints(cls), {}
        for one in dataclasses.fields(cls):
            prefix = one.metadata.get("prefix", "")
            try:
                made[one.name] = kinds[one.name](**parts[one.name])
            except ValueError as error:
                raise ValueError(f"--{prefix}.{error}" if prefix else str(error)) from None
        return cls(**made)

    def resolved(self) -> Self:
        """With absolute paths, so that the run can be repeated or gone on with from any directory."""
        parts = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        for flag in flags(type(self)):
            if flag.field.metadata.get("path"):
                value = _absolute(self.value(flag), flag.field.metadata)
                parts[flag.group] = dataclasses.replace(parts[flag.group], **{flag.field.name: value})
        return dataclasses.replace(self, **parts)

    def fixed(self) -> dict[str, Any]:
        """What a run that goes on must share with its beginning, as plain values; what it would be without the option is left
        out, so that options to come change nothing."""
        now = self.resolved()
        values = {
            flag.name: (_plain(now.value(flag)), flag) for flag in flags(type(self)) if flag.kept and not flag.free
        }
        return {name: value for name, (value, flag) in values.items() if value != flag.before}

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first option that a run which goes on must share with its beginning, `other`, and does not, as a message."""
        now, before = self.resolved(), self.upgraded(current_names(type(self), other))
        for flag in flags(type(self)):
            mine, theirs = _plain(now.value(flag)), before.get(flag.name, flag.before)
            if flag.kept and not flag.free and mine != theirs:
                return f"--{flag.name}: got {mine!r}, but the run to resume has {theirs!r}"
        return None


@cache
def flags(kind: type[Options]) -> tuple[Flag, ...]:
    """The options of a verb, in order; those of groups with a prefix after the others."""
    kinds, found = get_type_hints(kind), []
    for one in sorted(dataclasses.fields(kind), key=lambda one: bool(one.metadata.get("prefix"))):
        hints, prefix = get_type_hints(kinds[one.name]), one.metadata.get("prefix", "")
        for field in dataclasses.fields(kinds[one.name]):
            if field.name in one.metadata.get("skip", ()):
                continue
            name, free = field.metadata.get("name") or field.name, field.metadata.get("free", False)
            name = f"{prefix}.{name}" if prefix else name
            found.append(Flag(name, one.name, field, hints[field.name], one.metadata.get("free", False) or free))
    return tuple(found)


def titles(kind: type[Options]) -> dict[str, str]:
    """What the help says of each group, by its field, in the order of the options."""
    kinds, about = get_type_hints(kind), {one.name: one.metadata for one in dataclasses.fields(kind)}
    return {flag.group: about[flag.group].get("title") or str(kinds[flag.group].__doc__) for flag in flags(kind)}


def current_names(kind: type[Options], values: dict[str, Any]) -> dict[str, Any]:
    """Options by the names of their flags, whatever the nesting and the age of the names. ValueError for an unknown one."""
    given = flat(values)
    known = {name: flag.name for flag in flags(kind) for name in (flag.name, *flag.old)}
    for name in given:
        if name not in known:
            raise ValueError(f"{name}: is no option{suggestion(name, known)}")
    spared = kind.outdated(given)
    return {known[name]: value for name, value in given.items() if name not in spared}


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Options by whole names, `model.width`, of nested ones."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return found


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        prefix, _, inner = name.rpartition(".")
        (found.setdefault(prefix, {}) if prefix else found)[inner] = value
    return found


def suggestion(name: str, known: Iterable[str], dashes: str = "") -> str:
    """The name that may have been meant, as the end of a message, where there is a like one."""
    prefix, tail = name[: name.rfind(".") + 1], name[name.rfind(".") + 1 :]
    near = get_close_matches(tail, [one.removeprefix(prefix) for one in known if one.startswith(prefix)], n=1)
    return f"; did you mean {dashes}{prefix}{near[0]}?" if near else ""


def check_inputs(options: Options) -> None:
    """FileNotFoundError naming the flag and the path where a file or a directory that is named is not there."""
    for flag in flags(type(options)):
        kind, value = flag.field.metadata.get("path"), options.value(flag)
        if kind not in ("input", "model", "data") or not value:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            name = one in flag.field.metadata["words"]
            name |= kind == "model" and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", one) is not None
            name |= kind == "model" and one in shipped_models()
            name |= kind == "data" and "/" not in one and not Path(one).suffix
            if not name and not Path(one).expanduser().exists():
                what = "directory" if kind == "model" else "file"
                want = flag.field.metadata.get("want")
                near = suggestion(one, shipped_models()) if kind == "model" else ""
                raise FileNotFoundError(f"--{flag.name}: {one}: no such {what}" + f", want {want}" * bool(want) + near)


def _check(flag: Flag, value: Any) -> None:
    said, default = flag.field.metadata, flag.field.default
    want, values = said.get("want", "") or "a value", value if isinstance(value, tuple) else (value,)
    if said.get("required") and _is_missing(value):
        return  # said last, after what is wrong with those that are there
    if value is None and default is not None:
        raise ValueError(f"--{flag.name}: got no value, want one")
    if "" in values and default != "":
        raise ValueError(f"--{flag.name}: got '', want {want}")
    for one in values:
        if flag.choices and one not in flag.choices:
            raise ValueError(f"--{flag.name}: got {one}, want one of {', '.join(map(repr, flag.choices))}")
        if isinstance(one, (int, float)) and not _within(one, said):
            raise ValueError(f"--{flag.name}: got {one}, want {_range(said)}")


def _is_missing(value: Any) -> bool:
    return value in (None, "", ()) or (isinstance(value, tuple) and "" in value)


def _within(value: float, said: Any) -> bool:
    least, above, most, below = (said.get(name) for name in ("least", "above", "most", "below"))
    low = (least is None or value >= least) and (above is None or value > above)
    high = (most is None or value <= most) and (below is None or value < below)
    bounded = (least, above, most, below) != (None,) * 4
    return low and high and (not bounded or most == math.inf or math.isfinite(value))


def _range(said: Any) -> str:
    limits = {
        name: said[name] for name in ("least", "above", "most", "below") if said.get(name) not in (None, math.inf)
    }
    if limits.keys() == {"least", "most"}:
        return f"{limits['least']} to {limits['most']}"
    words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
    return " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def _absolute(value: Any, said: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_absolute(one, said) for one in value)
    # A name of a genome, of a data set or of a model on a hub is no path.
    if not value or value in said["words"]:
        return value
    path = Path(value).expanduser()
    there = {"file": path.is_file, "new": lambda: True}.get(said["path"], path.exists)
    return str(path.absolute()) if there() else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
