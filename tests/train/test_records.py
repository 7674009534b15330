"""What a run keeps: lane state, metrics rows, checkpoints."""

import pickle

import pytest
import torch

from titans_dna.config import TitansConfig
from titans_dna.nn.model import TitansDNA
from titans_dna.nn.state import pack_state, unpack_state
from titans_dna.train.record import Record, read_checkpoint, read_metrics


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_a_state_survives_the_disk(variant, tmp_path):
    model = TitansDNA(TitansConfig.preset("tiny", variant=variant)).eval()
    ids = torch.randint(7, 11, (2, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = model(ids[:, :41]).state
        torch.save(pack_state(state), tmp_path / "state.pt")
        packed = torch.load(tmp_path / "state.pt", weights_only=True)
        read = unpack_state(packed, torch.device("cpu"))
        assert torch.equal(model(ids[:, 41:], state).logits, model(ids[:, 41:], read).logits)


@pytest.mark.parametrize(
    "kind", ["subprocess:Popen", "titans_dna.nn.model:TitansDNA", "titans_dna.nn.model:nothing", None]
)
def test_no_other_class_is_made(kind):
    with pytest.raises(ValueError, match="want a state class"):
        unpack_state({"kind": kind, "fields": {}}, torch.device("cpu"))


@pytest.mark.parametrize("columns", [(), ("step", "loss", "bits_per_base", "gradient_norm")])
def test_rows_after_the_checkpoint_go(tmp_path, columns):
    path = tmp_path / "metrics.csv"
    record = Record(path, columns)
    record.open()
    for step in range(1, 5):
        record.write({"step": step, "loss": step / 3, "bits_per_base": float("nan"), "gradient_norm": float("inf")})
    record.close()
    path.write_text(path.read_text() + "5,0.1")
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]
    again = Record(path, columns)
    again.open(keep=2)
    again.write({"step": 3, "loss": 1.0, "gradient_norm": 2.0})
    again.close()
    assert path.read_text().splitlines()[0] == "step,loss,bits_per_base,gradient_norm"
    rows = [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 2 / 3}, {"step": 3, "loss": 1.0, "gradient_norm": 2.0}]
    assert read_metrics(path) == rows
    new = Record(path, columns)
    new.open()
    new.close()
    assert read_metrics(path) == []


class Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or damaged"),
        (b"PK\x03\x04 half a file", "truncated or damaged"),
        (pickle.dumps(Trap(), protocol=2), "truncated or damaged"),
        (pickle.dumps({"format": "else"}, protocol=2), "truncated or damaged|other file"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, capsys, content, message):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out
