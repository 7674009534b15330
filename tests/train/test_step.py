"""One optimiser step: accumulation, refusal of what is not finite, batches without a base, lanes."""

import math
import warnings

import numpy as np
import pytest
import torch
from lightning import pytorch as pl
from titans_dna.train.module import PretrainModule
from torch.utils.data import DataLoader

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA, detach
from titans_dna.tokens.tokenizer import NucleotideTokenizer
from titans_dna.train.options import OptimiserOptions

A, N = 7, 11


class Results(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.result is not None:
            self.seen.append(pl_module.result)


def make_module(*, carry=False, spoil=(), **options):
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig.preset("tiny", variant="lmm", layers=1, width=16, chunk=8))
    calls = iter(range(1000))
    model.head.register_forward_hook(lambda module, inputs, out: out * math.inf if next(calls) in spoil else out)
    options = OptimiserOptions(**{"steps": 10, "warmup": 0, "lr": 1e-2, **options})
    lengths = NucleotideTokenizer().lengths
    return PretrainModule(model, lengths, options, carry=carry, copy_state=detach, scale=32)


def make_batch(number, ids, reset=True):
    return {"ids": ids, "weight": torch.ones(ids.shape), "reset": reset, "bases": ids.numel(), "batch": number}


def random_ids(seed, rows=2, width=17):
    return torch.from_numpy(np.random.default_rng(seed).integers(A, N, (rows, width)))


def fit(module, batches):
    results = Results()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(LeafSpec|does not have many workers|log_every_n_steps)")
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            callbacks=[results],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None))
    return results.seen


def weights(module):
    return {name: value.clone() for name, value in module.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_accumulation_is_one_large_batch():
    ids = random_ids(0, rows=4)
    ids[0, 5:] = N  # rows of unequal weight: the mean is over targets, not over batches
    large, small = make_module(clip=0.5), make_module(clip=0.5, accumulate=2)
    fit(large, [make_batch(0, ids)])
    results = fit(small, [make_batch(0, ids[:2]), make_batch(1, ids[2:])])
    assert len(results) == 1
    assert (small.step, small.batches) == (1, 2)
    for name, value in weights(large).items():
        torch.testing.assert_close(weights(small)[name], value, rtol=1e-4, atol=1e-6)


def test_a_non_finite_step_changes_nothing_but_its_count():
    module, clean = make_module(spoil={1}), make_module()
    batches = [make_batch(number, random_ids(number)) for number in range(3)]
    fit(clean, batches[:1])
    results = fit(module, batches[:2])
    assert [result.skipped for result in results] == [False, True]
    assert same(weights(module), weights(clean))
    assert (module.skipped, module.skipped_in_a_row, module.step) == (1, 1, 2)
    moments = module.adamw().optimizer.state_dict()["state"]
    assert all(int(entry["step"]) == 1 for entry in moments.values())


def test_skipped_in_a_row_starts_again():
    module = make_module(spoil={0, 1})
    fit(module, [make_batch(number, random_ids(number)) for number in range(3)])
    assert (module.skipped, module.skipped_in_a_row) == (2, 0)
    assert all(value.isfinite().all() for value in weights(module).values())


def test_a_batch_without_a_base_is_no_step():
    module = make_module(weight_decay=0.5)
    before = weights(module)
    (result,) = fit(module, [make_batch(0, torch.full((2, 17), N))])
    assert same(weights(module), before)
    assert (result.loss, result.bases, result.gradient_norm, result.skipped) == (0.0, 0, 0.0, False)
    assert module.skipped == 0


def test_the_gradient_is_clipped():
    (result,) = fit(make_module(clip=1e-3), [make_batch(0, random_ids(0))])
    assert result.gradient_norm > 1e-3


@pytest.mark.parametrize(("reset", "carried"), [(False, True), (True, False)])
def test_lanes_continue_until_they_start_afresh(reset, carried):
    # With a rate of 0 the second loss depends on the first batch through the state alone.
    ids = random_ids(0, width=33)
    second = []
    for first in (ids[:, :17], random_ids(1)):
        module = make_module(carry=True, lr=1e-30, min_lr=0.0, weight_decay=0.0)
        second.append(fit(module, [make_batch(0, first), make_batch(1, ids[:, 16:], reset=reset)])[1].loss)
    assert (second[0] != second[1]) is carried
