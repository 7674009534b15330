"""`titans-dna predict` with a model that has an answer for each base: predicted features as BED."""

from __future__ import annotations

from pathlib import Path

from titans_dna.genome.genome import open_genomes
from titans_dna.genome.intervals import Interval, merge, read_bed, whole_contigs
from titans_dna.nn.finetuned import FineTuned
from titans_dna.run.files import replacing
from titans_dna.tasks.base_score import score_bases
from titans_dna.tasks.intervals_out import IntervalWriter
from titans_dna.tasks.scoring import shown
from titans_dna.tasks.use_options import PredictOptions


def predict_intervals(model: FineTuned, options: PredictOptions) -> int:
    """Read all records, or the bases of a BED file's intervals, and write predicted features; returns their number.

    Windows are as long as those that the model was trained on, and each is read on its own, both strands of it; features go
    on over their borders. The file appears whole or not at all.

    Raises ValueError for an output that is not BED, and what reading the files raises.
    """
    files, out = options.files, Path(options.files.out)
    if out.suffix != ".bed":
        raise ValueError(f"--out: got {out}, want a file that ends in .bed: this model has an answer for each base")
    genome = open_genomes(files.fasta)
    where = whole_contigs(genome) if files.bed is None else merge(row.interval for row in read_bed(files.bed, genome))
    window = model.question.window
    windows = [
        Interval(one.contig, start, min(start + window, one.end))
        for one in where
        for start in range(one.start, one.end, window)
    ]
    together = max(1, options.scoring.batch_bases // window)
    with replacing(out) as aside, open(aside, "w", encoding="utf-8", newline="\n") as file:
        writer = IntervalWriter(file, model.question.classes)
        with shown("predict", sum(map(len, where))) as progress:
            for first in range(0, len(windows), together):
                some = windows[first : first + together]
                letters = [genome.fetch(*_ends(one)).upper().replace(b"U", b"T") for one in some]
                scores = score_bases(model, letters, batch_bases=options.scoring.batch_bases)
                for one, sequence, found in zip(some, letters, scores, strict=True):
                    writer.add(one, sequence, found)
                progress.add(sum(map(len, some)))
        writer.close()
    return writer.written


def _ends(interval: Interval) -> tuple[str, int, int]:
    return interval.contig, interval.start, interval.end
