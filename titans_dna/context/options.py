"""What `titans-dna context` is told."""

from __future__ import annotations

from dataclasses import dataclass

from titans_dna.reading.options import bed_option, fasta_option, model_option
from titans_dna.run.options import (
    Accelerator,
    Options,
    accelerator_option,
    group,
    option,
    resume_option,
    threads_option,
)

MODES = ("on", "reset", "off")


@dataclass(frozen=True)
class ContextFileOptions:
    """Files: the model, the held-out sequence, and where the results go"""

    model: str = model_option("that titans-dna pretrain wrote, whose tokens are single bases")
    fasta: tuple[str, ...] = fasta_option(".")
    contigs: tuple[str, ...] = option(
        (), "Contigs to take places from; by default all of them. Name those that were held out of training."
    )
    bed: str | None = bed_option(
        "BED file of held-out intervals in place of --contigs: the rows with valid in column 4 where there are any, as in "
        "split.bed of a run, else all rows. Context and target both lie inside one interval."
    )
    out: str = option(
        "",
        "Directory for context.csv, context.md and context.png. A run with the same model, sequence and places goes on from "
        "the scores that are kept there, and may add modes and contexts.",
        required=True,
        want="a directory to write",
        free=True,
    )
    resume: bool = resume_option()


@dataclass(frozen=True)
class ContextTaskOptions:
    """Task: what is scored, and after how much context"""

    places: int = option(8, "Stretches to score, evenly spaced; fewer where there are not as many.", least=1)
    target: int = option(8192, "Bases of a stretch; the same bases are scored after each context.", least=1)
    contexts: tuple[int, ...] = option(
        (1024, 4096, 16384, 65536, 262144, 1048576), "Bases read before the stretch, from a fresh start.", free=True
    )
    modes: tuple[str, ...] = option(
        MODES,
        "on: the state is carried. reset: the memory starts anew every --window bases, attention and convolutions go on. "
        "off: nothing is ever written into the memory.",
        free=True,
    )
    reset_contexts: tuple[int, ...] = option(
        (), "Contexts of the mode reset, where not all of --contexts are wanted.", free=True
    )
    off_contexts: tuple[int, ...] = option(
        (), "Contexts of the mode off, where not all of --contexts are wanted.", free=True
    )
    window: int = option(
        1024,
        "Bases between two fresh starts of the memory in the mode reset, counted from the first base of the stretch.",
        least=1,
    )
    max_n: float = option(
        0.2,
        "Largest share of letters other than A, C, G and T in a stretch, alone and together with each of its contexts.",
        least=0,
        below=1,
    )
    k: int = option(
        24,
        "Letters of a k-mer: a base is recurring where the k-mer that ends with it stands before it too, on the same strand; "
        "at most 31.",
        least=1,
        most=31,
        free=True,
    )


@dataclass(frozen=True)
class ContextSpeedOptions:
    """Speed and memory: they change no result"""

    batch_size: int = option(8, "Places read side by side.", least=1)
    piece: int = option(1024, "Bases of each place per call of the model.", least=1)
    threads: int = threads_option()
    accelerator: Accelerator = accelerator_option()


@dataclass(frozen=True)
class ContextOptions(Options):
    """What a trained model gains from context: bits per base of the same held-out bases after 1k to 1M bases, memory on,
    reset and off.

    Example: titans-dna context --model runs/first --fasta genome.fa --contigs chr22 --out runs/context
    """

    files: ContextFileOptions = group(ContextFileOptions)
    task: ContextTaskOptions = group(ContextTaskOptions)
    speed: ContextSpeedOptions = group(ContextSpeedOptions, free=True)

    def check(self) -> None:
        """ValueError for options that do not go together."""
        files, modes = self.files, self.task.modes
        if files.bed and files.contigs:
            raise ValueError("--contigs: got them beside --bed, want one of the two")
        if not modes or len(set(modes)) < len(modes) or not set(modes) <= set(MODES):
            raise ValueError(f"--modes: got {' '.join(modes) or 'none'}, want some of {' '.join(MODES)}, each once")
        for name in ("contexts", "reset_contexts", "off_contexts"):
            self._check_contexts(name)

    @property
    def work(self) -> list[tuple[str, int]]:
        """Mode and context of each row of the table."""
        task = self.task
        own = {"on": task.contexts, "reset": task.reset_contexts, "off": task.off_contexts}
        return [(mode, context) for mode in MODES if mode in task.modes for context in own[mode] or task.contexts]

    def _check_contexts(self, name: str) -> None:
        got, shown = getattr(self.task, name), " ".join(map(str, getattr(self.task, name)))
        if list(got) != sorted(set(got)) or any(one < 1 for one in got) or (name == "contexts" and not got):
            raise ValueError(f"--{name}: got {shown or 'none'}, want numbers of bases, growing, from 1")
        if not set(got) <= set(self.task.contexts):
            contexts = " ".join(map(str, self.task.contexts))
            raise ValueError(f"--{name}: got {shown}, want some of --contexts ({contexts})")
        mode = name.removesuffix("_contexts")
        if mode in MODES and got and mode not in self.task.modes:
            raise ValueError(f"--{name}: got them without the mode {mode} in --modes")
