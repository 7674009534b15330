"""Options as dataclasses: what there is to say of one stands at its field, and the rest follows from there.

A group is a frozen dataclass whose fields are made by `option`; its docstring is the title in the help. The options of a verb
are a frozen dataclass, derived from `Options`, whose fields are groups.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, get_type_hints


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
    path: bool = False,
    old: tuple[str, ...] = (),
) -> Any:
    """A field of a group of options.

    help: what it is, with its unit. least, above, most, below: its range, the limits of `above` and `below` excluded.
    want: what a value is, in words, for the message where there is none. required: empty and missing values are refused.
    free: may be another one when a run goes on, because no result depends on it, or because a fingerprint is compared.
    path: names files, where there are such: kept with absolute paths.
    old: earlier names, which the command line, `--config` and earlier runs still use.
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    said = {"help": help, "want": want, "required": required, "free": free, "path": path, "old": old}
    return dataclasses.field(default=default, metadata={**limits, **said})


def group(kind: type, prefix: str = "", skip: tuple[str, ...] = (), free: bool = False) -> Any:
    """A field of a verb's options: a group, whose flags begin with `prefix` and a point where there is one.

    skip: fields that are no options. free: every field of it may change when a run goes on.
    """
    return dataclasses.field(default_factory=kind, metadata={"prefix": prefix, "skip": skip, "free": free})


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
    def old(self) -> tuple[str, ...]:
        """Earlier names."""
        return self.field.metadata.get("old", ())


@dataclasses.dataclass(frozen=True)
class Options:
    """All of a call of a verb. Raises ValueError naming the option, the value got and the value wanted."""

    def __post_init__(self) -> None:
        for flag in flags(type(self)):
            _check(flag, getattr(getattr(self, flag.group), flag.field.name))
        self.check()

    def check(self) -> None:
        """What one option asks of another; ValueError where it is not so."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values by the names of the flags; those with a prefix are a dictionary under it."""
        values: dict[str, Any] = {}
        for flag in flags(type(self)):
            value = getattr(getattr(self, flag.group), flag.field.name)
            prefix, _, name = flag.name.rpartition(".")
            into = values.setdefault(prefix, {}) if prefix else values
            into[name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; what is missing has its default. ValueError for an unknown name."""
        given = current_names(cls, values)
        parts: dict[str, dict[str, Any]] = {one.name: {} for one in dataclasses.fields(cls)}
        for flag in flags(cls):
            if flag.name in given:
                value = given[flag.name]
                parts[flag.group][flag.field.name] = tuple(value) if isinstance(value, list) else value
        kinds = get_type_hints(cls)
        return cls(**{name: kinds[name](**part) for name, part in parts.items()})

    def resolved(self) -> Self:
        """With absolute paths, so that the run can be repeated or gone on with from any directory."""
        parts = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        for flag in flags(type(self)):
            if flag.field.metadata.get("path"):
                value = getattr(parts[flag.group], flag.field.name)
                parts[flag.group] = dataclasses.replace(parts[flag.group], **{flag.field.name: _absolute(value)})
        return dataclasses.replace(self, **parts)

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first option that a run which goes on must share with its beginning, `other`, and does not, as a message."""
        mine, theirs = current_names(type(self), self.to_dict()), current_names(type(self), other)
        for flag in flags(type(self)):
            # An option that the earlier run does not know had what is now its default.
            before = theirs.get(flag.name, _plain(flag.field.default))
            if not flag.free and mine[flag.name] != before:
                return f"--{flag.name}: got {mine[flag.name]!r}, but the run to resume has {before!r}"
        return None


def flags(kind: type[Options]) -> Iterator[Flag]:
    """The options of a verb, in order."""
    kinds = get_type_hints(kind)
    for one in dataclasses.fields(kind):
        types = get_type_hints(kinds[one.name])
        for field in dataclasses.fields(kinds[one.name]):
            if field.name in one.metadata.get("skip", ()):
                continue
            prefix, free = one.metadata.get("prefix", ""), one.metadata.get("free") or field.metadata.get("free", False)
            name = f"{prefix}.{field.name}" if prefix else field.name
            yield Flag(name, one.name, field, types[field.name], free)


def current_names(kind: type[Options], values: dict[str, Any]) -> dict[str, Any]:
    """Options by the names of their flags, whatever the nesting and the age of the names. ValueError for an unknown one."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    known = {name: flag.name for flag in flags(kind) for name in (flag.name, *flag.old)}
    unknown = [name for name in flat if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]}: is no option here, want one of {', '.join(sorted(set(known.values())))}")
    return {known[name]: value for name, value in flat.items()}


def _check(flag: Flag, value: Any) -> None:
    said = flag.field.metadata
    want = said.get("want", "") or "a value"
    if value is None and flag.field.default is not None:
        raise ValueError(f"--{flag.name}: got no value, want one")
    if said.get("required") and (value is None or value in ("", ()) or (isinstance(value, tuple) and "" in value)):
        raise ValueError(f"--{flag.name}: got none, want {want}")
    if value == "" and flag.field.default != "":
        raise ValueError(f"--{flag.name}: got '', want {want}")
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, (int, float)) and not _within(one, said):
            raise ValueError(f"--{flag.name}: got {one}, want {_range(said)}")


def _within(value: float, said: Any) -> bool:
    low = said.get("least") is None or value >= said["least"]
    high = said.get("most") is None or value <= said["most"]
    above = said.get("above") is None or value > said["above"]
    below = said.get("below") is None or value < said["below"]
    bounded = any(said.get(name) is not None for name in ("least", "most", "above", "below"))
    return low and high and above and below and (not bounded or math.isfinite(value))


def _range(said: Any) -> str:
    if said.get("least") is not None and said.get("most") is not None:
        return f"{said['least']} to {said['most']}"
    words = (("least", "at least"), ("above", "above"), ("most", "at most"), ("below", "below"))
    return " and ".join(f"{word} {said[name]}" for name, word in words if said.get(name) is not None)


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    # A name of a genome, of a data set or of a model on a hub is no path.
    path = Path(value).expanduser() if value else None
    return str(path.absolute()) if path is not None and path.exists() else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
