"""A fine-tuning run from labelled data to a directory: the order in which everything happens."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from titans_dna.checkpoint import COUNTS, FINETUNED, LANGUAGE, check_same, load, open_model, save
from titans_dna.config import TitansConfig, check_variant, preset_names
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA, tokenizer_of, weights_fingerprint
from titans_dna.run.device import check_memory, choose_device
from titans_dna.run.directory import RunDirectory
from titans_dna.run.files import replacing, write_text
from titans_dna.run.progress import duration, say
from titans_dna.run.sealed import read_array, read_json, write_array, write_json
from titans_dna.tasks.bases import BaseJob
from titans_dna.tasks.fit import Examples, Fitted, check_tune, fit
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.results import ENSEMBLE, OURS, Scored, table, write_results
from titans_dna.tasks.sequences import SequenceJob
from titans_dna.tokens.tokenizer import Tokenizer, make_tokenizer

DONE, SCORES, BASELINES, REPORT = "result.json", "scores.npy", "baselines", "data_report.md"
_COMPARED = {"fingerprint": "--data (or --annotation)", "model": "--model (or --preset)"}


class Job(Protocol):
    """What a run needs of its data, whether there is an answer for each sequence or for each base: question, baselines, and
    what is written of them."""

    question: Question
    split: str
    """The split that the table is about: test, or valid where there is no test split."""
    baselines: tuple[str, ...]
    """Those that apply."""
    seeded: tuple[str, ...]
    """Baselines that depend on the seed."""

    def describe(self) -> dict[str, Any]:
        """Plain values for data.json; `fingerprint` changes with any sequence, label or split."""
        ...

    def lines(self) -> list[str]:
        """What the data are, in words."""
        ...

    def report(self) -> str:
        """Markdown: what to know before any figure is believed."""
        ...

    def check(self, tokenizer: Tokenizer) -> None:
        """ValueError for a model's tokeniser that cannot answer."""
        ...

    def prepare(self, tokenizer: Tokenizer) -> None:
        """What is done once, before the first seed."""
        ...

    def examples(self, tokenizer: Tokenizer, seed: int) -> Examples:
        """Batches and scores for one seed."""
        ...

    def baseline(self, name: str, seed: int) -> np.ndarray:
        """Scores of `split` by a method that the model has to beat."""
        ...

    def scored(self, name: str, seeds: list[int], scores: list[np.ndarray]) -> Scored:
        """Metrics of such scores, with intervals."""
        ...

    def more(self, scored: list[Scored]) -> str:
        """Markdown that stands below the table."""
        ...

    def write(self, directory: Path, scores: np.ndarray) -> None:
        """Predictions and pictures."""
        ...


class FinetuneResult(NamedTuple):
    """How a run ended."""

    directory: Path
    diverged: tuple[int, ...]
    """Seeds whose loss stopped being finite; their best weights before that count."""
    table: str
    """The results in Markdown."""


def finetune(options: FinetuneOptions, *, resume: bool = False, title: str = "") -> FinetuneResult:
    """Fine-tune a model, or train one from scratch, and write its directory; with `resume`, go on with the run there.
    title: said once the input is known to be good.

    All input is checked before anything is written. The directory then holds `run.yaml`, `data.json`,
    `data_report.md`, a directory for each seed, `results.md`, `results.csv`, `results.json`, and the model of the seed
    that was best on the validation split, with its `predictions.csv` and pictures.

    Raises ValueError or OSError, with one line for people, for any fault of the input, and `Stopped` where a signal came.
    """
    with RunDirectory(options.run.out, "finetune") as home:
        home.check(resume, options)
        device = choose_device(options.run.accelerator)
        job: Job = BaseJob(options) if options.bases.annotation else SequenceJob(options)
        backbone = _backbone(options)
        job.check(tokenizer_of(backbone))
        check_tune(options.tune.tune)
        about = {**job.describe(), "model": _fingerprint(options, backbone)}
        if resume:
            home.check_same(about, _COMPARED)
        report = None if (home.path / REPORT).exists() else job.report()
        home.open(options, about)
        if report is not None:
            write_text(home.path / REPORT, report)
        if options.run.threads:
            torch.set_num_threads(options.run.threads)
        say("\n".join([*([title] if title else []), *job.lines(), *_plan(options, backbone)]))
        run = [options.fixed(), {name: about[name] for name in _COMPARED}]
        seeds = [*range(options.train.seed, options.train.seed + options.train.runs)]
        for seed in seeds:
            _run_seed(home.path / f"seed-{seed}", options, job, backbone, seed, device, run)
        ours = [_read_seed(home.path / f"seed-{seed}") for seed in seeds]
        scored = [job.scored(OURS, seeds, [one.scores for one in ours])]
        if options.train.ensemble:
            scored.append(job.scored(ENSEMBLE, seeds[:1], [_mean(ours)]))
        wanted = [name for name in options.run.baselines if name in job.baselines]
        scored += [_score_baseline(home.path, job, name, seeds) for name in wanted]
        return _report(home.path, job, about, ours, scored, together=options.train.ensemble > 0)


def check_started(options: FinetuneOptions) -> None:
    """ValueError where data or model are not those of the run in the directory."""
    about = {**SequenceJob(options).describe(), "model": _fingerprint(options, _backbone(options))}
    RunDirectory(options.run.out, "finetune").check_same(about, _COMPARED)


class _Seed(NamedTuple):
    """What a finished seed left."""

    place: Path
    values: dict[str, Any]
    scores: np.ndarray


