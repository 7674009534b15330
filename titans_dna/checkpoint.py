"""Models on the disk and on the Hugging Face hub: weights as safetensors, all else as JSON. Nothing is ever unpickled.

A language model is `config.json`, `tokenizer.json` and `model.safetensors`; a fine-tuned one has `finetuned.json`, which holds
its question too, and `finetuned.safetensors` in place of the first and the last.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar, overload

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from titans_dna.config import TitansConfig, shipped_models
from titans_dna.hub import download, is_hub_id, upload
from titans_dna.nn.counts import Counts
from titans_dna.nn.finetuned import FineTuned, Question
from titans_dna.nn.model import TitansDNA, tokenizer_of
from titans_dna.run.device import choose_device
from titans_dna.run.files import replacing, write_text
from titans_dna.run.sealed import check_digests, with_digests
from titans_dna.tokens.tokenizer import Tokenizer, load_tokenizer


class Form(NamedTuple):
    """How one kind of model lies in a directory."""

    kind: str
    verb: str
    """Of titans-dna, that writes it."""
    config: str
    weights: str
    name: str

    @property
    def format(self) -> dict[str, Any]:
        """What its configuration says of itself."""
        return {"format": self.name, "version": 1}

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that make up a model."""
        return self.config, TOKENIZER, self.weights


TOKENIZER, CARD, RESULTS, COUNTS = "tokenizer.json", "README.md", "results.md", "counts.safetensors"
LANGUAGE = Form("pretrained", "pretrain", "config.json", "model.safetensors", "titans-dna model")
FINETUNED = Form("fine-tuned", "finetune", "finetuned.json", "finetuned.safetensors", "titans-dna fine-tuned model")
HALF = "float16"
MODEL_TYPE = "titans-dna"
TUNED_TYPE = "titans-dna-finetuned"
"""By these names transformers finds `titans_dna.huggingface`; the second is all that a fine-tuned model's config.json holds."""
UNSAVED = ("backbone.head.", "backbone.kmer_head.")
"""Parts of names of a fine-tuned model's weights that no file holds: the language-model head answers another question."""
_KEYS = ("config", "question", "others", "model_type", "architectures", "digests", "stored", "counts")
_LEAST, _TIMES = 10**6, 4
"""A model of more values than the first, and than its file has by the second, is not built to say which weight is wrong."""
_NO_TOKENIZER = "source: got a model without a tokenizer, want one that load gave or model.tokenizer set"

Model = TypeVar("Model", TitansDNA, FineTuned)


def save(
    model: TitansDNA | FineTuned, directory: str | Path, tokenizer: Tokenizer | None = None, *, half: bool = False
) -> None:
    """Write a model and its tokenizer into a directory, which is made where it is missing.

    tokenizer: None is the model's own. half: round the weights to float16, in half the bytes; they are computed with as
        float32.

    Raises ValueError where there is none or its vocabulary is not the model's, and OSError where nothing can be written.
    """
    if isinstance(model, FineTuned):
        form, config = FINETUNED, model.backbone.config
        about: dict[str, Any] = {"question": model.question.to_dict()}
        if model.others:
            about["others"] = [one.question.to_dict() for one in model.members[1:]]
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
    else:
        form, config = LANGUAGE, model.config
        about = {"model_type": MODEL_TYPE, "architectures": ["TitansDNAForCausalLM"]}
        tokenizer = tokenizer_of(model) if tokenizer is None else tokenizer
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"tokenizer: got {tokenizer.vocab_size} ids, want the model's {config.vocab_size}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(model, directory / form.weights, half)
    with replacing(directory / TOKENIZER) as aside:
        tokenizer.save(aside)
    counts = model.backbone.counts if isinstance(model, FineTuned) else model.counts
    values: dict[str, Any] = {**form.format, **about, "config": config.to_dict()}
    if counts is not None:
        counts.save(directory / COUNTS)
        values["counts"] = counts.digest
    if half:
        values["stored"] = HALF
    values = with_digests(values, directory, (TOKENIZER, form.weights))
    write_text(directory / form.config, json.dumps(values, indent=2) + "\n")
    if form is FINETUNED and not (directory / LANGUAGE.config).exists():
        write_text(directory / LANGUAGE.config, json.dumps({"model_type": TUNED_TYPE}) + "\n")


