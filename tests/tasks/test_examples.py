"""Batches of a step, and scores that do not depend on how sequences are put together."""

import shutil

import huggingface_hub
import numpy as np
import pytest
import torch

from titans_dna.checkpoint import FINETUNED, load, push, save
from titans_dna.config import TitansConfig
from titans_dna.labels.data import LabelledData, Rows
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.tasks.score import score_sequences
from titans_dna.tasks.sequences import SequenceExamples, mutated, shuffled_batches
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import NucleotideTokenizer


def rows(n, seed=0, low=4, high=90):
    rng = np.random.default_rng(seed)
    letters = tuple(
        bytes(rng.choice(list(b"ACGTN"), size=int(rng.integers(low, high))).astype(np.uint8)) for _ in range(n)
    )
    return Rows(tuple(map(str, range(n))), letters, rng.integers(2, size=n))


def examples(*, batch_bases=1 << 15, augment=True, mutate=0.0, seed=0, tokenizer=None):
    data = LabelledData("made up", "binary", ("a", "b"), rows(50), rows(10, 1), rows(10, 2))
    return SequenceExamples(
        data, Question("binary", ("a", "b")), tokenizer or NucleotideTokenizer(), batch_size=8,
        batch_bases=batch_bases, augment=augment, mutate=mutate, seed=seed,
    )  # fmt: skip


def model_of(question, tokenizer=None, variant="lmm", seed=0):
    torch.manual_seed(seed)
    tokenizer = tokenizer or NucleotideTokenizer()
    backbone = TitansDNA(TitansConfig.preset("tiny", variant=variant, vocab_size=tokenizer.vocab_size))
    model = FineTuned(backbone, question, tokenizer)
    torch.nn.init.normal_(model.head.output.weight)
    return model.eval()


def test_an_epoch_is_every_row_once_and_the_next_one_in_another_order():
    some = examples(augment=False)
    assert some.epoch_steps == 7
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(7):
            for batch in some.step(epoch * 7 + step):
                for ids, widths in zip(batch.ids, batch.widths, strict=True):
                    seen.append(NucleotideTokenizer().decode(ids[: int(widths.sum())]).encode())
        epochs.append(seen)
        assert sorted(seen) == sorted(some.data.train.sequences)
    assert epochs[0] != epochs[1]


def test_a_step_is_a_function_of_seed_and_number():
    for mutate in (0.0, 0.3):
        one, again = examples(mutate=mutate), examples(mutate=mutate)
        again.step(3)
        for batch, other in zip(one.step(9), again.step(9), strict=True):
            assert torch.equal(batch.ids, other.ids)
            assert torch.equal(batch.labels, other.labels)
    assert not torch.equal(examples(seed=1).step(9)[0].ids, examples(seed=2).step(9)[0].ids)


def test_augmentation_turns_about_half():
    turned = 0
    plain, augmented = examples(augment=False), examples(augment=True)
    for step in range(7):
        for batch, other in zip(plain.step(step), augmented.step(step), strict=True):
            assert torch.equal(batch.labels, other.labels)
            turned += int((batch.ids != other.ids).any(1).sum())
    assert 12 < turned < 38


def test_mutation_replaces_its_share():
    rng = np.random.default_rng(0)
    letters = b"A" * 40_000
    found = mutated(letters, 0.2, rng)
    assert found.count(b"A") / len(found) == pytest.approx(0.85, abs=0.01)
    assert mutated(letters, 0.0, rng) == letters


