"""A fine-tuning run from labelled data to a directory: the order in which everything happens."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from titans_dna.checkpoint import FINETUNED, open_model, save
from titans_dna.config import TitansConfig, preset_names
from titans_dna.nn.model import TitansDNA, tokenizer_of, weights_fingerprint
from titans_dna.run.device import choose_device
from titans_dna.run.files import replacing
from titans_dna.tasks.adapters import check_tune
from titans_dna.tasks.base_job import BaseJob
from titans_dna.tasks.directory import REPORT, check_directory, check_same, open_directory, write_run
from titans_dna.tasks.fit import Fitted, fit
from titans_dna.tasks.job import Job, SequenceJob
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.results import OURS, Scored, table, write_results
from titans_dna.tokens.tokenizer import make_tokenizer
from titans_dna.train.progress import duration

DONE, SCORES, BASELINES = "result.json", "scores.npy", "baselines"


class FinetuneResult(NamedTuple):
    """How a run ended."""

    directory: Path
    signal: int | None
    """The signal that interrupted it, if one did."""
    diverged: tuple[int, ...]
    """Seeds whose loss stopped being finite; their best weights before that count."""
    table: str
    """The results in Markdown; nothing where it was interrupted."""


def finetune(options: FinetuneOptions, *, resume: bool = False) -> FinetuneResult:
    """Fine-tune a model, or train one from scratch, and write its directory; with `resume`, go on with the run there.

    All input is checked before anything is written. The directory then holds `run.yaml`, `data.json`,
    `data_report.md`, a directory for each seed, `results.md`, `results.csv`, `results.json`, and the model of the seed
    that was best on the validation split, with its `predictions.csv` and pictures.

    Raises ValueError or OSError, with one line for people, for any fault of the input.
    """
    directory = Path(options.run.out)
    check_directory(directory, options, resume)
    device = choose_device(options.run.accelerator)
    job: Job = BaseJob(options) if options.bases.annotation else SequenceJob(options)
    backbone = _backbone(options)
    job.check(tokenizer_of(backbone))
    check_tune(options.tune.tune)
    about = {**job.describe(), "model": _fingerprint(options, backbone)}
    if resume:
        check_same(directory, about)
        write_run(directory, options)
    else:
        open_directory(directory, options, about, job.report())
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    print("\n".join([*job.lines(), *_plan(options, backbone)]), flush=True)
    seeds = [*range(options.train.seed, options.train.seed + options.train.seeds)]
    for seed in seeds:
        signal = _run_seed(directory / f"seed-{seed}", options, job, backbone, seed, device)
        if signal is not None:
            return FinetuneResult(directory, signal, (), "")
    ours = [_read_seed(directory / f"seed-{seed}") for seed in seeds]
    scored = [job.scored(OURS, seeds, [one.scores for one in ours])]
    scored += [_score_baseline(directory, job, name, seeds) for name in options.run.baselines if name in job.baselines]
    return _report(directory, options, job, about, ours, scored)


def check_started(options: FinetuneOptions) -> None:
    """ValueError where data or model are not those of the run in the directory."""
    job = SequenceJob(options)
    check_same(Path(options.run.out), {**job.describe(), "model": _fingerprint(options, _backbone(options))})


class _Seed(NamedTuple):
    """What a finished seed left."""

    place: Path
    values: dict[str, Any]
    scores: np.ndarray


def _fingerprint(options: FinetuneOptions, backbone: TitansDNA) -> str:
    """Of what training starts from: weights, or the shape of a model from scratch."""
    if options.tune.preset is None:
        return weights_fingerprint(backbone)
    return hashlib.blake2b(repr(backbone.config).encode(), digest_size=16).hexdigest()


def _backbone(options: FinetuneOptions) -> TitansDNA:
    tune = options.tune
    if tune.model is not None:
        return open_model(tune.model, TitansDNA)
    name = str(tune.preset)
    config = TitansConfig.preset(name) if name in preset_names() else TitansConfig.from_yaml(name)
    config = config if tune.variant == "preset" else config.replace(variant=tune.variant)
    tokenizer = make_tokenizer("nucleotide")
    model = TitansDNA(config.replace(vocab_size=tokenizer.vocab_size))
    model.tokenizer = tokenizer
    return model


def _plan(options: FinetuneOptions, backbone: TitansDNA) -> list[str]:
    start = "from scratch" if options.tune.preset else f"from {options.tune.model}, --tune {options.tune.tune}"
    return [
        f"data report: {Path(options.run.out) / REPORT}",
        f"model: {backbone.config.variant}, {backbone.parameter_count():,} parameters, {start}",
        f"plan: {options.train.seeds} seed(s) of at most {options.train.epochs:g} epochs, learning rate {options.lr:g}",
    ]


def _run_seed(
    place: Path, options: FinetuneOptions, job: Job, backbone: TitansDNA, seed: int, device: str
) -> int | None:
    """Train and score one seed; the signal where it was interrupted."""
    if (place / DONE).exists():
        print(f"seed {seed}: done before", flush=True)
        return None
    examples = job.examples(tokenizer_of(backbone), seed)
    fitted = fit(place, options, examples, backbone, seed, device)
    if fitted.model is None:
        return fitted.signal or 2
    save(fitted.model, place)
    fitted.model.to(device)
    scores = examples.scores(fitted.model, job.split)
    _finish_seed(place, fitted, scores)
    return None


def _finish_seed(place: Path, fitted: Fitted, scores: np.ndarray) -> None:
    """Scores, and last the mark that all of it is there."""
    with replacing(place / SCORES) as aside, open(aside, "wb") as out:
        np.save(out, scores)
    best = {name: value if math.isfinite(value) else None for name, value in fitted.best.items()}
    values = {"steps": fitted.steps, "diverged": fitted.diverged, "value": fitted.value, "best": best}
    with replacing(place / DONE) as aside:
        aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _read_seed(place: Path) -> _Seed:
    return _Seed(place, json.loads((place / DONE).read_text(encoding="utf-8")), np.load(place / SCORES))


def _score_baseline(directory: Path, job: Job, name: str, seeds: list[int]) -> Scored:
    """Each baseline is computed once, whatever happens to the run."""
    seeds = seeds if name in job.seeded else seeds[:1]
    scores = []
    for seed in seeds:
        path = directory / BASELINES / f"{name}-{seed}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            began = time.monotonic()
            found = job.baseline(name, seed)
            with replacing(path) as aside, open(aside, "wb") as out:
                np.save(out, found)
            print(f"baseline {name}, seed {seed}: {duration(time.monotonic() - began)}", flush=True)
        scores.append(np.load(path))
    return job.scored(name, seeds, scores)


def _report(
    directory: Path, options: FinetuneOptions, job: Job, about: dict[str, Any], ours: list[_Seed], scored: list[Scored]
) -> FinetuneResult:
    """The best seed's model and predictions into the directory itself, and the table."""
    best = max(ours, key=lambda one: one.values["value"])
    for name in FINETUNED.files:
        with replacing(directory / name) as aside:
            shutil.copyfile(best.place / name, aside)
    job.write(directory, best.scores)
    diverged = tuple(int(one.place.name.removeprefix("seed-")) for one in ours if one.values["diverged"])
    write_results(
        directory, job.question.task, scored, {**about, "best": best.place.name, "split": job.split}, _notes(job, best)
    )
    return FinetuneResult(directory, None, diverged, table(job.question.task, scored))


def _notes(job: Job, best: _Seed) -> str:
    about = [
        f"Rows of the {job.split} split."
        if job.split == "test"
        else "There is no test split: these are the rows of the "
        "validation split, on which the best weights were chosen, so the figures are too good.",
        "One run: the 95 % interval over resampled rows. Several seeds: mean ± standard deviation.",
        f"The model in this directory is that of {best.place.name}, the best on the validation split.",
        f"Data: {REPORT}. Options: run.yaml.",
    ]
    return "\n".join(about) + "\n"
