"""A fine-tuned model from its directory, ready to score; and what a directory is that holds none."""

from __future__ import annotations

from pathlib import Path

from titans_dna import checkpoint
from titans_dna.run.device import choose_device
from titans_dna.tasks.model import FineTuned
from titans_dna.tasks.saved import CONFIG, load_finetuned


def open_finetuned(source: str, accelerator: str = "auto") -> FineTuned:
    """The model on its device.

    Raises what `load_finetuned` raises, and ValueError for a pretrained model's directory or a missing device.
    """
    directory = Path(source)
    if (directory / checkpoint.CONFIG).is_file() and not (directory / CONFIG).exists():
        raise ValueError(
            f"--model: {source} holds a pretrained model, which answers no question yet; want the directory of a "
            "fine-tuned one, as titans-dna finetune writes it"
        )
    return load_finetuned(source).to(choose_device(accelerator))


def refuse_finetuned(source: str) -> None:
    """ValueError for a fine-tuned model's directory where a pretrained one is wanted."""
    directory = Path(source)
    if (directory / CONFIG).is_file() and not (directory / checkpoint.CONFIG).exists():
        raise ValueError(
            f"--model: {source} holds a fine-tuned model; want the directory of a pretrained one, as titans-dna pretrain "
            "writes it"
        )


def want_sequences(model: FineTuned, source: str, verb: str) -> None:
    """ValueError for a model that has an answer for each base."""
    if model.question.unit == "base":
        raise ValueError(
            f"--model: {source} has an answer for each base, and titans-dna {verb} takes a model with one answer for "
            "each sequence"
        )
