"""The flags of each verb."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from typing import Any, Literal

import jsonargparse

from titans_dna.config import TitansConfig
from titans_dna.context.options import ContextFileOptions, ContextSpeedOptions, ContextTaskOptions
from titans_dna.flags import add_options
from titans_dna.planning.options import PlanFlags
from titans_dna.reading.embed_options import FileOptions, SpeedOptions, VectorOptions
from titans_dna.reading.remember_options import ReadOptions, ReadSpeedOptions
from titans_dna.tasks.data_options import BaseOptions, LabelOptions
from titans_dna.tasks.options import FinetuneRunOptions, TrainOptions, TuneOptions
from titans_dna.tasks.use_options import RowOptions, ScoringOptions, SequenceFileOptions, SuiteOptions
from titans_dna.train.options import DataOptions, ModelOptions, OptimiserOptions, RunOptions

PRETRAIN_PARTS = (DataOptions, ModelOptions, OptimiserOptions, RunOptions)
EMBED_PARTS = (FileOptions, VectorOptions, SpeedOptions)
FINETUNE_PARTS = (LabelOptions, TuneOptions, TrainOptions, FinetuneRunOptions, BaseOptions)
EVALUATE_PARTS = (RowOptions, ScoringOptions)
PREDICT_PARTS = (SequenceFileOptions, ScoringOptions)
REMEMBER_PARTS = (ReadOptions, ReadSpeedOptions)
BENCHMARK_PARTS = (SuiteOptions, TuneOptions, TrainOptions, FinetuneRunOptions)
CONTEXT_PARTS = (ContextFileOptions, ContextTaskOptions, ContextSpeedOptions)
VOCABULARY = "vocab_size"  # the tokeniser's


def make_parser(verb: str = "", defaults: dict[str, Any] | None = None) -> jsonargparse.ArgumentParser:
    """The parser of `titans-dna`; defaults: those of one verb, in place of its own."""
    given = {verb: defaults or {}}
    parser = jsonargparse.ArgumentParser(
        prog="titans-dna",
        description="Titans models on DNA: neural memory that learns while it reads.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"titans-dna {version('titans-dna')}")
    verbs = parser.add_subcommands(required=True)
    for name, make, text in (
        ("pretrain", _pretrain_parser, "train a model on genome files"),
        ("embed", _embed_parser, "turn sequences into vectors"),
        ("remember", _remember_parser, "read sequence into a state file, to go on from or to ask later"),
        ("finetune", _finetune_parser, "train a model on labelled sequences"),
        ("evaluate", _evaluate_parser, "score a fine-tuned model on labelled sequences"),
        ("predict", _predict_parser, "classes and probabilities of sequences"),
        ("benchmark", _benchmark_parser, "fine-tune on every data set of a suite"),
        ("plan", _plan_parser, "memory, time and settings of a run to come"),
    ):
        made = make()
        made.set_defaults(given.get(name, {}))
        verbs.add_subcommand(name, made, help=text)
    _add_bench(verbs)
    return parser


def option_names(parts: tuple[type, ...]) -> set[str]:
    """Names of the flags of some dataclasses."""
    return {field.name for kind in parts for field in dataclasses.fields(kind)}


def _pretrain_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "Train a Titans language model on genome files. Example: "
        "titans-dna pretrain --fasta genome.fa --variant mac --out runs/first"
    )
    _add_config(parser)
    _add_parts(parser, PRETRAIN_PARTS)
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; its own options are defaults")
    add_options(parser, TitansConfig, "Model fields, each in place of the preset's", prefix="model.", skip=VOCABULARY)
    return parser


def _embed_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "Turn sequences into vectors with a trained model. Example: "
        "titans-dna embed --model runs/first --fasta genome.fa --bed genes.bed --out genes.npy"
    )
    _add_parts(parser, EMBED_PARTS)
    return parser


def _remember_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "Read sequence of any length, in constant memory, and keep what the model remembers in a file. Example: "
        "titans-dna remember --model runs/first --fasta chr1.fa --out chr1.state --track chr1.bedgraph"
    )
    _add_parts(parser, REMEMBER_PARTS)
    return parser


def _finetune_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "Fine-tune a model on labelled sequences, or train one from scratch, and compare it with baselines. "
        "Example: titans-dna finetune --model runs/first --data train.csv --test test.csv --out runs/promoters"
    )
    _add_config(parser)
    _add_parts(parser, FINETUNE_PARTS)
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; its own options are defaults")
    return parser


def _evaluate_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "Score a fine-tuned model on labelled sequences, by its own label map. Example: "
        "titans-dna evaluate --model runs/promoters --data other.csv --out runs/promoters-other"
    )
    _add_parts(parser, EVALUATE_PARTS)
    return parser


def _predict_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "Classes and probabilities, or values, of sequences from a fine-tuned model. Example: "
        "titans-dna predict --model runs/promoters --fasta genome.fa --bed windows.bed --out promoters.csv"
    )
    _add_parts(parser, PREDICT_PARTS)
    return parser


def _benchmark_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "Run the same fine-tuning on every data set of a suite, and put the results beside the published ones. Example: "
        "titans-dna benchmark --suite GUE --root GUE --model runs/first --seeds 5 --out runs/gue"
    )
    _add_config(parser)
    _add_parts(parser, BENCHMARK_PARTS)
    parser.add_argument(
        "--resume", action="store_true", help="continue the benchmark in --out; its own options are defaults"
    )
    parser.set_defaults({"out": "runs/benchmark"})
    return parser


def _plan_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "What a long run will need: memory, time, and the settings that fit, from a short run here. Example: "
        "titans-dna plan --preset small --variant lmm --length 1M --bases 3.1G"
    )
    add_options(parser, PlanFlags, str(PlanFlags.__doc__), skip="work")
    parser.add_argument(
        "--pass",  # no name for a field
        type=Literal["train", "read"],
        default="train",
        help="train, or read without a gradient, as embed and remember do",
    )
    add_options(parser, TitansConfig, "Model fields, each in place of the preset's", prefix="model.", skip=VOCABULARY)
    return parser


def _add_bench(verbs: Any) -> None:
    """`titans-dna bench`, whose verbs jsonargparse wants added after it has itself been."""
    parser = _described("Measure what models do over long distances, beside ablations and a transformer.")
    verbs.add_subcommand("bench", parser, help="measure what models do over long distances")
    measures = parser.add_subcommands(required=True)
    for name, make, text in (("context", _context_parser, "bits per base of held-out sequence over the context read"),):
        measures.add_subcommand(name, make(), help=text)


def _context_parser() -> jsonargparse.ArgumentParser:
    parser = _described(
        "What a trained model gains from context: bits per base of the same held-out bases after 1k to 1M bases, memory on, "
        "reset and off. Example: titans-dna bench context --model runs/first --fasta genome.fa --contigs chr22 "
        "--out runs/context"
    )
    _add_parts(parser, CONTEXT_PARTS)
    return parser


def _described(text: str) -> jsonargparse.ArgumentParser:
    return jsonargparse.ArgumentParser(description=text, exit_on_error=False, allow_abbrev=False)


def _add_config(parser: jsonargparse.ArgumentParser) -> None:
    parser.add_argument("--config", action="config", help="YAML file of options, named as the flags; later ones win")


def _add_parts(parser: jsonargparse.ArgumentParser, parts: tuple[type, ...]) -> None:
    for kind in parts:
        add_options(parser, kind, str(kind.__doc__))
