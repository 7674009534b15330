"""What a model remembers, as a file: read back it goes on as if it had never been away."""

import json
import math
import random
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from titans_dna.config import VARIANTS, TitansConfig
from titans_dna.nn.counts import Counts
from titans_dna.nn.model import TitansDNA, map_state, take_rows, tensors_of
from titans_dna.nn.state import load_state, save_state

SMALL = {"width": 16, "layers": 2, "heads": 2, "chunk": 8, "segment": 16, "window": 12, "persistent": 3}


ALL = (*VARIANTS, "conv-conv", "conv-lmm", "mac-conv-mag", "kmers-conv-lmm")
BESIDE = {"stem": 6, "kmers": [2, 1, 9, 31], "kmer_width": 3, "kmer_slots": 64, "conv_dilations": [7]}
BESIDE["counts"] = [2, 9, 24]


def build(variant, seed=0, **change):
    torch.manual_seed(seed)
    if variant.startswith("kmers-"):
        variant, change = variant.removeprefix("kmers-"), {**BESIDE, **change}
    if "-" in variant:
        change |= {"mixers": variant.split("-"), "layers": variant.count("-") + 1, "conv_taps": 5}
        variant = "lmm"
    model = TitansDNA(TitansConfig(variant=variant, **{**SMALL, **change})).double().eval()
    if model.config.counts:
        model.counts = Counts.fit(["".join(random.Random(0).choices("ACGT", k=3000))])
    return model


def draw(t, b=1):
    return torch.randint(7, 12, (b, t), generator=torch.Generator().manual_seed(1))