@overload
def load(source: str | Path, want: None = None) -> TitansDNA | FineTuned: ...
@overload
def load(source: str | Path, want: type[Model]) -> Model: ...
def load(source: str | Path, want: Any = None) -> Any:
    """The model that `save` (or titans-dna pretrain, or finetune) wrote, on the CPU, in eval mode, with its tokenizer.

    What the `save_pretrained` of `titans_dna.huggingface`'s model and tokenizer wrote is as good; of a classifier, this
    is the model that it stands on.

    source: the directory or one of its model files; where there is no such path, the name of a model that ships with the
        package (human-small, multi-small), or a Hugging Face hub id (user/name). Of a place that holds both kinds of model,
        the language model.
    want: TitansDNA or FineTuned, where only that kind will do.

    Raises FileNotFoundError for a missing file, OSError where the hub has no such model or cannot be reached, and
    ValueError for a model of the other kind, and naming the file for a truncated, damaged or exchanged one, an unknown key
    of a configuration, or weights that are not the configuration's or not finite.
    """
    return _read(*_find(source, want, "source"))


@overload
def open_model(source: str | Path, want: None, accelerator: str = "cpu", threads: int = 0) -> TitansDNA | FineTuned: ...
@overload
def open_model(source: str | Path, want: type[Model], accelerator: str = "cpu", threads: int = 0) -> Model: ...
def open_model(source: str | Path, want: Any, accelerator: str = "cpu", threads: int = 0) -> Any:
    """What a verb's `--model` names, by `load`, on its device."""
    return _read(*_find(source, want, "--model")).to(choose_device(accelerator, threads))


def push(
    source: TitansDNA | FineTuned | str | Path, repo_id: str, *, want: type[TitansDNA | FineTuned] | None = None,
    private: bool = False, token: str | None = None, commit_message: str | None = None,
) -> str:  # fmt: skip
    """Upload a model to the Hugging Face hub, and return the address of its page there.

    source: a model with its tokenizer, as `load` gives it, or a directory that `save` wrote, never a hub id; `want` is as
        for `load`. Weights, counts, configuration, tokenizer and the card README.md go up, and nothing else; a short card is
        written for a language model without one, and for any fine-tuned model, with the table of its results.
    repo_id: user/name, made where it is missing, `private` then. token: of the hub; None is the one that is logged in.

    Raises ValueError for a model without a tokenizer or another kind of name, what `load` raises for a directory, and
    OSError where the hub cannot be reached or refuses.
    """
    if not is_hub_id(repo_id):
        raise ValueError(f"repo_id: got {repo_id!r}, want user/name")
    with TemporaryDirectory() as aside:
        folder, results = Path(aside), ""
        if isinstance(source, (str, Path)):
            place, form = _find(Path(source), want, "source", hub=False)
            model = _read(place, form)  # a damaged one stays here
            more = CARD if form is LANGUAGE else LANGUAGE.config
            for name in (*form.files, COUNTS, *[more] * (form is LANGUAGE or not _language(place))):
                if (place / name).is_file():
                    shutil.copyfile(place / name, folder / name)
            if form is FINETUNED and (place / RESULTS).is_file():
                results = (place / RESULTS).read_text(encoding="utf-8")
        else:
            model = source
            save(model, folder, model.tokenizer if isinstance(model, FineTuned) else tokenizer_of(model, _NO_TOKENIZER))
        if not (folder / CARD).exists():
            (folder / CARD).write_text(_card(model, repo_id, results), encoding="utf-8")
        return upload(folder, repo_id, private=private, token=token, commit_message=commit_message)


def load_finetuned(source: str | Path) -> FineTuned:
    """Deprecated: `load(source)`, or `load(source, FineTuned)` to refuse a language model."""
    warnings.warn("load_finetuned goes in the next release; use titans_dna.load", DeprecationWarning, stacklevel=2)
    return load(source, FineTuned)


def push_finetuned(source: str | Path, repo_id: str, **options: Any) -> str:
    """Deprecated: `push(source, repo_id, …)`."""
    warnings.warn("push_finetuned goes in the next release; use titans_dna.push", DeprecationWarning, stacklevel=2)
    return push(source, repo_id, want=FineTuned, **options)


def write_weights(model: nn.Module, path: str | Path, half: bool = False) -> None:
    """The weights of any model as a safetensors file, which appears whole or not at all; half: as float16."""
    weights = {name: one.half() if half else one for name, one in _stored(model).items()}
    with replacing(path) as aside:
        aside.write_bytes(to_bytes(weights, metadata={"format": "pt"}))


