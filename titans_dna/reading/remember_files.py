"""`titans-dna remember`: sequence files into a state file, with marks from which an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from titans_dna.checkpoint import load
from titans_dna.genome.genome import open_genomes
from titans_dna.nn.model import TitansDNA
from titans_dna.reading.options import ReadOptions, RememberOptions
from titans_dna.reading.remember import Reader, is_finite, pieces_of
from titans_dna.reading.source import GenomeSource, genome_source
from titans_dna.reading.state_file import Remembered, load_state, model_fingerprint, save_state
from titans_dna.reading.track import Track
from titans_dna.run.device import choose_device
from titans_dna.run.files import check_writable
from titans_dna.tasks.saved import CONFIG as FINETUNED
from titans_dna.tasks.saved import load_finetuned
from titans_dna.tasks.scoring import Progress, shown


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


def remember_files(options: RememberOptions) -> Result:
    """Read records of files, or intervals of them, one after the other, and write the state after the last.

    Raises ValueError or OSError with one line for any bad input; the outputs appear whole or not at all.
    """
    read, speed = options.read, options.speed
    out = Path(read.out)
    _check_outputs(read)
    model, scored = open_reader(read.model)
    model.to(choose_device(speed.accelerator))
    if read.track is not None:
        _check_track(read, model, scored)
    source = genome_source(open_genomes(read.fasta), read.bed)
    if speed.threads:
        torch.set_num_threads(speed.threads)
    before = None if read.state is None else load_state(read.state, model)
    digest = _digest(read, model, source, before)
    job = _Job(options, model, source, before, digest, Reader(model, before and before.state, scored))
    with shown("remember", int(source.lengths.sum())) as progress:
        done, seconds = job.run(progress)
    if not is_finite(job.state):
        raise FloatingPointError("the state is not finite")
    if read.track is not None:
        job.track.write(Path(read.track), source)
    total = int(source.lengths.sum()) + (int(before.about.get("bases", 0)) if before else 0)
    bits = job.reader.bits_per_base
    about = {"bases": total, "read": [*(before.about.get("read", []) if before else []), *job.named()]}
    save_state(out, job.state, model, about)
    job.mark.unlink(missing_ok=True)
    files = [out, *([Path(read.track)] if read.track else [])]
    return Result(files, total, bits, done / max(seconds, 1e-9), _peak_bytes())


def open_reader(source: str) -> tuple[TitansDNA, bool]:
    """The model of a directory or hub id, fine-tuned or not, and whether its head predicts bases."""
    if (Path(source) / FINETUNED).is_file():
        return load_finetuned(source).backbone, False
    return load(source), True


class _Job:
    """A reading on its way."""

    def __init__(
        self,
        options: RememberOptions,
        model: TitansDNA,
        source: GenomeSource,
        before: Remembered | None,
        digest: str,
        reader: Reader,
    ) -> None:
        self.options, self.model, self.source, self.digest, self.reader = options, model, source, digest, reader
        self.mark = mark_of(Path(options.read.out))
        self.track = Track(source.lengths, options.read.bin)
        self.number, self.token = 0, 0
        if self.mark.exists():
            self._go_on()

    @property
    def state(self) -> tuple[Any, ...]:
        """After all that was read."""
        assert self.reader.state is not None
        return self.reader.state

    def named(self) -> list[str]:
        """What was read."""
        return [f"{one.interval}{one.strand if one.strand != '.' else ''}" for one in self.source.records]

    def run(self, progress: Progress) -> tuple[int, float]:
        """Read what is left; bases and seconds of this process."""
        began = saved = time.monotonic()
        done, every = 0, self.options.speed.save_every * 60
        progress.add(float(self.source.lengths[: self.number].sum()) + self.token)
        while self.number < len(self.source.lengths):
            if self.token == 0:
                self.reader.begin()
            for ids in pieces_of(self.model, self.source, self.number, self.options.speed.piece, self.token):
                nats = self.reader.add(ids)
                self.track.add(self.number, self.token, nats)
                self.token += len(ids)
                done += len(ids)
                progress.add(len(ids))
                if every and time.monotonic() - saved > every:
                    self._save()
                    saved = time.monotonic()
            self.number, self.token = self.number + 1, 0
        return done, time.monotonic() - began

    def _save(self) -> None:
        """A mark: where we are, the state, and the sums so far."""
        reader = self.reader
        where = {"digest": self.digest, "number": self.number, "token": self.token}
        sums = {"nats": reader.nats, "counted": reader.counted}
        beside = {"track": self.track.sums, "counts": self.track.counts}
        if reader.last is not None:
            beside["last"] = reader.last
        save_state(self.mark, self.state, self.model, {**where, **sums}, beside)

    def _go_on(self) -> None:
        try:
            found = load_state(self.mark, self.model)
        except ValueError:
            found = None
        if found is None or found.about.get("digest") != self.digest:
            print("remember: model, input or options have changed since the last run; starting again", file=sys.stderr)
            return
        about, beside = found.about, found.tensors
        self.number, self.token = about["number"], about["token"]
        self.reader.state, self.reader.nats, self.reader.counted = found.state, about["nats"], about["counted"]
        self.reader.begin(beside["last"].to(self.model.norm.weight.device) if "last" in beside else None)
        self.track.sums, self.track.counts = beside["track"], beside["counts"]
        if self.token >= self.source.lengths[self.number]:
            self.number, self.token = self.number + 1, 0
        print("remember: going on from the mark of an earlier run", file=sys.stderr)


def mark_of(out: Path) -> Path:
    """Where the mark of an unfinished reading is kept."""
    return out.with_name(out.name + ".partial")


def _digest(read: ReadOptions, model: TitansDNA, source: GenomeSource, before: Remembered | None) -> str:
    """Of all that the state depends on."""
    digest = hashlib.blake2b(digest_size=16)
    records = [f"{one.name} {one.interval} {one.strand}" for one in source.records]
    known = (model_fingerprint(model), source.genome.fingerprint(), records, read.bin, bool(read.track))
    digest.update(json.dumps(known).encode())
    if before is not None and read.state is not None:
        digest.update(Path(read.state).read_bytes())
    return digest.hexdigest()


def _check_outputs(read: ReadOptions) -> None:
    inputs = [*read.fasta, *filter(None, [read.bed, read.state])]
    for flag, name in (("--out", read.out), ("--track", read.track)):
        if name is None:
            continue
        out = Path(name)
        if not out.parent.is_dir():
            raise FileNotFoundError(f"{flag}: {out.parent}: no such directory")
        if out.is_dir():
            raise IsADirectoryError(f"{flag}: {out} is a directory, want a file to write")
        check_writable(out.parent, flag)
        if out.exists() and any(Path(one).exists() and out.samefile(one) for one in inputs):
            raise ValueError(f"{flag}: {out} is one of the inputs, want another name")
        if out.exists() and not read.overwrite:
            raise ValueError(f"{flag}: {out} exists, want another name, or --overwrite to replace it")
    if read.track is not None and Path(read.track).absolute() == Path(read.out).absolute():
        raise ValueError(f"--track: got {read.track}, want another file than --out")


def _check_track(read: ReadOptions, model: TitansDNA, scored: bool) -> None:
    if not scored:
        raise ValueError(f"--track: {read.model} is fine-tuned and predicts no bases, want a pretrained model")
    if model.tokenizer.name != "nucleotide":  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError("--track: got a model of k-mers or BPE, want one with a token for each base")


def _peak_bytes() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
