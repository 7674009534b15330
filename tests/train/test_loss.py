"""Loss and bits per base against sums done by hand."""

import math

import numpy as np
import pytest
import torch

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.vocabulary import NucleotideTokenizer
from titans_dna.train.loss import bits_per_base, loss_sums, validate

LENGTHS = torch.as_tensor(NucleotideTokenizer().lengths)
A, C, N, PAD = 7, 8, 11, 4


def test_only_bases_count_and_weights_apply():
    logits = torch.zeros(1, 5, 12)
    logits[0, 1, C] = 3.0
    targets = torch.tensor([[A, C, N, PAD, A]])
    sums = loss_sums(logits, targets, torch.tensor([[1.0, 0.5, 1.0, 0.0, 0.0]]), LENGTHS)
    flat, sharp = math.log(12), math.log(1 + 11 * math.exp(-3.0))
    assert sums.weighted.item() == pytest.approx(flat + 0.5 * sharp, rel=1e-6)
    assert sums.weight.item() == 1.5
    assert sums.nats.item() == pytest.approx(2 * flat + sharp, rel=1e-6)
    assert sums.bases.item() == 3
    assert bits_per_base(sums.nats.item(), 3) == pytest.approx((2 * flat + sharp) / 3 / math.log(2), rel=1e-6)


def test_tokens_of_several_bases_share_their_loss():
    sums = loss_sums(torch.zeros(1, 2, 4), torch.tensor([[2, 3]]), torch.ones(1, 2), torch.tensor([0, 0, 6, 2]))
    assert bits_per_base(sums.nats.item(), sums.bases.item()) == pytest.approx(2 * 2 / 8)


def test_no_base_is_zero_loss_and_zero_gradient():
    logits = torch.randn(2, 3, 12, requires_grad=True)
    sums = loss_sums(logits, torch.full((2, 3), N), torch.ones(2, 3), LENGTHS)
    sums.weighted.backward()
    assert [value.item() for value in sums] == [0, 0, 0, 0]
    assert not logits.grad.any()
    assert math.isnan(bits_per_base(0.0, 0.0))


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_validation_in_pieces_is_validation_at_once(variant):
    torch.manual_seed(0)
    model = TitansDNA(TitansConfig.preset("tiny", variant=variant, layers=1)).double().train()
    ids = torch.from_numpy(np.random.default_rng(0).integers(A, N + 1, (3, 101)))
    batches = [{"ids": ids}, {"ids": ids.flip(0)[:, :50]}]
    whole = validate(model, batches, LENGTHS, piece=1000)
    assert validate(model, batches, LENGTHS, piece=24) == pytest.approx(whole, rel=1e-9)
    assert model.training