def read_weights(model: nn.Module, path: str | Path) -> None:
    """Put what `write_weights` wrote into a model. ValueError naming the file where it is damaged, and the weight where the
    model has another one or none."""
    _put(model, _tensors(Path(path)), Path(path))


def _find(source: str | Path, want: Any, name: str, hub: bool = True) -> tuple[Path, Form]:
    """The directory of a model and its form; `name` is what the message calls the source."""
    if want not in (None, TitansDNA, FineTuned):
        raise ValueError(f"want: got {want!r}, want TitansDNA or FineTuned")
    path, form = Path(source), {TitansDNA: LANGUAGE, FineTuned: FINETUNED}.get(want)
    only_tuned = (FINETUNED.config, FINETUNED.weights)
    if path.is_file() and path.name in LANGUAGE.files + FINETUNED.files:
        form = form or (FINETUNED if path.name in only_tuned else None)
        path = path.parent
    elif hub and not path.exists() and str(source) in shipped_models():
        path = shipped_models()[str(source)]
    elif hub and not path.exists() and is_hub_id(str(source)):
        path = download(str(source), (*(form or LANGUAGE).files, COUNTS))
        if form is None and not _language(path):
            path = download(str(source), (*FINETUNED.files, COUNTS))
    if form is None:
        tuned = not _language(path) and any((path / file).is_file() for file in only_tuned)
        return path, FINETUNED if tuned else LANGUAGE
    other = FINETUNED if form is LANGUAGE else LANGUAGE
    there = {LANGUAGE: _language(path), FINETUNED: (path / FINETUNED.config).exists()}
    if there[other] and not there[form]:
        why = ", which answers no question yet" if other is LANGUAGE else ""
        raise ValueError(
            f"{name}: {source} holds a {other.kind} model{why}; want the directory of a {form.kind} one, "
            f"as titans-dna {form.verb} writes it"
        )
    return path, form


def _language(path: Path) -> bool:
    """Whether a language model is there, whatever it is worth."""
    config, only_tuned = path / LANGUAGE.config, (path / FINETUNED.config).exists()
    told = config.is_file() and TUNED_TYPE.encode() in config.read_bytes()[:200]
    return config.exists() and not told and not (only_tuned and not (path / LANGUAGE.weights).exists())


def check_same(directory: Path, form: Form) -> None:
    """ValueError where the files of a model are not those that `save` wrote together, as far as is known."""
    check_digests(_json(directory / form.config, form), directory / form.config)


def _read(directory: Path, form: Form) -> Any:
    """The model of this form in a directory."""
    if missing := [name for name in form.files if not (directory / name).is_file()]:
        why = f"no such file, want a directory that titans-dna {form.verb} wrote"
        raise FileNotFoundError(f"{directory / missing[0]}: {why}")
    path, question, others = directory / form.config, None, []
    values = _json(path, form)
    try:
        config = TitansConfig.from_dict(values.get("config", {}))
        if form is FINETUNED:
            question = Question.from_dict(values.get("question"))
            others = [Question.from_dict(one) for one in values.get("others", ())]
            if any(
                (one.task, one.unit, one.classes) != (question.task, question.unit, question.classes) for one in others
            ):
                raise ValueError("others: got another question than that of the first, want the same")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    tokenizer = load_tokenizer(directory / TOKENIZER)
    if tokenizer.vocab_size != config.vocab_size:
        got, want = tokenizer.vocab_size, config.vocab_size
        raise ValueError(f"{directory / TOKENIZER}: got {got} ids, want the model's {want}")
    path = directory / form.weights
    found = _tensors(path)
    if form is LANGUAGE:
        found = _plain(found)
    _check_size(found, config, question, path, 1 + len(others))
    models = [TitansDNA(config) for _ in range(1 + len(others))]
    whole = model = models[0]
    model.tokenizer = tokenizer
    if question is not None:
        more = [FineTuned(one, asked, tokenizer) for one, asked in zip(models[1:], others, strict=True)]
        whole = FineTuned(model, question, tokenizer, others=more)
    _put(whole, found, path, values.get("stored"))
    check_same(directory, form)
    if config.counts:
        counts = find_counts(directory, values.get("counts"))
        for one in models:
            one.counts = counts
    return whole.eval()


