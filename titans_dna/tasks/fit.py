"""One seed of a fine-tuning run: build, train, keep the best."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, manual_seed, nn
from torch.utils.data import DataLoader, Dataset

from titans_dna.metrics import Estimate
from titans_dna.nn.finetuned import Batch, FineTuned, Question
from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.run.sealed import json_digest
from titans_dna.tasks.options import FinetuneOptions
from titans_dna.tasks.votes import Votes
from titans_dna.train.learner import Learner, Step, Tally, adamw, muon_adamw, warmup_cosine
from titans_dna.train.loop import Loop, Machine, Settings
from titans_dna.train.record import CHECKPOINT, METRICS, Record, read_checkpoint

if TYPE_CHECKING:
    from lightning.fabric import Fabric

BETAS = (0.9, 0.98)
LAST_LR = 0.05
"""Of the highest learning rate, where the cosine ends."""
MONITORED = {"binary": "mcc", "multiclass": "mcc", "multilabel": "auprc", "regression": "spearman"}

Part = tuple[Batch, int]
"""A batch, and the answers of its whole step: by these its loss is divided, so that how a step is cut changes nothing."""


class Examples(Protocol):
    """What training and scoring need of labelled data."""

    question: Question
    votes: Votes | None
    """What k-mers say, where they do."""
    epoch_steps: int
    """Steps of a pass over train."""

    def step(self, number: int) -> list[Batch]:
        """The batches of an optimiser step, a pure function of the seed and the number."""
        ...

    def scores(self, model: FineTuned, split: str, title: str = "") -> np.ndarray:
        """Scores of a split, in the order of its labels, as its metrics take them. title: of the progress; none: silent."""
        ...

    def metrics(self, scores: np.ndarray, split: str, resamples: int = 0) -> dict[str, Estimate]:
        """Metrics of such scores."""
        ...

    def loss(self, scores: np.ndarray, split: str) -> float:
        """Mean cross-entropy of such scores, or squared error."""
        ...

    def segments(self, scores: np.ndarray, split: str) -> float:
        """How well such scores find whole features, 0 to 1; of a question about bases."""
        ...

    def smoothed(self, scores: np.ndarray, split: str, question: Question) -> np.ndarray:
        """Such scores as the question smooths them, if it does; of a question about bases."""
        ...


class Fitted(NamedTuple):
    """A seed's end."""

    model: FineTuned
    """With the weights of the best validation."""
    diverged: bool
    best: dict[str, float]
    """The row of the best validation."""
    value: float
    """What it was best in; the more the better."""
    steps: int