def _fingerprint(options: FinetuneOptions, backbone: TitansDNA) -> str:
    """Of what training starts from: weights, or the shape of a model from scratch."""
    if options.tune.preset is None:
        return weights_fingerprint(backbone)
    shape = ", ".join(f"{name}={value!r}" for name, value in backbone.config.identity().items())
    return hashlib.blake2b(f"TitansConfig({shape})".encode(), digest_size=16).hexdigest()


def _backbone(options: FinetuneOptions) -> TitansDNA:
    tune = options.tune
    if tune.model is not None:
        return open_model(tune.model, TitansDNA)
    name = str(tune.preset)
    config = TitansConfig.preset(name) if name in preset_names() else TitansConfig.from_yaml(name)
    if tune.variant != "preset":
        check_variant(tune.variant, config.mixers)
        config = config.replace(variant=tune.variant)
    tokenizer = make_tokenizer("nucleotide")
    check_memory(config.parameters, choose_device(options.run.accelerator), "--preset")
    model = TitansDNA(config.replace(vocab_size=tokenizer.vocab_size))
    model.tokenizer = tokenizer
    return model


def _plan(options: FinetuneOptions, backbone: TitansDNA) -> list[str]:
    start = "from scratch" if options.tune.preset else f"from {options.tune.model}, --tune {options.tune.tune}"
    return [
        f"data report: {Path(options.run.out) / REPORT}",
        f"model: {backbone.config.architecture}, {backbone.parameter_count():,} parameters, {start}",
        f"plan: {options.train.runs} seed(s) of at most {options.train.length}, learning rate {options.lr:g}",
    ]


def _run_seed(
    place: Path, options: FinetuneOptions, job: Job, backbone: TitansDNA, seed: int, device: str, run: Any
) -> None:
    """Train and score one seed, unless that is done."""
    if (place / DONE).exists():
        say(f"seed {seed}: done before")
        return
    job.prepare(tokenizer_of(backbone))
    examples = job.examples(tokenizer_of(backbone), seed)
    fitted = fit(place, options, examples, backbone, seed, device, run)
    save(fitted.model, place)
    fitted.model.to(device)
    _finish_seed(place, fitted, examples.scores(fitted.model, job.split, f"seed {seed}: scoring {job.split}"))


def _finish_seed(place: Path, fitted: Fitted, scores: np.ndarray) -> None:
    """Scores, and last the mark that all of it is there."""
    write_array(place / SCORES, scores)
    best = {name: value if math.isfinite(value) else None for name, value in fitted.best.items()}
    values = {"steps": fitted.steps, "diverged": fitted.diverged, "value": fitted.value, "best": best}
    write_json(place / DONE, values)


def _read_seed(place: Path) -> _Seed:
    return _Seed(place, read_json(place / DONE), read_array(place / SCORES))


def _score_baseline(directory: Path, job: Job, name: str, seeds: list[int]) -> Scored:
    """Each baseline is computed once, whatever happens to the run."""
    seeds = seeds if name in job.seeded else seeds[:1]
    scores = []
    for seed in seeds:
        path = directory / BASELINES / f"{name}-{seed}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            began = time.monotonic()
            say(f"baseline {name}, seed {seed}: begins")
            write_array(path, job.baseline(name, seed))
            say(f"baseline {name}, seed {seed}: {duration(time.monotonic() - began)}")
        scores.append(read_array(path))
    return job.scored(name, seeds, scores)


def _mean(ours: list[_Seed]) -> np.ndarray:
    """The scores of an ensemble of seeds."""
    return np.mean([one.scores for one in ours], axis=0)


def _report(
    directory: Path, job: Job, about: dict[str, Any], ours: list[_Seed], scored: list[Scored], *, together: bool
) -> FinetuneResult:
    """The best seed's model and predictions into the directory itself, or those of all seeds together, and the table."""
    best = max(ours, key=lambda one: one.values["value"])
    if together:
        models = [load(one.place, FineTuned) for one in ours]
        models[0].others = nn.ModuleList(models[1:])
        save(models[0], directory)
        job.write(directory, _mean(ours))
        which = f"The model in this directory answers with the mean of those of all {len(ours)} seeds."
    else:
        check_same(best.place, FINETUNED)
        more = [name for name in (LANGUAGE.config, COUNTS) if (best.place / name).exists()]  # version 0.1.0 wrote none
        for name in (*FINETUNED.files, *more):
            with replacing(directory / name) as aside:
                shutil.copyfile(best.place / name, aside)
        job.write(directory, best.scores)
        which = f"The model in this directory is that of {best.place.name}, the best on the validation split."
    diverged = tuple(int(one.place.name.removeprefix("seed-")) for one in ours if one.values["diverged"])
    about = {**about, "best": "ensemble" if together else best.place.name, "split": job.split}
    write_results(directory, job.question.task, scored, about, _notes(job, which) + job.more(scored))
    return FinetuneResult(directory, diverged, table(job.question.task, scored))


def _notes(job: Job, which: str) -> str:
    about = [
        f"Rows of the {job.split} split."
        if job.split == "test"
        else "There is no test split: these are the rows of the "
        "validation split, on which the best weights were chosen, so the figures are too good.",
        "One run: the 95 % interval over resampled rows. Several seeds: mean ± standard deviation.",
        which,
        f"Data: {REPORT}. Options: run.yaml.",
    ]
    return "\n".join(about) + "\n"
