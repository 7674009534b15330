"""transformers' classes over our models: the same numbers, from the same files, with no code of the files' own."""

import json
import random
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers", minversion="5", reason="needs the extra hf")

from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

import titans_dna
from titans_dna import checkpoint
from titans_dna.config import TitansConfig
from titans_dna.huggingface import (
    TitansDNAConfig,
    TitansDNAForCausalLM,
    TitansDNAForSequenceClassification,
    TitansDNAModel,
    TitansDNATokenizer,
)
from titans_dna.nn.counts import Counts
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA
from titans_dna.tokens.bpe import BPETokenizer
from titans_dna.tokens.kmers import KmerTokenizer
from titans_dna.tokens.vocabulary import NucleotideTokenizer

DNA = "ACGTTGCATGCAAACCCGGGTTTNACGTAC"
BOTH = pytest.mark.parametrize("tied", [True, False])


def make(folder, tokenizer=None, seed=0, **changes):
    """A model with sure opinions, so that a wrong state or weight shows."""
    torch.manual_seed(seed)
    tokenizer = tokenizer or NucleotideTokenizer()
    settings = dict(layers=2, vocab_size=tokenizer.vocab_size, segment=8, chunk=4, window=8, **changes)
    model = TitansDNA(TitansConfig.preset("tiny", **settings)).eval()
    with torch.no_grad():
        for parameter in (model.head.weight, model.norm.weight):
            parameter.mul_(3)
    checkpoint.save(model, folder, tokenizer)
    return model


def random_ids(rows, length, seed=0):
    return torch.randint(7, 11, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids, **more):
    return model(ids, **more).logits


@BOTH
def test_a_directory_of_ours_becomes_every_auto_model(tmp_path, tied):
    model, ids = make(tmp_path, tie_embeddings=tied), random_ids(2, 30)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(lm, ids), logits(model, ids), atol=1e-6, rtol=0)
    assert (lm.model.head.weight is lm.model.embedding.weight) is tied
    base = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(base(ids).last_hidden_state, model(ids).hidden, atol=1e-6, rtol=0)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert logits(classifier, ids).shape == (2, 3)
    for one in (lm, base, classifier):
        assert type(one).__module__ == "titans_dna.huggingface.modeling"
        assert not one.training
    assert AutoConfig.from_pretrained(tmp_path).titans == model.config


def test_mixers_go_there_and_back(tmp_path):
    ours, theirs, ids = tmp_path / "ours", tmp_path / "theirs", random_ids(2, 30)
    model = make(ours, mixers=["conv", "mag"], conv_taps=5, stem=3, kmers=[2, 7], kmer_slots=256, conv_dilations=[4])
    with torch.no_grad():
        for table in model.kmer_head.tables:
            table.vectors.weight.normal_()
    titans_dna.save(model, ours, NucleotideTokenizer())
    lm = AutoModelForCausalLM.from_pretrained(ours)
    lm.save_pretrained(theirs)
    AutoTokenizer.from_pretrained(ours).save_pretrained(theirs)
    read = titans_dna.load(theirs)
    assert read.config == model.config
    assert read.config.mixers == ("conv", "mag")
    torch.testing.assert_close(logits(read, ids), logits(model, ids), atol=1e-6, rtol=0)
    padded = torch.cat([ids[:, :5], ids], dim=1)
    mask = torch.cat([torch.zeros_like(ids[:, :5]), torch.ones_like(ids)], dim=1)
    torch.testing.assert_close(lm(padded, attention_mask=mask).logits[:, 5:], lm(ids).logits, atol=1e-5, rtol=0)
    hidden = lm(ids, output_hidden_states=True).hidden_states
    assert len(hidden) == 1 + len(model.blocks)
    whole = lm.generate(ids[:1], max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(lm.generate(ids[:1], max_new_tokens=8, do_sample=False, use_cache=True), whole)


def test_counts_come_along_where_they_are(tmp_path):
    model, ids = make(tmp_path, counts=[3, 8]), random_ids(2, 30)
    model.counts = Counts.fit(["".join(random.Random(0).choices("ACGT", k=3000))])
    titans_dna.save(model, tmp_path, NucleotideTokenizer())
    lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(lm(ids).logits, logits(model, ids), atol=1e-6, rtol=0)
    (tmp_path / "counts.safetensors").unlink()
    with pytest.warns(UserWarning, match="answers without counts"):
        lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not torch.equal(lm(ids).logits, logits(model, ids))


@BOTH
def test_a_directory_of_theirs_is_one_of_ours(tmp_path, tied):
    ours, theirs, ids = tmp_path / "ours", tmp_path / "theirs", random_ids(2, 30)
    model = make(ours, tie_embeddings=tied)
    AutoModelForCausalLM.from_pretrained(ours).save_pretrained(theirs)
    AutoTokenizer.from_pretrained(ours).save_pretrained(theirs)
    assert not [file.name for file in theirs.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".py")]
    assert ("model.head.weight" in load_file(theirs / "model.safetensors")) is not tied
    read = titans_dna.load(theirs)
    assert read.config == model.config
    torch.testing.assert_close(logits(read, ids), logits(model, ids), atol=1e-6, rtol=0)
    again = AutoModelForCausalLM.from_pretrained(theirs)
    torch.testing.assert_close(logits(again, ids), logits(model, ids), atol=1e-6, rtol=0)
    assert titans_dna.embed(read, DNA).tolist() == model_embed(model, DNA)