def fit(
    directory: Path,
    options: FinetuneOptions,
    examples: Examples,
    backbone: TitansDNA,
    seed: int,
    device: str,
    run: Any = None,
) -> Fitted:
    """Train with one seed in its directory, from where a checkpoint there left off; `backbone` is left alone. run: plain
    values, what the run is of.

    Raises `Stopped` where a signal came, once all is saved, and ValueError where nothing finite came out.
    """
    model, train = build(options, examples, backbone, seed), options.train
    steps = train.most_steps(examples.epoch_steps)
    directory.mkdir(parents=True, exist_ok=True)
    learner = _Tuning(model, examples, seed)
    warmup, run = train.warmup * steps, json_digest([run, seed])

    def rate(step: int) -> float:
        fall = max(1.0, steps - 1 - warmup)
        return warmup_cosine(step, rise=warmup + 1, warmup=warmup, fall=fall, high=1.0, low=LAST_LR, scale=options.lr)

    def monitor(found: dict[str, float]) -> float:
        value = -found["valid_loss"] if train.monitor == "loss" else found[MONITORED[examples.question.task]]
        # A metric that is not defined (one class in a small validation split) leaves the choice to the loss.
        return value if math.isfinite(value) else -found["valid_loss"]

    loop = Loop(
        learner,
        muon_adamw(model, train.weight_decay, BETAS, relative=train.muon_lr / options.lr)
        if train.optimizer == "muon"
        else adamw(model, train.weight_decay, BETAS),
        Settings(
            steps,
            rate,
            clip=train.clip,
            valid_every=train.valid_every or max(20, examples.epoch_steps // 2),
            save_every=options.run.save_every,
            patience=train.patience,
        ),
        Machine(device, precision=train.precision),
        validate=learner.validate,
        monitor=monitor,
        checkpoint=directory / CHECKPOINT,
        run=run,
        saved=read_checkpoint(directory / CHECKPOINT, run),
        record=Record(directory / METRICS),
        title=f"seed {seed}",
    )
    done = loop.run(lambda step, fabric: _parts(examples, step, steps, options.run.workers))
    if done.best is None:
        raise ValueError(
            f"--lr: got {options.lr:g}, with which nothing finite came out before the first validation of seed {seed}; "
            "want a lower one"
        )
    model.load_state_dict(done.best.weights, strict=False)
    merge_adapters(model)
    if model.kmers is not None:
        _weigh(model.eval(), examples)
    if examples.question.unit == "base" and options.tune.smooth:
        _smooth(model.eval(), examples, monitor, whole=train.monitor == "metric")
    return Fitted(model.eval(), done.outcome == "diverged", done.best.row, done.best.value, done.step)


SWITCHES, TRUSTS = (0.1, 0.01, 1e-3, 1e-4, 1e-5), (1.0, 0.3)
"""Chances that a class ends at a base, which is what a switch costs, and powers of what is said of a base: bases side by side
are no independent witnesses."""


def _smooth(model: FineTuned, examples: Examples, value: Callable[[dict[str, float]], float], whole: bool) -> None:
    """Let the model smooth its answers as serves the validation split best, its bases and (whole) its segments, if any
    smoothing does."""
    said, classes = examples.scores(model, "valid"), model.question.outputs
    tried = [model.question]
    for switch in SWITCHES:
        stay = 1 - switch - switch / (classes - 1)
        chain = np.full((classes, classes), switch / (classes - 1)) + np.eye(classes) * stay
        rows = tuple(tuple(row) for row in chain.tolist())
        tried += [dataclasses.replace(model.question, transitions=rows, trust=trust) for trust in TRUSTS]

    def worth(question: Question) -> float:
        scores = examples.smoothed(said, "valid", question)
        found = {name: one.value for name, one in examples.metrics(scores, "valid").items()}
        worth = value({"valid_loss": examples.loss(scores, "valid"), **found})
        return worth + examples.segments(scores, "valid") if whole else worth

    model.question = max(tried, key=worth)


WEIGHTS = (1.0, 0.5, 0.25, 0.0)
"""Of what the model adds to the k-mers."""


def _weigh(model: FineTuned, examples: Examples) -> None:
    """Let the model add to the k-mers as much as serves the validation split best."""
    output = model.head.output
    kept = output.weight.detach().clone(), output.bias.detach().clone()

    @torch.no_grad()
    def put(share: float) -> None:
        output.weight.copy_(kept[0] * share)
        output.bias.copy_(kept[1] * share)

    losses: list[float] = []
    for share in WEIGHTS:
        put(share)
        losses.append(examples.loss(examples.scores(model, "valid"), "valid"))
    put(WEIGHTS[losses.index(min(losses))])


def build(options: FinetuneOptions, examples: Examples, backbone: TitansDNA, seed: int) -> FineTuned:
    """The model before the first step: a copy of the backbone, or new weights, and a new head."""
    manual_seed(seed)
    scratch = options.tune.preset is not None or options.tune.tune == "scratch"
    own = TitansDNA(backbone.config) if scratch else copy.deepcopy(backbone)
    own.activation_checkpointing = options.run.activation_checkpointing
    tokenizer = tokenizer_of(backbone)
    model = FineTuned(own, examples.question, tokenizer, options.tune.dropout)
    if model.kmers is not None and examples.votes is not None:
        examples.votes.put(model.kmers)
    tune = "scratch" if scratch else options.tune.tune
    for block in own.blocks:
        block.dropout = nn.Dropout(options.tune.dropout if tune in ("scratch", "full") else 0.0)
    model.packed = options.train.packed
    choose_trained(model, tune, options.tune.lora_rank)
    return model.train()


class _Tuning(Learner):
    """A fine-tuned model as the loop trains it; `model` is a `FineTuned`, a part a `Part`."""

    model: FineTuned

    def __init__(self, model: FineTuned, examples: Examples, seed: int) -> None:
        super().__init__(model, seed)
        self.examples = examples
        self._bases = 0
        self._since: list[float] = []
        """Losses of the steps since the last validation."""

    def loss(self, part: Part) -> Tensor:
        batch, answers = part
        self._bases += int(batch.widths.sum())
        return self.model.losses(batch).sum() / answers

    def tally(self, fabric: Fabric) -> Tally:
        found, self._bases = super().tally(fabric)._replace(bases=self._bases), 0
        return found

    def undo(self) -> None:
        super().undo()
        self._bases = 0

    def validate(self, fabric: Fabric) -> dict[str, float] | None:
        """None where what the model says is not finite."""
        del fabric
        try:
            scores = self.examples.scores(self.model, "valid")
        except FloatingPointError:
            return None
        metrics = {name: one.value for name, one in self.examples.metrics(scores, "valid").items()}
        return {"valid_loss": self.examples.loss(scores, "valid"), **metrics}

    def row(self, step: Step, found: dict[str, float] | None) -> dict[str, float] | None:
        if not step.skipped:
            self._since.append(step.loss)
        if found is None:
            return None
        train = sum(self._since) / len(self._since) if self._since else math.nan
        self._since = []
        return {"step": step.number, "train_loss": train, **found}

    def keep(self) -> dict[str, Any]:
        return {"losses": self._since}

    def restore(self, values: dict[str, Any], device: Any) -> None:
        del device
        self._since = values["losses"]


class _Steps(Dataset[list[Part]]):
    """Step number → its parts."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, number: int) -> list[Part]:
        batches, bases = self.examples.step(number), self.examples.question.unit == "base"
        answers = max(1, sum(int((one.labels >= 0).sum()) if bases else len(one.ids) for one in batches))
        return [(one, answers) for one in batches]


def _parts(examples: Examples, first: int, last: int, workers: int) -> Iterator[list[Part]]:
    yield from DataLoader(_Steps(examples), batch_size=None, sampler=range(first, last), num_workers=workers)


def choose_trained(model: FineTuned, tune: str, rank: int) -> None:
    """Leave gradients to what `tune` trains: all (full, scratch), the head alone (frozen), or low-rank adapters (arXiv
    2106.09685) and the head (lora). The language-model head never is."""
    tied = model.backbone.config.tie_embeddings
    if tune in ("frozen", "lora"):
        model.backbone.requires_grad_(False)
    elif not tied:
        model.backbone.head.requires_grad_(False)
    if model.backbone.kmer_head is not None:
        model.backbone.kmer_head.requires_grad_(False)
    if tune == "lora":
        _add_adapters(model.backbone, rank)


def merge_adapters(model: FineTuned) -> None:
    """Add what the adapters have learned to the weights beside them, and take them out."""
    for name, module in list(model.backbone.named_modules()):
        if hasattr(module, "lora_A"):
            adapted: Any = module
            adapted.merge(safe_merge=True)
            parent, _, last = name.rpartition(".")
            setattr(model.backbone.get_submodule(parent), last, adapted.get_base_layer())


def check_tune(tune: str) -> None:
    """ValueError where the library that it needs is missing."""
    if tune == "lora" and importlib.util.find_spec("peft") is None:
        raise ValueError("--tune: lora needs peft, which is not installed: pip install 'titans-dna[lora]'")


def _add_adapters(backbone: nn.Module, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    linear = [
        name
        for name, one in backbone.named_modules()
        if isinstance(one, nn.Linear) and not name.startswith(("head", "kmer_head"))
    ]
    # The output layers of memories and attention, their projections, gates, and the feed-forward: all that is linear.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), backbone)