def test_how_a_step_is_cut_changes_no_gradient():
    gradients = []
    for bases in (1 << 15, 100, 1):
        model = model_of(Question("binary", ("a", "b"))).double()
        batches = examples(batch_bases=bases).step(0)
        assert (len(batches) > 1) == (bases < 1 << 15)
        sum(model.losses(batch).sum() for batch in batches).backward()
        gradients.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]))
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
@pytest.mark.parametrize("unit", ["sequence", "base"])
def test_packed_is_padded(variant, unit):
    model = model_of(Question("binary", ("a", "b"), unit, pool="attention"), variant=variant).double()
    (batch,) = examples().step(0)
    if unit == "base":
        labels = torch.where(batch.widths > 0, batch.ids % 2, -1)
        batch = batch._replace(
            labels=labels, other=batch.ids.flip(0)[:, : batch.ids.shape[1]].where(batch.widths > 0, 4)
        )
    found = []
    for packed in (False, True):
        model.packed = packed
        model.zero_grad()
        losses = model.losses(batch)
        losses.sum().backward()
        found.append([losses.detach(), *(one.grad for one in model.parameters() if one.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_batches_are_of_like_lengths():
    lengths = np.random.default_rng(0).integers(50, 1000, size=2000)
    batches = shuffled_batches(lengths, 16, [0])
    assert sorted(np.concatenate(batches).tolist()) == list(range(2000))
    padding = sum(len(one) * lengths[one].max() for one in batches) / lengths.sum()
    assert padding < 1.1


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
@pytest.mark.parametrize("pool", ["mean", "attention", "bins"])
def test_scores_do_not_depend_on_company_pieces_or_strand(variant, pool):
    question = Question("multiclass", ("a", "b", "c"), pool=pool, bins=4, stretch=20)
    model = model_of(question, variant=variant)
    sequences = [*rows(9, seed=3).sequences, b"ACGT" * 60, b"N" * 7, b"A"]
    alone = np.concatenate([score_sequences(model, [one]) for one in sequences])
    assert alone.std(axis=0).min() > 1e-3
    for options in (dict(batch_size=1), dict(batch_size=5), dict(batch_size=12, batch_bases=100), dict(batch_bases=24)):
        np.testing.assert_allclose(score_sequences(model, sequences, **options), alone, atol=1e-5)
    turned = score_sequences(model, [reverse_complement(one) for one in sequences])
    np.testing.assert_allclose(turned, alone, atol=1e-5)


@pytest.mark.parametrize("tokenizer", [KmerTokenizer(3), KmerTokenizer(3, overlapping=True)])
def test_training_and_scoring_see_the_same(tokenizer):
    """The head over a padded batch, as in training, and streamed, as in scoring."""
    model = model_of(Question("binary", ("a", "b"), both_strands=False), tokenizer)
    some = examples(augment=False, tokenizer=tokenizer)
    (batch,) = some.step(0)
    numbers = some._epoch[1][0]
    order = np.argsort(-some.data.train.lengths()[numbers], kind="stable")
    wanted = score_sequences(model, [some.data.train.sequences[i] for i in numbers[order]])
    with torch.inference_mode():
        np.testing.assert_allclose(model.scores(model(batch)), wanted, atol=1e-5)


def test_saved_and_loaded_again(tmp_path):
    question = Question("regression", (), pool="attention", mean=3.0, deviation=2.0)
    model = model_of(question)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.question == question
    sequences = rows(5).sequences
    np.testing.assert_array_equal(score_sequences(again, sequences), score_sequences(model, sequences))


def test_pushed_to_a_hub_and_loaded_again(tmp_path, monkeypatch):
    class Hub:
        def __init__(self, token):
            assert token == "secret"

        def create_repo(self, repo_id, *, private, exist_ok):
            return f"https://hub.test/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(tmp_path / "hub" / name))
    model = model_of(Question("binary", ("a", "b")))
    save(model, tmp_path / "run")
    (tmp_path / "run" / "results.md").write_text("| model |\n")
    assert push(tmp_path / "run", "lab/promoters", token="secret") == "https://hub.test/lab/promoters"
    pushed = tmp_path / "hub" / "lab" / "promoters"
    assert {one.name for one in pushed.iterdir()} == {*FINETUNED.files, "config.json", "README.md"}
    assert "| model |" in (pushed / "README.md").read_text()
    sequences = rows(5).sequences
    again = load("lab/promoters")
    np.testing.assert_array_equal(score_sequences(again, sequences), score_sequences(model, sequences))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("finetuned.json", "{", "got no valid JSON"),
        ("finetuned.json", "{}", "got some other JSON"),
        ("finetuned.safetensors", "x", "truncated or damaged weights"),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("finetuned.json", None, "no such file"),
    ],
)
def test_damaged_directories_are_named(tmp_path, file, content, message):
    save(model_of(Question("binary", ("a", "b"))), tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        load(tmp_path)
    assert file in str(raised.value)
