"""Reading sequence of any length into a model's memory: in Python, and from files into a state file, with marks on the way."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from titans_dna.checkpoint import open_model
from titans_dna.genome.genome import open_genomes
from titans_dna.nn.finetuned import FineTuned
from titans_dna.nn.model import TitansDNA, tensors_of, tokenizer_of
from titans_dna.nn.state import Remembered, load_state, model_fingerprint, save_state
from titans_dna.reading.bits import Bits, Track
from titans_dna.reading.options import ReadOptions, RememberOptions
from titans_dna.reading.parts import Unfinished
from titans_dna.reading.source import GenomeSource, Strand, as_source, genome_source
from titans_dna.reading.stream import Piece, calls, evaluating, hidden, logits, read, token_bases
from titans_dna.run.device import process_peak
from titans_dna.run.directory import DATA, check_output, partial
from titans_dna.run.files import write_text
from titans_dna.run.progress import Progress

PIECE = 8192
"""Bases of a call: enough that a call's fixed costs vanish, few enough for a processor's caches."""


class Read(NamedTuple):
    """What a model has read."""

    state: tuple[Any, ...]
    """After it; for `model(ids, state)`, `embed(…, state=…)`, or to go on reading."""
    bases: int
    """Letters read, those that are no A, C, G or T included."""
    bits_per_base: float
    """Mean over the A, C, G and T, each predicted from all that was read before it; the first base of each sequence is not
    counted. NaN where there is none."""


def remember(model: TitansDNA, sequences: Any, state: tuple[Any, ...] | None = None, *, piece: int = PIECE) -> Read:
    """Read sequences one after the other, as one, into a model's memory; memory use does not grow with their length.

    model: with a tokenizer, as `titans_dna.load` gives it. sequences: as `embed` takes them: a sequence, an iterable of such,
        or the path of a sequence file, whose records are read in order.
    state: what an earlier call returned or `load_state` gave; None starts afresh. It is not changed.
    piece: bases per call of the model; it changes speed and memory, and no number beyond rounding.

    Raises ValueError naming the argument, what `open_genome` raises for a file, and FloatingPointError where the model's
    output is not finite.
    """
    if piece < 1:
        raise ValueError(f"piece: got {piece}, want at least 1")
    tokenizer = tokenizer_of(model)
    source = as_source(sequences)
    if not len(source.lengths):
        raise ValueError("sequences: got none, want at least one")
    bits, tokens = Bits(tokenizer), max(1, piece // token_bases(tokenizer))
    with evaluating(model):
        for number in range(len(source.lengths)):
            bits.begin()
            row = Strand(source, number, tokenizer)
            state = read(logits(model), calls([row], tokens), bits, state, device=model.norm.weight.device)
    assert state is not None
    return Read(state, int(source.lengths.sum()), bits.per_base)


MARK = "mark"
"""Where we are: a state file, in the directory beside the output."""


class Result(NamedTuple):
    """What was written, and what the reading came to."""

    files: list[Path]
    bases: int
    """Read in all, by this and earlier calls whose state it went on from."""
    bits_per_base: float
    """Of the bases of these files; NaN for a model without a head for bases."""
    bases_per_second: float
    """Of what this process read."""
    peak_bytes: int
    """Most memory that this process held at once."""


def remember_files(options: RememberOptions, resume: bool = False) -> Result:
    """Read records of files, or intervals of them, one after the other, and write the state after the last.

    The outputs appear whole or not at all; until then there is a mark now and then in a directory beside the state,
    `OUT.partial`, and a run with the same model, input and options goes on from there. resume: there must be such a run.

    Raises ValueError or OSError with one line for any bad input, `Stopped` where it is interrupted, and FloatingPointError
    where the model's output or the state is not finite.
    """
    given, speed = options.read, options.speed
    out, track = Path(given.out), None if given.track is None else Path(given.track)
    inputs = [*given.fasta, given.bed, given.state]
    _adopt(partial(out))
    with Unfinished("remember", [out], inputs, overwrite=given.overwrite, resume=resume) as kept:
        if track is not None:
            check_output([track], inputs=inputs, overwrite=given.overwrite or kept.began, flag="--track")
            if track.absolute() == out.absolute():
                raise ValueError(f"--track: got {track}, want another file than --out")
        model, scored = open_reader(given.model, speed.accelerator, speed.threads)
        if track is not None:
            _check_track(given, model, scored)
        source = genome_source(open_genomes(given.fasta), given.bed)
        before = None if given.state is None else load_state(given.state, model)
        total = int(source.lengths.sum())
        kept.begin(options, _digest(given, model, source, before))
        job = _Job(options, model, source, before, scored, kept.path / MARK)
        with Progress("remember", total, done=job.done) as progress:
            done, seconds = job.run(progress)
        if not all(bool(x.isfinite().all()) for x in tensors_of(job.state)):
            raise FloatingPointError("the state is not finite")
        if track is not None:
            job.track.write(track, source)
        about = {} if before is None else before.about
        bases = total + int(about.get("bases", 0))
        named = [f"{one.interval}{one.strand if one.strand != '.' else ''}" for one in source.records]
        save_state(out, job.state, model, {"bases": bases, "read": [*about.get("read", []), *named]})
        kept.finish()
    files = [out] if track is None else [out, track]
    return Result(files, bases, job.bits.per_base, done / max(seconds, 1e-9), process_peak())


def open_reader(source: str, accelerator: str = "cpu", threads: int = 0) -> tuple[TitansDNA, bool]:
    """The model of a directory or hub id, fine-tuned or not, and whether its head predicts bases."""
    model = open_model(source, None, accelerator, threads)
    if isinstance(model, FineTuned) and model.others:
        raise ValueError(f"--model: {source} is {len(model.members)} models, want one, as in its {source}/seed-0")
    return (model.backbone, False) if isinstance(model, FineTuned) else (model, True)


class _Job:
    """A reading on its way: it takes the pieces, and leaves a mark now and then."""

    def __init__(
        self,
        options: RememberOptions,
        model: TitansDNA,
        source: GenomeSource,
        before: Remembered | None,
        scored: bool,
        mark: Path,
    ) -> None:
        tokenizer = tokenizer_of(model)
        self.model, self.source, self.tokenizer, self.mark = model, source, tokenizer, mark
        self.piece = max(1, options.speed.piece // token_bases(tokenizer))
        self.every = options.speed.save_every * 60
        self.bits, self.track = Bits(tokenizer, scored), Track(source.lengths, options.read.bin)
        self.number, self.token, self.done = 0, 0, 0
        """The sequence that is being read, its tokens that have been read, and the bases of all."""
        self._state = None if before is None else before.state
        self._call = logits(model) if scored else hidden(model)
        with suppress(FileNotFoundError, ValueError):  # without a mark, or with a damaged one, from the beginning
            self._go_on()

    @property
    def state(self) -> tuple[Any, ...]:
        """After all that was read."""
        assert self._state is not None
        return self._state

    def run(self, progress: Progress) -> tuple[int, float]:
        """Read what is left; bases and seconds of this process."""
        if self.done:
            progress.say("going on from the mark of an earlier run")
        self.progress, first = progress, self.done
        began = self._saved = time.monotonic()
        with evaluating(self.model):
            while self.number < len(self.source.lengths):
                if self.token == 0:
                    self.bits.begin()
                row = Strand(self.source, self.number, self.tokenizer)
                device = self.model.norm.weight.device
                read(self._call, calls([row], self.piece, self.token), self, self._state, device=device)
                self.number, self.token = self.number + 1, 0
        return self.done - first, time.monotonic() - began

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.bits.add(piece)
        self.track.add(self.number, self.token, self.bits.found)
        self._state, bases = piece.state, int(piece.widths.sum())
        self.token, self.done = self.token + piece.ids.shape[1], self.done + bases
        self.progress.add(bases)
        if self.every and time.monotonic() - self._saved > self.every:
            self._save()
            self._saved = time.monotonic()

    def _save(self) -> None:
        """A mark: where we are, the state, and the sums so far."""
        where = {"number": self.number, "token": self.token, "done": self.done}
        sums = {"nats": self.bits.total, "counted": self.bits.counted}
        beside = {"track": self.track.sums, "counts": self.track.counts}
        if self.bits.last is not None:
            beside["last"] = self.bits.last
        save_state(self.mark, self.state, self.model, {**where, **sums}, beside)

    def _go_on(self) -> None:
        found = load_state(self.mark, self.model)
        about, beside = found.about, found.tensors
        self.number, self.token, self._state = about["number"], about["token"], found.state
        # Version 0.1.0 did not say how many bases.
        self.done = about.get("done", int(self.source.lengths[: self.number].sum()) + self.token)
        self.bits.total, self.bits.counted = about["nats"], about["counted"]
        self.bits.begin(beside["last"].to(self.model.norm.weight.device) if "last" in beside else None)
        self.track.sums, self.track.counts = beside["track"], beside["counts"]


def _adopt(path: Path) -> None:
    """What version 0.1.0 kept of an unfinished reading, a mark in place of the directory, becomes the mark in it."""
    if not path.is_file():
        return
    try:
        with safe_open(path, "pt") as file:
            digest = json.loads((file.metadata() or {}).get("about", "{}")).get("digest")
    except (SafetensorError, ValueError, AttributeError):
        return
    if not digest:
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    aside.mkdir()
    write_text(aside / DATA, json.dumps({"fingerprint": digest}) + "\n")
    path.rename(aside / MARK)
    os.replace(aside, path)


def _digest(given: ReadOptions, model: TitansDNA, source: GenomeSource, before: Remembered | None) -> str:
    """Of all that the state depends on, as version 0.1.0 had it."""
    digest = hashlib.blake2b(digest_size=16)
    records = [f"{one.name} {one.interval} {one.strand}" for one in source.records]
    known = (model_fingerprint(model), source.genome.fingerprint(), records, given.bin, bool(given.track))
    digest.update(json.dumps(known).encode())
    if before is not None and given.state is not None:
        digest.update(Path(given.state).read_bytes())
    return digest.hexdigest()


def _check_track(given: ReadOptions, model: TitansDNA, scored: bool) -> None:
    if not scored:
        raise ValueError(f"--track: {given.model} is fine-tuned and predicts no bases, want a pretrained model")
    if tokenizer_of(model).name != "nucleotide":
        raise ValueError("--track: got a model of k-mers or BPE, want one with a token for each base")
