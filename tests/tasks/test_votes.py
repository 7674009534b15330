"""What k-mers say: as the regression says it, in pieces, on either strand, and of train by those fitted without the row."""

import numpy as np
import pytest
import torch

import titans_dna
from titans_dna.baselines.sequences import choose_kmers
from titans_dna.config import TitansConfig
from titans_dna.labels.read import read_labelled
from titans_dna.nn.finetuned import Batch, FineTuned, KmerVotes, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.reading.stream import padded
from titans_dna.tasks import score
from titans_dna.tasks.score import score_sequences
from titans_dna.tasks.votes import fit_votes
from titans_dna.tokens.strands import reverse_complement
from titans_dna.tokens.vocabulary import NucleotideTokenizer


def draw(rows, seed, length=60):
    rng = np.random.default_rng(seed)
    for _ in range(rows):
        letters = rng.choice(list("ACGT"), length + int(rng.integers(20)))
        yield "".join(letters)


def write(folder, label, task=None):
    """Rows whose label is a function of their letters."""
    for split, rows, seed in (("train", 80, 0), ("valid", 40, 1), ("test", 30, 2)):
        lines = [f"{letters},{label(letters)}\n" for letters in draw(rows, seed)]
        (folder / f"{split}.csv").write_text("sequence,label\n" + "".join(lines))
    valid, test = str(folder / "valid.csv"), str(folder / "test.csv")
    return read_labelled([str(folder / "train.csv")], valid=valid, test=test, task=task)


LABELS = {
    "binary": lambda one: int(one.count("GA") > 4),
    "multiclass": lambda one: "abc"[min(one.count("AC") // 3, 2)],
    "multilabel": lambda one: ";".join(name for name in ("GA", "CT") if one.count(name) > 3) or "CT;GA",
    "regression": lambda one: one.count("T") / 7 + 3,
}


def votes_of(question, votes):
    module = KmerVotes(question).double()
    votes.put(module)
    return module


def question_of(data, votes, **more):
    deviation = {"mean": float(data.train.labels.mean()), "deviation": float(data.train.labels.std())}
    return Question(
        data.task, data.classes, kmers=votes.sizes, kmers_root=votes.root, kmers_both=votes.both,
        **(deviation if data.task == "regression" else {}), **more,
    )  # fmt: skip


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("task", LABELS)
def test_votes_are_what_the_regression_says(tmp_path, task, both):
    data = write(tmp_path, LABELS[task], task)
    votes = fit_votes(data, both)
    features, model = choose_kmers(data, both_strands=both)
    want = model.scores(features(data.test))
    module = votes_of(question_of(data, votes), votes)
    ids, _ = padded(data.test.sequences, NucleotideTokenizer())
    said, _ = module(ids)
    finetuned = FineTuned(TitansDNA(TitansConfig.preset("tiny")), question_of(data, votes), NucleotideTokenizer())
    np.testing.assert_allclose(finetuned.scores(said), want, atol=1e-5)
    assert votes.train.shape == (80, max(1, len(data.classes)))
    fitted = module(padded(data.train.sequences, NucleotideTokenizer())[0])[0].numpy()
    assert np.abs(votes.train - fitted).max() > 1e-3  # said by others


def test_pieces_and_padding_change_nothing(tmp_path):
    votes = fit_votes(data := write(tmp_path, LABELS["binary"]), True)
    module = votes_of(question_of(data, votes), votes)
    letters = [*data.test.sequences[:3], b"ACG", b"ACGTNNACGATTTACG"]
    ids, _ = padded(letters, NucleotideTokenizer())
    whole, _ = module(ids)
    for row, one in enumerate(letters):
        alone = NucleotideTokenizer().encode(one)[None]
        torch.testing.assert_close(module(torch.as_tensor(alone))[0][0], whole[row])
    found, state = None, None
    for piece in ids.split([1, 30, 5, ids.shape[1] - 36], dim=1):
        found, state = module(piece, state)
    torch.testing.assert_close(found, whole)
    back, _ = module(padded([reverse_complement(one) for one in letters], NucleotideTokenizer())[0])
    torch.testing.assert_close(back, whole)


def test_scores_are_of_the_model_and_its_votes(tmp_path, monkeypatch):
    data = write(tmp_path, LABELS["binary"])
    votes = fit_votes(data, True)
    torch.manual_seed(0)
    model = (
        FineTuned(TitansDNA(TitansConfig.preset("tiny")), question_of(data, votes), NucleotideTokenizer())
        .double()
        .eval()
    )
    votes.put(model.kmers)
    ids, widths = padded(data.test.sequences, NucleotideTokenizer())
    others = [reverse_complement(one) for one in data.test.sequences]
    with torch.no_grad():
        both = [model(Batch(ids, widths, ids)), model(Batch(*padded(others, NucleotideTokenizer()), ids))]
        silent = model(Batch(ids, widths, ids, votes=torch.zeros(30, 2)))
        torch.testing.assert_close(both[0] - silent, model.kmers(ids)[0])
    want = sum(model.scores(one) for one in both) / 2
    np.testing.assert_allclose(score_sequences(model, data.test.sequences), want, atol=1e-9)
    np.testing.assert_allclose(score_sequences(model, data.test.sequences, batch_bases=100), want, atol=1e-9)
    titans_dna.save(model.float(), tmp_path / "model")
    again = titans_dna.load(tmp_path / "model", FineTuned)
    assert again.question == model.question
    np.testing.assert_allclose(score.score_sequences(again, data.test.sequences), want, atol=1e-5)


def test_few_rows(tmp_path):
    rows = "sequence,label\nACGTACGTAC,a\nTTGACCAGTA,a\nGGGCATTACA,b\n"
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.csv").write_text(rows)
    data = read_labelled(
        [str(tmp_path / "train.csv")], valid=str(tmp_path / "valid.csv"), test=str(tmp_path / "test.csv")
    )
    votes = fit_votes(data, None)  # one row of b: nothing can be fitted without it
    assert np.isfinite(votes.train).all()
    assert votes.train.argmax(1).tolist() == [0, 0, 1]
