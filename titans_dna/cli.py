"""`titans-dna`: the table of its verbs, and the way from its arguments to one of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from titans_dna.run.signals import ended, late

PROGRAM = "titans-dna"


class Verb(NamedTuple):
    """What `titans-dna` can do. Modules are imported when the verb is chosen, so that help and bad input take no time."""

    name: str
    options: str
    """Its options, derived from `run.options.Options`, as `module:class`; the help begins with the docstring."""
    function: str
    """What does it, as `module:function`: from the options to the exit status."""
    help: str
    """One line of help."""
    old: str = ""
    """Earlier name."""


VERBS = (
    Verb(
        "pretrain", "titans_dna.train.options:PretrainOptions", "titans_dna.verbs:pretrain",
        "train a model on genome files",
    ),
    Verb(
        "embed", "titans_dna.reading.options:EmbedOptions", "titans_dna.verbs:embed",
        "turn sequences into vectors",
    ),
    Verb(
        "remember", "titans_dna.reading.options:RememberOptions", "titans_dna.verbs:remember",
        "read sequence into a state file, to go on from or to ask later",
    ),
    Verb(
        "finetune", "titans_dna.tasks.options:FinetuneOptions", "titans_dna.verbs:finetune",
        "train a model on labelled sequences",
    ),
    Verb(
        "evaluate", "titans_dna.tasks.use_options:EvaluateOptions", "titans_dna.verbs:evaluate",
        "score a fine-tuned model on labelled sequences",
    ),
    Verb(
        "predict", "titans_dna.tasks.use_options:PredictOptions", "titans_dna.verbs:predict",
        "classes and probabilities of sequences",
    ),
    Verb(
        "benchmark", "titans_dna.tasks.use_options:BenchmarkOptions", "titans_dna.verbs:benchmark",
        "fine-tune on every data set of a suite",
    ),
    Verb(
        "context", "titans_dna.context.options:ContextOptions", "titans_dna.verbs:context",
        "bits per base of held-out sequence over the context read", old="bench context",
    ),
    Verb(
        "plan", "titans_dna.planning.options:PlanOptions", "titans_dna.verbs:plan",
        "memory, time and settings of a run to come",
    ),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `titans-dna` with these arguments, by default the process's; ends with SystemExit.

    Exit status: 0 done, 1 the run had to stop, 2 wrong input (one line on stderr), 130 and 143 interrupted and saved.
    """
    # Nothing else is imported before: a signal may come at any moment.
    status = ended(lambda: _run(list(sys.argv[1:] if arguments is None else arguments)), PROGRAM)
    if arguments is None:
        late()
    raise SystemExit(status)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"{PROGRAM} {version(PROGRAM)}")
        return 0
    from titans_dna.run.commandline import as_typed, parse

    verb, rest = _choose(arguments)
    kind = _resolve(verb.options)
    try:
        return _resolve(verb.function)(parse(kind, rest, verb=verb.name, program=f"{PROGRAM} {verb.name}"))
    except (ValueError, OSError) as error:
        if len(error.args) == 1:
            error.args = (as_typed(kind, str(error), rest),)
        raise


def _choose(arguments: list[str]) -> tuple[Verb, list[str]]:
    """The verb, and the arguments after it."""
    for verb in VERBS:
        if arguments[0] == verb.name:
            return verb, arguments[1:]
        if verb.old and arguments[:2] == verb.old.split():
            print(f"{PROGRAM}: {verb.old} is now {verb.name}", file=sys.stderr)
            return verb, arguments[2:]
    if arguments[0] == "bench":
        raise ValueError("bench: is now titans-dna context, and python scripts/bench_needle.py in the repository")
    from titans_dna.run.options import suggestion

    names = [verb.name for verb in VERBS]
    raise ValueError(f"{arguments[0]}: is no verb, want one of {', '.join(names)}{suggestion(arguments[0], names)}")


def _help() -> str:
    verbs = "\n".join(f"  {verb.name:<10} {verb.help}" for verb in VERBS)
    return (
        f"usage: {PROGRAM} VERB [options]\n\nTitans models on DNA: neural memory that learns while it reads.\n\n"
        f"verbs:\n{verbs}\n\n{PROGRAM} VERB --help lists the options of a verb; {PROGRAM} --version tells the version."
    )


def _resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


if __name__ == "__main__":
    main()