# Inside a chunk and a segment, at a chunk's end, at a segment's end, near the start.
@torch.no_grad()
@pytest.mark.parametrize("gates", ["token", "chunk"])
@pytest.mark.parametrize("cut", [1, 21, 24, 32])
@pytest.mark.parametrize("variant", ALL)
def test_reading_goes_on_from_a_file(tmp_path, variant, cut, gates):
    model, ids = build(variant, gates=gates), draw(60, 2)
    state = model(ids[:, :cut]).state
    save_state(tmp_path / "one", state, model, {"bases": cut}, {"more": torch.arange(3)})
    found = load_state(tmp_path / "one", model)
    assert found.about == {"bases": cut}
    assert torch.equal(found.tensors["more"], torch.arange(3))
    for a, b in zip(tensors_of(found.state), tensors_of(state), strict=True):
        assert torch.equal(a, b)
    assert len({id(x) for x in tensors_of(found.state)}) == len(tensors_of(state))
    whole = model(ids).logits[:, cut:]
    torch.testing.assert_close(model(ids[:, cut:], found.state).logits, whole, rtol=1e-9, atol=1e-9)
    one = take_rows(found.state, torch.tensor([1]))  # a state of several rows, one of them asked
    torch.testing.assert_close(model(ids[1:, cut:], one).logits, whole[1:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("variant", ALL)
def test_identical_states_are_identical_files(tmp_path, variant):
    model = build(variant)
    about, more = {"bases": 30, "read": ["a:0-30"]}, {"b": torch.ones(3), "a": torch.ones(2, 2)}
    for i in range(12):
        save_state(tmp_path / str(i), model(draw(30)).state, model, about, more)
    assert len({(tmp_path / str(i)).read_bytes() for i in range(12)}) == 1


MEMORY = {"titans_kernels.state:MemoryState", "titans_dna.memory:NeuralMemoryState"}
KINDS = {
    "conv": {"titans_dna.blocks:ConvState"},
    "kmers": {"titans_dna.entry:EntryState"},
    "lmm": MEMORY,
    "mac": {"titans_dna.blocks:MACState", "titans_dna.attention:SegmentState", *MEMORY},
    "mag": {"titans_dna.blocks:MAGState", "titans_dna.attention:SlidingState", *MEMORY},
    "mal": {"titans_dna.blocks:MAGState", "titans_dna.attention:SlidingState", *MEMORY},
}


@torch.no_grad()
@pytest.mark.parametrize("variant", ALL)
def test_classes_have_the_names_of_version_0_1_0_on_the_disk(tmp_path, variant):
    model = build(variant)
    save_state(tmp_path / "one", model(draw(30)).state, model)
    with safe_open(tmp_path / "one", "pt") as file:
        structure = file.metadata()["structure"]
    assert set(re.findall(r'"kind": "([^"]*)"', structure)) == {"tuple"}.union(
        *(KINDS[kind] for kind in variant.split("-"))
    )


def test_only_the_model_that_wrote_it(tmp_path):
    model = build("mag")
    save_state(tmp_path / "one", model(draw(30)).state, model)
    for other in (build("mag", seed=1), build("mal"), build("mag", window=13)):
        with pytest.raises(ValueError, match="is of another model"):
            load_state(tmp_path / "one", other)
    same = build("mag", dropout=0.5)
    same.load_state_dict({**model.state_dict(), "head.weight": torch.zeros(12, 16)})  # the head only reads
    load_state(tmp_path / "one", same)
    with pytest.raises(ValueError, match="state: got 1 parts, want the model's 2"):
        save_state(tmp_path / "two", model(draw(30)).state[:1], model)
    assert not (tmp_path / "two").exists()


def test_damaged_files(tmp_path):
    model = build("lmm")
    path = tmp_path / "one"
    save_state(path, model(draw(30)).state, model)
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="one: truncated or damaged"):
            load_state(path, model)
    save_file({"x": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="one: holds something else"):
        load_state(path, model)
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        load_state(tmp_path / "nothing", model)
    with pytest.raises(IsADirectoryError, match="is a directory"):
        load_state(tmp_path, model)


def test_a_state_makes_no_class_but_ours(tmp_path):
    model = build("lmm")
    path = tmp_path / "one"
    save_state(path, model(draw(30)).state, model)
    with safe_open(path, "pt") as file:
        metadata, tensors = _unsealed(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for kind in ("subprocess:Popen", "titans_dna.model:TitansDNA", "titans_dna.nothing:Nothing", ["list"]):
        structure = json.loads(metadata["structure"])
        structure["items"][0]["kind"] = kind
        save_file(tensors, path, {**metadata, "structure": json.dumps(structure)})
        with pytest.raises(ValueError, match="want a state class of titans_dna"):
            load_state(path, model)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["items"][0]["fields"].pop("scan"),
        lambda s: s["items"][0].pop("fields"),
        lambda s: s["items"][0].update(fields=[1]),
        lambda s: s["items"][0]["fields"].update(convolution={"tensor": 999}),
        lambda s: s["items"][0]["fields"].update(convolution={"tensor": "x"}),
        lambda s: s["items"][0]["fields"].update(more=1),
    ],
)
def test_a_damaged_structure_is_one_line(tmp_path, change):
    model, path = build("lmm"), tmp_path / "one"
    save_state(path, model(draw(30)).state, model)
    with safe_open(path, "pt") as file:
        metadata, tensors = _unsealed(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    structure = json.loads(metadata["structure"])
    change(structure)
    save_file(tensors, path, {**metadata, "structure": json.dumps(structure)})
    with pytest.raises(ValueError, match="one: truncated or damaged") as caught:
        load_state(path, model)
    assert "\n" not in str(caught.value)


def _unsealed(metadata):
    """As of version 0.1.0, which wrote no digest: what is wrong is then found otherwise."""
    return {key: value for key, value in metadata.items() if key != "digest"}


@pytest.mark.parametrize("variant", ALL)
def test_altered_bytes_are_noticed(tmp_path, variant):
    model, path = build(variant), tmp_path / "one"
    save_state(path, model(draw(30)).state, model, {"read": ["chr1"]}, {"sums": torch.ones(3)})
    whole, places = path.read_bytes(), random.Random(0)
    for _ in range(100):
        altered, place = bytearray(whole), places.randrange(len(whole))
        altered[place] ^= 1 << places.randrange(8)
        path.write_bytes(altered)
        with pytest.raises(ValueError, match="one: ") as caught:
            load_state(path, model)
        assert "\n" not in str(caught.value), place
    path.write_bytes(whole)
    load_state(path, model)


@pytest.mark.parametrize("variant", ALL)
def test_what_is_no_state_of_the_model_is_refused(tmp_path, variant):
    """Files with a digest that is right, from somebody who knows how."""
    model, path = build(variant), tmp_path / "one"
    state = model(draw(30)).state
    memory = tensors_of(state)
    for i in range(len(memory)):
        for value in (math.nan, math.inf):
            spoilt = iter([x if j != i else torch.full_like(x, value) for j, x in enumerate(memory)])
            save_state(path, map_state(lambda x, it=spoilt: next(it), state), model)
            with pytest.raises(ValueError, match="one: truncated or damaged: holds values that are not finite"):
                load_state(path, model)
        cut = iter([x if j != i else x[..., :-1] for j, x in enumerate(memory)])
        save_state(path, map_state(lambda x, it=cut: next(it), state), model)
        with pytest.raises(ValueError, match="one: truncated or damaged: "):
            load_state(path, model)
    for other in ([None] * len(state), [(), *state[1:]], [3, *state[1:]], [*state[1:], None]):
        save_state(path, tuple(other), model)
        with pytest.raises(ValueError, match="one: truncated or damaged: "):
            load_state(path, model)