def find_counts(directory: Path, digest: str | None = None) -> Counts | None:
    """The counts beside a model that asks some; None, and a warning, where they are not there. ValueError for others than those
    with this digest, and what `Counts.load` raises."""
    path = directory / COUNTS
    if not path.is_file():
        warnings.warn(f"{path}: is not there; the model answers without counts, and worse", stacklevel=4)
        return None
    counts = Counts.load(path)
    if digest not in (None, counts.digest):
        raise ValueError(f"{path}: holds other counts than those that the model was written with")
    return counts


def _json(path: Path, form: Form) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: got no valid JSON, want a {form.kind} model's configuration") from None
    if not isinstance(values, dict) or {key: values.get(key) for key in form.format} != form.format:
        raise ValueError(
            f"{path}: got some other JSON, want format {form.format['format']!r} version {form.format['version']}"
        )
    others = values.keys() - {*form.format, *_KEYS}
    if others and "transformers_version" not in values:
        raise ValueError(f"{path}: got unknown key {min(others)!r}")
    return values


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged weights: {' '.join(str(error).split())}") from None


def _plain(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's own names, where `titans_dna.huggingface` wrote them with "model." before, maybe beside a classifier."""
    if not any(name.startswith("model.") for name in found):
        return found
    return {name.removeprefix("model."): value for name, value in found.items() if not name.startswith("classifier.")}


def _check_size(
    found: dict[str, Tensor], config: TitansConfig, question: Question | None, path: Path, members: int
) -> None:
    """ValueError for a configuration of a model that is beyond all measure of its file, before memory is taken for it."""
    want, got = config.parameters, sum(value.numel() for value in found.values())
    if question is not None:
        want += config.width * (
            question.outputs * (question.bins if question.pool == "bins" else 1)
            - (0 if config.tie_embeddings else config.vocab_size)
        )
    want *= members
    if want > max(_LEAST, _TIMES * got):
        raise ValueError(f"{path}: got {got:,} values, want at least {min(want, 10**18):,} for this configuration")
    if config.layers > len(found):
        raise ValueError(
            f"{path}: got {len(found)} weights, want those of {config.layers:,} blocks for this configuration"
        )


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """What a file holds of a model: no head where it is the embedding, as no tensor can stand there twice, and of a fine-tuned
    model not that of the language model."""
    config = getattr(model, "config", None)
    tied = isinstance(config, TitansConfig) and config.tie_embeddings
    weights = {name: one.detach().cpu().contiguous() for name, one in model.state_dict().items()}
    if isinstance(model, FineTuned):
        return {name: one for name, one in weights.items() if not any(part in name for part in UNSAVED)}
    return {name: one for name, one in weights.items() if not (tied and name == "head.weight")}


def _put(model: nn.Module, found: dict[str, Tensor], path: Path, stored: str | None = None) -> None:
    wanted = _stored(model)
    for name in sorted(wanted.keys() | found.keys()):
        got, want = (list(part[name].shape) if name in part else "nothing" for part in (found, wanted))
        if got != want:
            raise ValueError(f"{path}: {' '.join(name.split())}: got {got}, want {want} for this configuration")
        if not found[name].is_floating_point():
            raise ValueError(f"{path}: {name}: got {found[name].dtype}, want floating point")
        if not bool(found[name].isfinite().all()):
            raise ValueError(f"{path}: {name}: holds values that are not finite, want a model that has not diverged")
    kinds = {str(one.dtype).removeprefix("torch.") for one in found.values()} - {"float32", stored}
    if kinds:
        warnings.warn(f"{path}: holds {', '.join(sorted(kinds))}, and is computed with as float32", stacklevel=2)
    model.load_state_dict(found, strict=False)


def _card(model: TitansDNA | FineTuned, repo_id: str, results: str) -> str:
    what = "A DNA language model with a neural memory that learns at test time (Titans, arXiv 2501.00663)."
    use = 'vectors = titans_dna.embed(model, ["ACGTACGTACGT"])\n'
    if isinstance(model, FineTuned):
        question = model.question
        classes = f": {', '.join(question.classes)}" if question.classes else ""
        answer = f"one answer for each {question.unit}, {question.task}{classes}"
        what = f"A Titans model (arXiv 2501.00663) fine-tuned with titans-dna; {answer}."
        use = 'found = titans_dna.predict(model, ["ACGTACGTACGT"])\n' if question.unit == "sequence" else ""
    return f"""---
library_name: titans-dna
tags: [dna, genomics, titans]
---
# {repo_id.partition("/")[2]}

{what}

```python
import titans_dna

model = titans_dna.load("{repo_id}")
{use}```

{results}"""
