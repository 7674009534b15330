"""What `titans-dna bench context` is told, as frozen dataclasses with the names of the flags."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

MODES = ("on", "reset", "off")


@dataclass(frozen=True)
class ContextFileOptions:
    """Files: the model, the held-out sequence, and where the results go"""

    model: str = ""
    """Directory that titans-dna pretrain wrote, or a Hugging Face hub id (user/name); its tokens must be single bases."""
    fasta: tuple[str, ...] = ()
    """Sequence files: FASTA, GenBank, EMBL or FASTQ, gzipped or not."""
    contigs: tuple[str, ...] = ()
    """Contigs to take places from; by default all of them. Name those that were held out of training."""
    bed: str | None = None
    """BED file of held-out intervals in place of --contigs: the rows with valid in column 4 where there are any, as in
    split.bed of a run, else all rows. Context and target both lie inside one interval."""
    out: str = ""
    """Directory for context.csv, context.md and context.png. A run with the same model, sequence and places goes on
    from the scores that are kept there, and may add modes and contexts."""


@dataclass(frozen=True)
class ContextTaskOptions:
    """Task: what is scored, and after how much context"""

    places: int = 8
    """Stretches to score, evenly spaced; fewer where there are not as many."""
    target: int = 8192
    """Bases of a stretch; the same bases are scored after each context."""
    contexts: tuple[int, ...] = (1024, 4096, 16384, 65536, 262144, 1048576)
    """Bases read before the stretch, from a fresh start."""
    modes: tuple[str, ...] = MODES
    """on: the state is carried. reset: the memory starts anew every --window bases, attention and convolutions go on.
    off: nothing is ever written into the memory."""
    reset_contexts: tuple[int, ...] = ()
    """Contexts of the mode reset, where not all of --contexts are wanted."""
    off_contexts: tuple[int, ...] = ()
    """Contexts of the mode off, where not all of --contexts are wanted."""
    window: int = 1024
    """Bases between two fresh starts of the memory in the mode reset, counted from the first base of the stretch."""
    max_n: float = 0.2
    """Largest share of letters other than A, C, G and T in a stretch, alone and together with each of its contexts."""
    k: int = 24
    """Letters of a k-mer: a base is recurring where the k-mer that ends with it stands before it too, on the same
    strand; at most 31."""


@dataclass(frozen=True)
class ContextSpeedOptions:
    """Speed and memory: they change no result"""

    batch_size: int = 8
    """Places read side by side."""
    piece: int = 1024
    """Bases of each place per call of the model."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to PyTorch."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; auto takes a GPU where there is one."""


@dataclass(frozen=True)
class ContextOptions:
    """All of a call. Raises ValueError naming the option, the value got and the value wanted."""

    files: ContextFileOptions
    task: ContextTaskOptions
    speed: ContextSpeedOptions

    def __post_init__(self) -> None:
        files, task = self.files, self.task
        for name, want in (("model", "a model directory"), ("out", "a directory to write")):
            if not getattr(files, name):
                raise ValueError(f"--{name}: got none, want {want}")
        if not files.fasta or "" in files.fasta:
            raise ValueError("--fasta: got none, want at least one sequence file")
        if files.bed == "":
            raise ValueError("--bed: got '', want a BED file")
        if files.bed and files.contigs:
            raise ValueError("--contigs: got them beside --bed, want one of the two")
        for part in (task, self.speed):
            for name, got in asdict(part).items():
                low = 0 if name == "threads" else 1
                if type(got) is int and got < low:
                    raise ValueError(f"--{name}: got {got}, want at least {low}")
        if task.k > 31:
            raise ValueError(f"--k: got {task.k}, want 1 to 31")
        if not 0 <= task.max_n < 1:
            raise ValueError(f"--max_n: got {task.max_n}, want 0 <= max_n < 1")
        if not task.modes or len(set(task.modes)) < len(task.modes) or not set(task.modes) <= set(MODES):
            raise ValueError(
                f"--modes: got {' '.join(task.modes) or 'none'}, want some of {' '.join(MODES)}, each once"
            )
        self._check_contexts()

    @property
    def work(self) -> list[tuple[str, int]]:
        """Mode and context of each row of the table."""
        task = self.task
        own = {"on": task.contexts, "reset": task.reset_contexts, "off": task.off_contexts}
        return [(mode, context) for mode in MODES if mode in task.modes for context in own[mode] or task.contexts]

    def _check_contexts(self) -> None:
        for name in ("contexts", "reset_contexts", "off_contexts"):
            got = getattr(self.task, name)
            if list(got) != sorted(set(got)) or any(one < 1 for one in got) or (name == "contexts" and not got):
                raise ValueError(
                    f"--{name}: got {' '.join(map(str, got)) or 'none'}, want numbers of bases, growing, from 1"
                )
            if not set(got) <= set(self.task.contexts):
                raise ValueError(
                    f"--{name}: got {' '.join(map(str, got))}, want some of --contexts "
                    f"({' '.join(map(str, self.task.contexts))})"
                )
            mode = name.removesuffix("_contexts")
            if mode in MODES and got and mode not in self.task.modes:
                raise ValueError(f"--{name}: got them without the mode {mode} in --modes")