def model_embed(model, sequence):
    model.tokenizer = NucleotideTokenizer()
    return titans_dna.embed(model, sequence).tolist()


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_classifier_comes_back_and_gives_its_backbone(tmp_path, pool):
    model, ids = make(tmp_path / "ours"), random_ids(3, 20)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", num_labels=3, pool=pool)
    scale = classifier.classifier.output.weight.std() * model.config.width**0.5
    assert 0.05 < scale < 0.2  # drawn as PooledHead draws, not what memory happened to hold
    assert not classifier.classifier.output.bias.any()
    classifier.save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(logits(again, ids), logits(classifier, ids), atol=1e-6, rtol=0)
    for back in (titans_dna.load(tmp_path / "theirs"), AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")):
        torch.testing.assert_close(logits(back, ids), logits(model, ids), atol=1e-6, rtol=0)


def test_new_models_start_as_ours_do():
    config = TitansConfig.preset("tiny", tie_embeddings=True)
    torch.manual_seed(5)
    new = TitansDNAForCausalLM(TitansDNAConfig(config=config.to_dict()))
    torch.manual_seed(5)
    ours = TitansDNA(config)
    for (name, got), want in zip(new.model.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(got, want), name


def test_weights_that_are_not_all_there_have_their_line(tmp_path):
    make(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["config"]["layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"not this configuration's: model\.blocks\.2\.") as caught:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(tmp_path, side):
    make(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding_side=side)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    sequences = ["ACGTTGCATGCAAAT", "ACG", "TTGACNNGTA"]
    batch = tokenizer(sequences, padding=True, return_tensors="pt")
    with torch.no_grad():
        together, labels = lm(**batch, output_hidden_states=True), classifier(**batch).logits
    for row, sequence in enumerate(sequences):
        alone = tokenizer(sequence, return_tensors="pt")
        with torch.no_grad():
            want, label = lm(**alone, output_hidden_states=True), classifier(**alone).logits[0]
        tokens = batch.attention_mask[row].bool()
        torch.testing.assert_close(together.logits[row, tokens], want.logits[0], atol=1e-5, rtol=1e-5)
        for got, layer in zip(together.hidden_states, want.hidden_states, strict=True):
            torch.testing.assert_close(got[row, tokens], layer[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(labels[row], label, atol=1e-5, rtol=1e-5)


def test_hidden_states_are_the_layers(tmp_path):
    model, ids = make(tmp_path), random_ids(1, 20)
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path)(ids, output_hidden_states=True).hidden_states
        want = [model.embedding(ids), *(model.features(ids, layer=i)[0] for i in range(2))]
    for got, layer in zip(found, want, strict=True):
        torch.testing.assert_close(got, layer)


def test_state_streams(tmp_path):
    make(tmp_path)
    lm, ids = AutoModelForCausalLM.from_pretrained(tmp_path), random_ids(2, 21)
    state, parts = None, []
    for piece in ids.split([5, 1, 9, 6], dim=1):
        with torch.no_grad():
            done = lm(piece, state=state, use_cache=True)
        state = done.state
        parts.append(done.logits)
    torch.testing.assert_close(torch.cat(parts, 1), logits(lm, ids), atol=1e-5, rtol=1e-5)
    assert lm(ids).state is None
    state = lm(ids[:, :9], use_cache=True).state
    more = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(lm.generate(ids[:, 9:], state=state, **more)[:, 12:], lm.generate(ids, **more)[:, 21:])


@pytest.mark.parametrize("way", [{}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sample", "beams"])
@pytest.mark.parametrize("variant", ["mac", "mag"])
def test_generation_with_the_state_is_generation_without(tmp_path, way, variant):
    make(tmp_path, variant=variant)
    lm, ids, calls = AutoModelForCausalLM.from_pretrained(tmp_path), random_ids(2, 6), []
    lm.model.embedding.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[1]))
    found = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        found.append(
            lm.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                use_cache=use_cache,
                **{"do_sample": False, **way},
            )
        )
    assert found[0].shape == (2, 18)
    assert torch.equal(*found)
    assert calls == [6, *[1] * 11, *range(6, 18)]


def test_prompts_of_several_lengths_generate_as_alone(tmp_path):
    make(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    more = {"max_new_tokens": 6, "do_sample": False}
    batch = tokenizer(["ACGTTGCA", "TGA"], padding=True, return_tensors="pt")
    found = lm.generate(**batch, use_cache=False, **more)
    for row, prompt in enumerate(["ACGTTGCA", "TGA"]):
        alone = lm.generate(**tokenizer(prompt, return_tensors="pt"), **more)
        assert found[row, -6:].tolist() == alone[0, -6:].tolist()
    assert torch.equal(lm.generate(**batch, **more), found)
    beams = {**more, "num_beams": 3, "num_return_sequences": 2}
    found = lm.generate(**batch, **beams)
    for row, prompt in enumerate(["ACGTTGCA", "TGA"]):
        alone = lm.generate(**tokenizer(prompt, return_tensors="pt"), **beams)
        assert found[2 * row : 2 * row + 2, -6:].tolist() == alone[:, -6:].tolist()
    with pytest.raises(ValueError, match=r"padded rows beside a state, want rows of one length, or use_cache=False"):
        lm.generate(**batch, **more, use_cache=True)


def test_a_pipeline_takes_a_batch(tmp_path):
    make(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    write, prompts = pipeline("text-generation", model=lm, tokenizer=tokenizer), ["ACGTTGCA", "TGA", "GGGTT"]
    options = {"max_new_tokens": 5, "do_sample": False}
    together = [one[0]["generated_text"] for one in write(prompts, batch_size=2, **options)]
    assert together == [write(prompt, **options)[0]["generated_text"] for prompt in prompts]


REFUSED = {
    "hole": (dict(attention_mask=[[1, 0, 1, 1]]), "padding between tokens"),
    "empty row": (dict(attention_mask=[[0, 0, 0, 0]]), "a row without a token"),
    "other shape": (dict(attention_mask=[[1, 1, 1]]), r"got shape \[1, 3\], want \[1, 4\]"),
    "padding and state": (dict(attention_mask=[[1, 1, 1, 0]], use_cache=True), "padded rows beside a state"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_masks_that_are_refused(tmp_path, name):
    model = TitansDNAModel(TitansDNAConfig(config={"width": 8, "layers": 1}))
    arguments, message = REFUSED[name]
    arguments = {**arguments, "attention_mask": torch.tensor(arguments["attention_mask"])}
    with pytest.raises(ValueError, match=message) as caught:
        model(random_ids(1, 4), **arguments)
    assert "\n" not in str(caught.value)


def test_loss_of_the_next_token(tmp_path):
    model, ids = make(tmp_path), random_ids(2, 12)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path)
    labels = ids.clone()
    labels[0, 4], labels[1, 9:] = -100, 4
    probability = logits(model, ids).log_softmax(-1)
    counted = [
        -probability[r, t - 1, ids[r, t]] for r in range(2) for t in range(1, 12) if labels[r, t] not in (-100, 4)
    ]
    assert len(counted) == 18
    torch.testing.assert_close(lm(ids, labels=labels).loss, torch.stack(counted).mean())
    assert lm(ids, labels=torch.full_like(ids, -100)).loss == 0


def test_loss_of_labels(tmp_path):
    make(tmp_path)
    ids = random_ids(4, 12)

    def loss(outputs, labels, **settings):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=outputs, **settings)
        done = model(ids, labels=labels)
        return done.loss, done.logits

    classes = torch.tensor([0, 2, 1, 2])
    got, found = loss(3, classes)
    torch.testing.assert_close(got, -found.log_softmax(-1)[range(4), classes].mean())
    numbers = torch.tensor([0.5, 1.0, -2.0, 3.0])
    got, found = loss(1, numbers)
    torch.testing.assert_close(got, (found[:, 0] - numbers).square().mean())
    several = torch.tensor([[0.0, 1.0, 1.0]] * 4)
    got, found = loss(3, several, problem_type="multi_label_classification")
    torch.testing.assert_close(
        got, -(several * found.sigmoid().log() + (1 - several) * (-found).sigmoid().log()).mean()
    )


def test_a_model_learns_and_checkpoints_activations(tmp_path):
    """Labels that the bases decide; every parameter that is trained gets a gradient."""
    make(tmp_path, tie_embeddings=False)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2).train()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=3e-3)
    ids = torch.cat([torch.full((8, 20), 7), torch.full((8, 20), 9)])
    labels = torch.tensor([0] * 8 + [1] * 8)
    for _ in range(8):
        loss = model(ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
        optimiser.step()
    assert loss < 0.3


TOKENIZERS = {
    "nucleotide": NucleotideTokenizer(),
    "kmer-3": KmerTokenizer(3),
    "kmer-1": KmerTokenizer(1),
    "kmer-3-overlapping": KmerTokenizer(3, overlapping=True),
    "bpe": BPETokenizer.train([DNA * 20, "GATTACA" * 30], 40),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_are_ours(tmp_path, name):
    ours = TOKENIZERS[name]
    make(tmp_path / "ours", ours)
    first = AutoTokenizer.from_pretrained(tmp_path / "ours")
    first.save_pretrained(tmp_path / "theirs")
    AutoConfig.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    for tokenizer in (first, AutoTokenizer.from_pretrained(tmp_path / "theirs")):
        for sequence in (DNA, "acgtnxu", "AC", "[PAD]AC[MASK]"):
            ids = ours.encode(sequence).tolist()
            assert tokenizer(sequence).input_ids == ids
            assert tokenizer.encode(sequence, add_special_tokens=True) == ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == ours.decode(ids)
            assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(sequence)) == ids
        batch = tokenizer([DNA, "ACG"], padding=True)
        short = len(ours.encode("ACG"))
        assert batch["attention_mask"][1] == [1] * short + [0] * (len(ours.encode(DNA)) - short)
        assert set(batch["input_ids"][1][short:]) == {ours.pad_id}
        assert len(tokenizer) == tokenizer.vocab_size == ours.vocab_size == len(tokenizer.get_vocab())
        assert tokenizer.decode([0, 7, 8, 4]) == "[CLS]AC[PAD]"
        assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id) == (4, 3, 6)
    with pytest.raises(ValueError, match="new_tokens: got 'XYZ', want none"):
        first.add_tokens(["XYZ"])


def test_vocabulary_does_not_grow():
    model = TitansDNAForCausalLM(TitansDNAConfig(config={"width": 8, "layers": 1}))
    assert model.resize_token_embeddings(12) is model.get_input_embeddings()
    with pytest.raises(ValueError, match="new_num_tokens: got 13, want the tokenizer's 12"):
        model.resize_token_embeddings(13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(config={"depth": 3}), "unknown key 'depth'"),
        (dict(pool="median"), "pool: got 'median'"),
        (dict(version=2), "version 2"),
    ],
)
def test_bad_configurations(arguments, message):
    with pytest.raises(ValueError, match=message):
        TitansDNAConfig(**arguments)


def test_without_the_extra_there_is_one_line():
    """In one process: the package alone brings no transformers, and its absence is named."""
    code = (
        "import sys, importlib.machinery as m\n"
        "import titans_dna; titans_dna.load\n"
        "assert 'transformers' not in sys.modules\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = lambda name, *rest: None if name == 'transformers' else find(name, *rest)\n"
        "import titans_dna.huggingface"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: titans_dna.huggingface: transformers is not installed, want pip install 'titans-dna[hf]'"
    )


@pytest.mark.parametrize("tied", [False, True])
def test_adapters_of_every_layer_all_have_gradients(tied):
    peft = pytest.importorskip("peft")
    config = TitansDNAConfig(**TitansConfig.preset("tiny", variant="mac", tie_embeddings=tied).to_dict())
    plain = TitansDNAForSequenceClassification(config)
    model = peft.get_peft_model(plain, peft.LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS"))
    model(input_ids=torch.randint(7, 11, (2, 40)), labels=torch.tensor([0, 1])).loss.backward()
    trained = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
    assert sum("lora_A" in name for name in trained) > 5
    assert not [name for name, gradient in trained.items() if gradient is None]


@pytest.mark.parametrize("kind", [NucleotideTokenizer(), KmerTokenizer(6)])
def test_offsets_are_places_in_the_text(tmp_path, kind):
    kind.save(tmp_path / "tokenizer.json")
    tokenizer = TitansDNATokenizer(tmp_path / "tokenizer.json")
    texts = ["ACGTACGTACGTAC", "ACNT"]
    (one, other) = tokenizer(texts, return_offsets_mapping=True)["offset_mapping"]
    assert [tuple(span) for span in kind.spans(texts[0]).tolist()] == one
    assert [tuple(span) for span in kind.spans(texts[1]).tolist()] == other
    assert tokenizer(texts[1], return_offsets_mapping=True)["offset_mapping"] == other
    batch = tokenizer(texts, return_offsets_mapping=True, padding=True, return_tensors="pt")
    assert batch["offset_mapping"].shape == (*batch["input_ids"].shape, 2)
    assert not batch["offset_mapping"][batch["attention_mask"] == 0].any()
    cut = tokenizer(texts, return_offsets_mapping=True, truncation=True, max_length=2)["offset_mapping"]
    assert cut == [one[:2], other[:2]]
    with pytest.raises(ValueError, match="return_offsets_mapping: got pairs, words or ids, want texts"):
        tokenizer(texts[0], text_pair=texts[1], return_offsets_mapping=True)


@pytest.mark.parametrize("auto", [AutoConfig, AutoModel, AutoModelForSequenceClassification])
def test_a_fine_tuned_directory_says_what_to_do_with_it(tmp_path, auto):
    backbone = TitansDNA(TitansConfig.preset("tiny", variant="lmm", vocab_size=12))
    model = FineTuned(backbone, Question("binary", ("a", "b")), NucleotideTokenizer())
    checkpoint.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"a fine-tuned model of titans-dna .* want titans_dna\.load\(DIRECTORY\)"):
        auto.from_pretrained(tmp_path)
    assert isinstance(titans_dna.load(tmp_path), FineTuned)
    backbone.tokenizer = NucleotideTokenizer()
    checkpoint.save(backbone, tmp_path)  # beside it: then the place is a language model's
    assert isinstance(titans_dna.load(tmp_path), TitansDNA)
    assert isinstance(titans_dna.load(tmp_path, FineTuned), FineTuned)
    checkpoint.save(model, tmp_path)
    assert isinstance(titans_dna.load(tmp_path), TitansDNA)
