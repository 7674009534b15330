"""Options: what stands at a field is what is checked, written down, and asked of a run that goes on."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

import pytest

from titans_dna.cli import VERBS, _resolve
from titans_dna.config import TitansConfig
from titans_dna.run.options import Options, current_names, flags, flat, group, nested, option, titles
from titans_dna.tasks.options import FinetuneOptions, LabelOptions, TuneOptions
from titans_dna.train.options import DataOptions, ModelOptions, OptimiserOptions, PretrainOptions, RunOptions


@dataclass(frozen=True)
class Shelf:
    """Shelf: what lies there"""

    books: tuple[str, ...] = option((), "Names.", required=True, want="at least one book", free=True, path="any")
    share: float = option(0.5, "A share.", above=0, most=1)
    count: int = option(1, "A number.", least=1, most=9)
    limit: float = option(0.0, "No limit at all is one.", least=0, most=math.inf)
    width: float = option(2.0, "Above nought.", above=0)
    order: Literal["up", "down"] = option("up", "Which way.", old=("direction", "way"))
    note: str | None = option(None, "A file.", want="a file", path="file", words=("none",))
    log: str | None = option(None, "A file to write.", path="new")
    lengths: tuple[int, ...] = option((3, 4), "Numbers.", least=1)
    work: int = option(0, "A word of the language as a flag.", name="pass")
    again: bool = option(False, "Said of this call alone.", free=True, kept=False)


@dataclass(frozen=True)
class House(Options):
    """A house of its own."""

    shelf: Shelf = group(Shelf)
    config: TitansConfig = group(TitansConfig, prefix="model", skip=("vocab_size",), title="Fields")

    def check(self) -> None:
        if self.shelf.count == 7:
            raise ValueError("--count: got 7, want another one")


GOOD = {"books": ["a"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"books": []}, "--books: got none, want at least one book"),
        ({"books": ["a", ""]}, "--books: got none, want at least one book"),
        ({"share": 0.0}, "--share: got 0.0, want above 0 and at most 1"),
        ({"share": 1.5}, "--share: got 1.5, want above 0 and at most 1"),
        ({"share": math.nan}, "--share: got nan, want above 0 and at most 1"),
        ({"count": 0}, "--count: got 0, want 1 to 9"),
        ({"count": 10}, "--count: got 10, want 1 to 9"),
        ({"count": None}, "--count: got no value, want one"),
        ({"count": 7}, "--count: got 7, want another one"),
        ({"limit": -1.0}, "--limit: got -1.0, want at least 0"),
        ({"limit": math.nan}, "--limit: got nan, want at least 0"),
        ({"width": math.inf}, "--width: got inf, want above 0"),
        ({"order": "left"}, "--order: got left, want one of 'up', 'down'"),
        ({"note": ""}, "--note: got '', want a file"),
        ({"lengths": [3, 0]}, "--lengths: got 0, want at least 1"),
        ({"model": {"width": 3}}, "--model.heads: got 4, want an even head width out of width 3"),
        ({"model": {"widht": 3}}, "model.widht: is no option; did you mean model.width?"),
        ({"model.vocab_size": 3}, "model.vocab_size: is no option"),
        ({"boks": ["a"]}, "boks: is no option; did you mean books?"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError) as error:
        House.from_dict({**GOOD, **change})
    assert str(error.value) == message


def test_the_ends_of_a_range():
    for change in ({"share": 1.0}, {"count": 1}, {"count": 9}, {"limit": math.inf}, {"width": 1e-300}):
        House.from_dict({**GOOD, **change})


def test_to_and_fro():
    house = House(
        Shelf(("a", "b"), order="down", note=None, lengths=(5,), work=3, again=True),
        TitansConfig(width=64, read="before"),
    )
    values = house.to_dict()
    assert [*values] == [
        "books",
        "share",
        "count",
        "limit",
        "width",
        "order",
        "note",
        "log",
        "lengths",
        "pass",
        "model",
    ]
    assert values["books"] == ["a", "b"]
    assert values["pass"] == 3
    assert values["model"]["width"] == 64
    assert "vocab_size" not in values["model"]
    assert House.from_dict(values) == replace(house, shelf=replace(house.shelf, again=False))
    assert House.from_dict(flat(values)) == House.from_dict(values)
    assert nested(flat(values)) == values
    assert titles(House) == {"shelf": "Shelf: what lies there", "config": "Fields"}


def test_old_names():
    assert House.from_dict({**GOOD, "direction": "down"}).shelf.order == "down"
    assert current_names(House, {"way": "up", "model": {"width": 8}}) == {"order": "up", "model.width": 8}
    house = House.from_dict(GOOD)
    before = {name: value for name, value in house.to_dict().items() if name != "order"}
    assert house.difference({**before, "direction": "up"}) is None
    assert house.difference({**before, "way": "down"}) == "--order: got 'up', but the run to resume has 'down'"


def test_difference():
    house = House.from_dict({**GOOD, "count": 2, "books": ["z"], "again": True})
    assert house.difference(House.from_dict({**GOOD, "count": 2}).to_dict()) is None
    assert house.difference(GOOD) == "--count: got 2, but the run to resume has 1"
    other = {**house.to_dict(), "model": {**house.to_dict()["model"], "layers": 5}}
    assert house.difference(other) == "--model.layers: got 2, but the run to resume has 5"
    with pytest.raises(ValueError, match="kount: is no option; did you mean count"):
        house.difference({"kount": 1})


def test_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "none", "note"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    house = House(Shelf(("a", "folder", "hub/name"), note="note", log="log"))
    shelf = house.resolved().shelf
    assert shelf.books == (str(tmp_path / "a"), str(tmp_path / "folder"), "hub/name")
    assert (shelf.note, shelf.log) == (str(tmp_path / "note"), str(tmp_path / "log"))
    for word in ("none", "folder", "nowhere"):
        assert House(Shelf(("a",), note=word)).resolved().shelf.note == word
    assert house.resolved().resolved() == house.resolved()
    assert house.difference(house.resolved().to_dict()) is None


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_option_says_what_it_is(verb):
    kind = _resolve(verb.options)
    names = [flag.name for flag in flags(kind)]
    assert len({*names, *(old for flag in flags(kind) for old in flag.old)}) == len(names) + sum(
        len(flag.old) for flag in flags(kind)
    )
    for flag in flags(kind):
        assert flag.one in (str, int, float, bool) or flag.choices
        if flag.group != "config":
            assert flag.field.metadata["help"].endswith(".")
        if flag.field.metadata.get("required"):
            assert flag.field.metadata["want"]
    assert kind.__doc__.count("Example: titans-dna ") == 1
    # What takes longer than a minute can be gone on with, all in one way.
    assert ("resume" in names) == (verb.name != "plan")


def test_the_order_in_run_yaml_is_that_of_0_1_0():
    values = PretrainOptions(DataOptions(fasta=("lambda",)), ModelOptions()).to_dict()
    names = [one.name for kind in (DataOptions, OptimiserOptions, RunOptions) for one in fields(kind)]
    names.insert(names.index("steps"), "preset")
    assert [*values] == [*(name for name in names if name != "resume"), "model"]
    sequences = FinetuneOptions(LabelOptions(data=("x",)), TuneOptions(preset="tiny")).to_dict()
    assert [*sequences].index("annotation") == [*sequences].index("valid_fraction") + 1
    assert [*sequences].index("model") == [*sequences].index("test_contigs") + 1
    assert "resume" not in sequences


def test_the_variant_named_on_its_own_comes_first():
    given = {"fasta": ["lambda"], "variant": "mag", "model": {"variant": "mal", "width": 64}}
    options = PretrainOptions.from_dict(given)
    assert (options.config.variant, options.config.width) == ("mag", 64)
    assert "variant" not in options.to_dict()
    assert PretrainOptions.from_dict(options.to_dict()).config == options.config


@pytest.mark.parametrize(("annotation", "wanted"), [(None, True), ("genes.bed", False)])
def test_the_two_names_of_rc_in_runs_of_0_1_0(annotation, wanted):
    given = {"rc_average": True, "both_strands": False, "annotation": annotation}
    assert current_names(FinetuneOptions, given)["rc"] is wanted
    assert current_names(FinetuneOptions, {"both_strands": False})["rc"] is False
    assert current_names(FinetuneOptions, {"rc_average": False, "annotation": annotation})["rc"] is False
    assert current_names(PretrainOptions, {"reverse_complement": False}) == {"rc_augment": False}


def test_optimiser_options_stand_alone():
    assert PretrainOptions(DataOptions(fasta=("lambda",)), optimiser=OptimiserOptions(clip=math.inf))
