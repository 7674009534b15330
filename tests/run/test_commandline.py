"""A verb is one new module and one row: what it gets for that, and how the command line says what is wrong."""

import signal
import sys

import pytest
import yaml

from titans_dna import cli
from titans_dna.run.commandline import as_typed
from titans_dna.train.options import PretrainOptions

TOY = '''
"""Count words."""

import os
from dataclasses import dataclass

from titans_dna.run.options import Options, group, option, resume_option


@dataclass(frozen=True)
class Words:
    """Words: what is counted"""

    words: tuple[str, ...] = option((), "What to count.", required=True, want="at least one word")
    least: int = option(1, "Fewest letters of a word, %d or 50 % of them.", least=1, most=20, old=("shortest",))
    share: float = option(0.5, "A share.", above=0, below=1)
    numbers: tuple[int, ...] = option((1, 2), "Numbers.", least=0)
    loud: bool = option(False, "In capitals.")
    quiet: bool = option(True, "Without.", old=("silent",))
    name: str | None = option(None, "Whose words they are.", want="a name")
    out: str = option("", "Directory.", want="a directory", free=True)
    resume: bool = resume_option()


@dataclass(frozen=True)
class ToyOptions(Options):
    """Count words.

    Example: titans-dna toy --words some more
    """

    words: Words = group(Words)


def toy(options: ToyOptions) -> int:
    """Print the number of words."""
    asked = options.words.words
    if asked[0] == "signal":
        os.kill(os.getpid(), int(asked[1]))
    if asked[0] == "nan":
        raise FloatingPointError("the state is not finite")
    if asked[0] == "file":
        open("nowhere/file")
    kept = [one for one in asked if len(one) >= options.words.least]
    print(len(kept), options.words)
    return 0
'''


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """The new module, and the row."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_verb.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        cli, "VERBS", (*cli.VERBS, cli.Verb("toy", "toy_verb:ToyOptions", "toy_verb:toy", "count", "count toys"))
    )
    yield tmp_path
    sys.modules.pop("toy_verb", None)


def call(capsys, line):
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split() if isinstance(line, str) else line)
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def printed(capsys, line):
    status, out, _ = call(capsys, f"{line} --print_config")
    assert status == 0
    return yaml.safe_load(out)


def test_it_runs(capsys):
    status, out, err = call(
        capsys, "toy --words one to three --least 3 --loud --share=0.25 --numbers 3 4 --quiet false"
    )
    assert (status, err) == (0, "")
    assert out.startswith(
        "2 Words(words=('one', 'to', 'three'), least=3, share=0.25, numbers=(3, 4), loud=True, quiet=F"
    )


def test_help(capsys):
    status, out, _ = call(capsys, "toy --help")
    text = " ".join(out.split())
    assert status == 0
    for words in (
        "usage: titans-dna toy [options]",
        "Count words. Example: titans-dna toy --words some more",
        "Words: what is counted:",
        "--words NAME [NAME ...] What to count. (required)",
        "--least N Fewest letters of a word, %d or 50 % of them. (default: 1)",
        "--loud [{true,false}] In capitals. (default: false)",
        "--numbers N [N ...] Numbers. (default: 1 2)",
        "--name NAME Whose words they are. --out",
        "--config FILE",
        "--print_config",
        "--resume",
    ):
        assert words in text
    for noise in ("Literal", "null", "type:", "shortest", "silent"):
        assert noise not in text
    assert "\n  toy        count\n" in call(capsys, "--help")[1]


def test_a_config_and_its_print(toy, capsys):
    (toy / "a.yaml").write_text("words: [a, b]\nleast: 3\nshare: 1e-3\nname: '7'\nloud: true\n")
    (toy / "b.yaml").write_text("least: 4\n")
    assert printed(capsys, "toy --config a.yaml") == {
        "words": ["a", "b"], "least": 3, "share": 0.001, "numbers": [1, 2], "loud": True, "quiet": True, "name": "7",
        "out": "", "resume": False,
    }  # fmt: skip
    for line, least in (
        ("--least 2 --config a.yaml --config=b.yaml", 4),
        ("--config b.yaml --config a.yaml", 3),
        ("--config a.yaml --least 2", 2),
    ):
        values = printed(capsys, f"toy {line}")
        assert values["least"] == least
        (toy / "again.yaml").write_text(yaml.safe_dump(values))
        assert printed(capsys, "toy --config again.yaml") == values
    assert call(capsys, ["toy", "--config", "{words: [a], least: 1}"])[1].startswith("1 Words(words=('a',), least=1,")


BAD = {
    "none": ("", "--words: got none, want at least one word"),
    "empty": ("--words", "--words: got no value, want one"),
    "no value": ("--words a --least", "--least: got no value, want one"),
    "range": ("--words a --least 21", "--least: got 21, want 1 to 20"),
    "type": ("--words a --least many", "--least: got many, want int"),
    "whole": ("--words a --least 1.5", "--least: got 1.5, want int"),
    "in a list": ("--words a --numbers 1 x", "--numbers: got x, want int"),
    "share": ("--words a --share 1", "--share: got 1.0, want above 0 and below 1"),
    "truth": ("--words a --loud perhaps", "perhaps"),
    "unknown": ("--words a --leats 3", "--leats: is no option of titans-dna toy; did you mean --least?"),
    "unlike": ("--words a --zzz 3", "--zzz: is no option of titans-dna toy\n"),
    "abbreviated": ("--word a", "--word: is no option of titans-dna toy; did you mean --words?"),
    "alone": ("a --words b", "unrecognized arguments: a"),
    "twice": ("--words a --least 2 --least 3", "--least: got it 2 times, want it once"),
    "list twice": ("--words a --words b", "--words: got it 2 times, want it once with all the names: --words A B"),
    "both names": ("--words a --silent --quiet", "--quiet: got it 2 times, want it once"),
    "no text": ("--words a --name=", "--name: got '', want a name"),
    "no file": ("--config nope.yaml", "--config: nope.yaml: no such file"),
    "no file at all": ("--config", "--config: got no value, want a file"),
    "a directory": ("--config .", ".: no such file"),
    "broken": ("--config broken.yaml", "broken.yaml: not valid YAML: while parsing"),
    "key": ("--config key.yaml", "key.yaml: wrods: is no option of titans-dna toy; did you mean words?"),
    "no list": ("--config text.yaml", "text.yaml: words: got 'a', want a list, such as [a]"),
    "no text in a list": ("--config number.yaml", 'number.yaml: words: got 1, want text; quote it: "1"'),
    "no text in a file": ("--words a --config name.yaml", 'name.yaml: name: got 7, want text; quote it: "7"'),
    "null": ("--words a --config null.yaml", "--least: got no value, want one"),
    "type in a file": ("--words a --config type.yaml", "--least: got [1], want int"),
    "nothing": ("--config nothing.yaml", "nothing.yaml: got None, want options, such as steps: 100"),
    "no out": ("--words a --resume", "--out: got none, want that of the run to go on with"),
    "nothing there": ("--resume --out x", "--resume: x holds no run of titans-dna toy to resume (run.yaml is missing)"),
    "damaged": ("--resume --out damaged", "damaged/run.yaml: not valid YAML"),
    "another verb's": (
        "--resume --out other",
        "--resume: other: run.yaml is not as titans-dna toy wrote it: steps: is no",
    ),
    "missing": ("--words file", "nowhere/file: No such file or directory"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_one_line(toy, capsys, name):
    for file, text in {
        "broken.yaml": "words: [a\n", "key.yaml": "wrods: [a]\n", "text.yaml": "words: a\n", "number.yaml": "words: [1]\n",
        "name.yaml": "name: 7\n", "null.yaml": "least:\n", "type.yaml": "least: [1]\n", "nothing.yaml": "",
        "damaged/run.yaml": "words: [", "other/run.yaml": "steps: 3\n",
    }.items():  # fmt: skip
        (toy / file).parent.mkdir(exist_ok=True)
        (toy / file).write_text(text)
    line, message = BAD[name]
    status, out, err = call(capsys, f"toy {line}")
    assert (status, out) == (2, "")
    assert err.startswith("titans-dna: error: ")
    assert err.count("\n") == 1
    assert message in err


def test_the_run_that_goes_on_gives_the_defaults(toy, capsys):
    (toy / "run").mkdir()
    (toy / "run" / "run.yaml").write_text("words: [x, y]\nshortest: 2\nloud: true\nout: elsewhere\n")
    values = printed(capsys, "toy --resume --out run --share 0.25")
    assert (values["words"], values["least"], values["loud"], values["share"]) == (["x", "y"], 2, True, 0.25)
    assert (values["out"], values["resume"]) == ("run", True)
    status, out, err = call(capsys, "toy --resume --out run --least 1")
    assert (status, err) == (0, "")
    assert out.startswith("2 Words(words=('x', 'y'), least=1")


def test_old_names_have_one_line(toy, capsys):
    status, out, err = call(capsys, "toy --words abc --shortest=3 --silent false")
    assert (status, "least=3" in out, "quiet=False" in out) == (0, True, True)
    assert err.splitlines() == ["titans-dna toy: --shortest is now --least", "titans-dna toy: --silent is now --quiet"]
    (toy / "old.yaml").write_text("words: [a]\nshortest: 2\n")
    status, out, err = call(capsys, "toy --config old.yaml")
    assert (status, out[:2], err) == (0, "0 ", "titans-dna toy: --shortest is now --least\n")
    status, _, err = call(capsys, "count toys --words a")
    assert (status, err) == (0, "titans-dna: count toys is now toy\n")


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (f"signal {int(signal.SIGINT)}", 130, "titans-dna: interrupted\n"),
        (f"signal {int(signal.SIGTERM)}", 143, "titans-dna: interrupted\n"),
        ("nan", 1, "titans-dna: stopped: the state is not finite\n"),
    ],
)
def test_how_it_can_end(capsys, words, status, line):
    before = signal.getsignal(signal.SIGTERM)
    assert call(capsys, f"toy --words {words}")[::2] == (status, line)
    assert signal.getsignal(signal.SIGTERM) is before


def test_verbs(capsys):
    assert call(capsys, "")[:2] == call(capsys, "-h")[:2] == call(capsys, "--help")[:2]
    assert call(capsys, "--help")[0] == 0
    assert call(capsys, "--version")[1].startswith("titans-dna 0.")
    status, _, err = call(capsys, "pretrian --fasta x")
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith("; did you mean pretrain?\n")
    for line in ("bench", "bench needle --out x"):
        status, _, err = call(capsys, line)
        assert (status, err.count("\n")) == (2, 1)
        assert "python scripts/bench_needle.py" in err
    status, _, err = call(capsys, "bench context --out x")
    assert (status, err.splitlines()) == (
        2, ["titans-dna: bench context is now context", "titans-dna: error: --model: got none, want a model directory"]
    )  # fmt: skip


def test_strands_of_0_1_0(toy, capsys):
    """Either name of `--rc`, and both at once: the one that applies."""
    (toy / "printed.yaml").write_text("preset: tiny\ndata: [x]\nrc_average: false\nboth_strands: true\n")
    assert printed(capsys, "finetune --config printed.yaml")["rc"] is False
    (toy / "bases.yaml").write_text("preset: tiny\nfasta: [x]\nrc_average: false\nboth_strands: true\n")
    assert printed(capsys, "finetune --config bases.yaml --annotation y")["rc"] is True
    line = "finetune --preset tiny --fasta x --annotation y --rc_average --both_strands false --seed 3"
    values = printed(capsys, line)
    assert (values["rc"], values["seed"]) == (False, 3)
    assert printed(capsys, "pretrain --fasta lambda --reverse_complement false")["rc_augment"] is False


@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        ("width: got 3, want more", [], "--model.width: got 3, want more"),
        ("steps: got 3", [], "--steps: got 3"),
        ("fasta: got 2 columns", ["--fasta", "fasta"], "fasta: got 2 columns"),
        ("steps: no such file", [], "steps: no such file"),
        ("x.fa: got steps: got 3", [], "x.fa: got steps: got 3"),
    ],
)
def test_arguments_are_named_as_they_were_typed(message, arguments, shown):
    assert as_typed(PretrainOptions, message, arguments) == shown
