"""The genome reader against Biopython and against a few lines of plain Python."""

import gzip
import multiprocessing
import os
import pickle
import random
import shutil
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path

import pytest
from Bio import SeqIO, bgzf
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord
from pyfaidx import Faidx

from titans_dna.genome import genome as cache
from titans_dna.genome import records
from titans_dna.genome.genome import open_genome, open_genomes

DATA = Path(__file__).parents[2] / "../shared/data/genomes"
MIXED = {"chr1": "ACGTNNacgtRYKM" * 7, "gi|9|ref|NC_1.1|": "ACG", "empty": "", "last": "TTTTTTTTTTA"}
HEADERS = {
    "chr1": "chr1 first one",
    "gi|9|ref|NC_1.1|": "gi|9|ref|NC_1.1| a phage",
    "empty": "empty\tx",
    "last": "last",
}


def layout(width=10, end="\n", final=True, contigs=MIXED, descriptions=True):
    """FASTA text in a chosen layout."""
    lines = []
    for name, bases in contigs.items():
        lines += [">" + (HEADERS.get(name, name) if descriptions else name)]
        lines += [bases[i : i + width] for i in range(0, len(bases), width)]
    return (end.join(lines) + (end if final else "")).encode()


def write_bgzf(path, text):
    with bgzf.BgzfWriter(str(path)) as out:
        out.write(text)


def write(path, text):
    path.write_bytes(text)


def write_gzip(path, text):
    path.write_bytes(gzip.compress(text))


LAYOUTS = {
    "lf": (write, "g.fa", layout()),
    "crlf": (write, "g.fa", layout(end="\r\n")),
    "cr": (write, "g.fa", layout(end="\r")),
    "mixed line ends of one byte width": (write, "g.fa", layout().replace(b"ACGTNNacgt\n", b"ACGTNNacg\r\nt", 1)),
    "no final newline": (write, "g.fa", layout(final=False)),
    "one long line": (write, "g.fa", layout(width=1000)),
    "last line longer than the others": (write, "g.fa", layout(width=1000).replace(b"TTTTTTTTTTA", b"TTT\nTTTTTTTA")),
    "uneven lines": (write, "g.fa", layout().replace(b"ACGTNNacgt\n", b"ACGT\nNNacgt\n")),
    "blank lines": (
        write,
        "g.fa",
        b"\n" + layout().replace(b"\n>", b"\n\n\n>").replace(b"one\n", b"one\n\n") + b"\n\n",
    ),
    "spaces in lines": (write, "g.fa", layout().replace(b"ACGTNNacgt\n", b"ACGTN Nacgt \n")),
    "comments and a byte order mark": (write, "g.fa", b"\xef\xbb\xbf; a comment\n" + layout()),
    "latin-1 description": (write, "g.fa", layout().replace(b"first one", b"caf\xe9")),
    "gzip": (write_gzip, "g.fa.gz", layout()),
    "gzip with CRLF and no suffix": (write_gzip, "genome", layout(end="\r\n")),
    "bgzip": (write_bgzf, "g.fa.gz", layout()),
}


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("block", [7, 64, 1 << 22])
def test_every_layout_gives_the_same_bases(tmp_path, monkeypatch, case, block):
    monkeypatch.setattr(records, "BLOCK", block)
    monkeypatch.setattr(cache, "COPY_WIDTH", 16)
    save, name, text = LAYOUTS[case]
    save(tmp_path / name, text)
    genome = open_genome(tmp_path / name, tmp_path / "cache")
    assert list(genome.contigs.items()) == [(name, len(bases)) for name, bases in MIXED.items()]
    for contig, bases in MIXED.items():
        for start in range(len(bases) + 1):
            for end in {start, start + 1, start + 9, start + 25, len(bases)}:
                if start <= end <= len(bases):
                    assert genome.fetch(contig, start, end) == bases[start:end].encode()
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == [name]


def test_random_layouts(tmp_path, monkeypatch):
    rng = random.Random(1)
    monkeypatch.setattr(cache, "COPY_WIDTH", 8)
    for trial in range(60):
        monkeypatch.setattr(records, "BLOCK", rng.choice([1, 3, 8, 50]))
        contigs = {f"c{i}": "".join(rng.choices("ACGTn", k=rng.choice([0, 1, 5, 30]))) for i in range(4)}
        contigs["c9"] = "A" + contigs["c0"]
        text = ""
        for name, bases in contigs.items():
            text += f">{name}{rng.choice(['', ' x', ' > y'])}" + rng.choice(["\n", "\r\n", "\n\n"])
            width = rng.choice([1, 4, 5, 40])
            while bases:
                text += bases[:width] + rng.choice(["\n"] * 12 + ["\r\n", "\n\n", "\r"])
                bases, width = bases[width:], rng.choice([width] * 12 + [3, 6])
        path = tmp_path / f"{trial}.fa"
        path.write_bytes(text.encode())
        genome = open_genome(path, tmp_path / "cache")
        assert list(genome.contigs) == list(contigs)
        for name, bases in contigs.items():
            for start in range(len(bases)):
                assert genome.fetch(name, start, len(bases)).decode() == bases[start:], text
                assert genome.fetch(name, start, start + 1).decode() == bases[start], text


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("block", [7, 1 << 22])
def test_the_index_is_that_of_pyfaidx(tmp_path, monkeypatch, case, block):
    monkeypatch.setattr(records, "BLOCK", block)
    monkeypatch.setattr(cache, "COPY_WIDTH", 16)
    save, name, text = LAYOUTS[case]
    save(tmp_path / name, text)
    opened = cache.prepare(tmp_path / name, tmp_path / "cache")
    Faidx(str(opened.fasta), str(tmp_path / "wanted.fai")).close()
    assert opened.index.read_text() == (tmp_path / "wanted.fai").read_text()


LONG = bytes(random.Random(3).choices(b"ACGTN", k=1_000_000)) * 30


@pytest.mark.parametrize(
    "text",
    [
        b">one x\n" + LONG + b"\n>two\nACGT\n",
        b">one\r\n" + LONG + b"\r\n>two\r\nACGT\r\n",
        b">one " + LONG.lower() + b"\n" + LONG + b"\n>two\nACGT\n",
        b"; " + LONG + b"\n>one\n" + LONG + b"\n>two\nACGT\n",
        gzip.compress(b">one\n" + LONG + b"\n>two\nACGT\n", 1),
    ],
    ids=["one line", "CRLF", "a long description", "a long comment", "gzip"],
)
def test_no_line_is_read_whole(tmp_path, text):
    """30 Mb in one line, in a fraction of that, and so is a part of it."""
    (tmp_path / "g.fa").write_bytes(text)
    tracemalloc.start()
    try:
        genome = open_genome(tmp_path / "g.fa", tmp_path / "cache")
        opening = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert genome.fetch("one", 17_000_003, 17_000_203) == LONG[17_000_003:17_000_203]
        fetching = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert genome.contigs == {"one": len(LONG), "two": 4}
    assert genome.fetch("two", 0, 4) == b"ACGT"
    assert opening < 26e6
    assert fetching < 1e6


def test_a_name_without_an_end(tmp_path):
    (tmp_path / "g.fa").write_bytes(b">" + b"A" * (1 << 16) + b"\nACGT\n")
    with pytest.raises(ValueError, match=r"g\.fa: a record has a name of 65,536 letters or more"):
        open_genome(tmp_path / "g.fa", tmp_path / "cache")


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize(
    "text", [layout(), layout(final=False), layout() + b"\n", layout().replace(b"\n>empty", b"\n\n>empty")]
)
def test_plain_fasta_is_read_where_it_stands(tmp_path, monkeypatch, block, text):
    monkeypatch.setattr(records, "BLOCK", block)
    (tmp_path / "g.fa").write_bytes(text)
    open_genome(tmp_path / "g.fa", tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix == ".fa"]


def test_fingerprint_is_of_the_content(tmp_path):
    def fingerprint(text, save=write):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.fa"
        save(path, text)
        return open_genome(path, tmp_path / "cache").fingerprint()

    same = fingerprint(layout())
    for text in (layout(width=3), layout(end="\r\n"), layout(final=False), layout(descriptions=False)):
        assert fingerprint(text) == same
    assert fingerprint(layout(), write_gzip) == fingerprint(layout(), write_bgzf) == same
    renamed = {("chrZ" if name == "chr1" else name): bases for name, bases in MIXED.items()}
    other_base = MIXED | {"last": "TTTTTTTTTTC"}
    other_case = MIXED | {"last": "TTTTTTTTTTa"}
    other_order = dict(reversed(MIXED.items()))
    moved = MIXED | {"gi|9|ref|NC_1.1|": "ACGT", "last": "TTTTTTTTTA"}
    others = [fingerprint(layout(contigs=contigs)) for contigs in (renamed, other_base, other_case, other_order, moved)]
    assert len({same, *others}) == 6


def test_several_files_are_one_genome(tmp_path):
    names = list(MIXED)
    for number, part in enumerate((names[:2], names[2:])):
        (tmp_path / f"{number}.fa").write_bytes(layout(contigs={name: MIXED[name] for name in part}))
    (tmp_path / "whole.fa").write_bytes(layout())
    genome = open_genomes([tmp_path / "0.fa", tmp_path / "1.fa"], tmp_path / "cache")
    whole = open_genome(tmp_path / "whole.fa", tmp_path / "cache")
    assert list(genome.contigs.items()) == list(whole.contigs.items())
    assert genome.fingerprint() == whole.fingerprint()
    assert genome.fetch("last", 8, 11) == b"TTA"
    assert genome.fetch("chr1", 4, 8) == b"NNac"
    for nothing in ([], str(tmp_path / "whole.fa")):
        with pytest.raises(ValueError, match="paths: got"):
            open_genomes(nothing)


def test_names_that_stand_in_several_files_have_the_file_in_front(tmp_path, capsys):
    for name, text in (("h.fa", ">chr1\nAAAA\n>h2\nAC\n"), ("m.fa.gz", ">chr1\nCCCCC\n"), ("x.fa", ">y\nG\n")):
        content = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    genome = open_genomes([tmp_path / "h.fa", tmp_path / "m.fa.gz", tmp_path / "x.fa"], tmp_path / "cache")
    assert genome.contigs == {"h:chr1": 4, "h2": 2, "m:chr1": 5, "y": 1}
    assert [genome.fetch(name, 0, 1) for name in genome.contigs] == [b"A", b"A", b"C", b"G"]
    assert "called by the file's name too, as m:chr1" in capsys.readouterr().err
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "h.fa").write_text(">chr1\nA\n")
    with pytest.raises(ValueError, match=r"contig 'h:chr1' stands in .* too, want each name once"):
        open_genomes([tmp_path / "h.fa", tmp_path / "d" / "h.fa"], tmp_path / "cache")


def test_interleaved_pairs_are_two_reads(tmp_path, capsys):
    reads = [("r1", "ACGT"), ("r1", "GG"), ("r2", ""), ("r3", "T"), ("r3", "C"), ("r4", "A")]
    text = "".join(f"@{name} more\n{bases}\n+\n{'I' * len(bases)}\n" for name, bases in reads)
    (tmp_path / "x.fq").write_text(text)
    genome = open_genome(tmp_path / "x.fq", tmp_path / "cache")
    assert genome.contigs == {"r1/1": 4, "r1/2": 2, "r2": 0, "r3/1": 1, "r3/2": 1, "r4": 1}
    assert genome.fetch("r1/2", 0, 2) == b"GG"
    assert "2 pair(s) of reads of one name, called NAME/1 and NAME/2" in capsys.readouterr().err
    (tmp_path / "y.fq").write_text(text + "@r1\nA\n+\nI\n@r1\nA\n+\nI\n")
    with pytest.raises(ValueError, match="two records are named 'r1/1'"):
        open_genome(tmp_path / "y.fq", tmp_path / "cache")


GENBANK = """LOCUS       TST1                      20 bp    DNA     linear   SYN 17-MAY-2019
DEFINITION  test.
ACCESSION   TST1
VERSION     TST1.1
{more}FEATURES             Location/Qualifiers
     CDS             3..11
                     /gene="a"
     misc_feature    {odd}
ORIGIN
        1 acgtacgtac gtacgtacgt
//
"""


@pytest.mark.parametrize("odd", ["(3.5)..8", "join(1..", "-2..3", "x", "1..9999", "3..5\n\t/x"])
def test_features_do_not_matter_for_the_bases(tmp_path, odd):
    (tmp_path / "x.gb").write_text(GENBANK.format(more="", odd=odd))
    assert open_genome(tmp_path / "x.gb", tmp_path / "cache").fetch("TST1.1", 0, 4).upper() == b"ACGT"


@pytest.mark.parametrize("more", ["  AUTHORS   Doe,J.\n", "REFERENCE   1  (bases 1 to\n", "COMMENT\nDBLINK\n"])
def test_nor_do_citations_and_comments(tmp_path, more):
    (tmp_path / "x.gb").write_text(GENBANK.format(more=more, odd="1..2") * 2)
    with pytest.raises(ValueError, match=r"two records are named 'TST1\.1'"):
        open_genome(tmp_path / "x.gb", tmp_path / "cache")
    (tmp_path / "x.gb").write_text(GENBANK.format(more=more, odd="1..2"))
    assert open_genome(tmp_path / "x.gb", tmp_path / "cache").contigs == {"TST1.1": 20}


@pytest.mark.parametrize(("old", "new"), [(" bp ", " "), ("20 bp", "xx bp"), ("ORIGIN", "ORIGI")])
def test_whatever_a_parser_raises_is_one_line(tmp_path, old, new):
    (tmp_path / "x.gb").write_text(GENBANK.format(more="", odd="1..2").replace(old, new))
    with pytest.raises(ValueError, match=r"x\.gb: not valid genbank: record 1: .") as caught:
        open_genome(tmp_path / "x.gb", tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        (("chrX", 0, 1), "contig: got 'chrX', want one of 'chr1', 'gi|9|ref|NC_1.1|', 'empty', … (4 in all)"),
        (("last", -1, 3), "interval: got last:-1-3, want 0 <= start <= end <= 11"),
        (("last", 0, 12), "interval: got last:0-12, want 0 <= start <= end <= 11"),
        (("last", 5, 4), "interval: got last:5-4, want 0 <= start <= end <= 11"),
        (("empty", 0, 1), "interval: got empty:0-1, want 0 <= start <= end <= 0"),
    ],
)
def test_bad_interval(tmp_path, interval, message):
    (tmp_path / "g.fa").write_bytes(layout())
    genome = open_genome(tmp_path / "g.fa", tmp_path / "cache")
    with pytest.raises(ValueError) as error:
        genome.fetch(*interval)
    assert str(error.value) == message


BAD = {
    "empty": (b"", "empty file"),
    "blank": (b"\n \n", "empty file"),
    "no bases": (b">a\n>b\n", "2 record(s) but no bases"),
    "protein": (
        b">ok\nACGT\n>sp|P0 x\nMKVLAA\n",
        "letter 'L' in record 'sp|P0', want ACGTUNRYSWKMBDHV- in either case",
    ),
    "protein past the first block": (b">a\n" + b"ACGT\n" * 50 + b">b\nACGTE\n", "letter 'E' in record 'b'"),
    "binary": (bytes(range(1, 200)) * 9, "want FASTA ('>')"),
    "binary after a '>'": (b">a\n\x00\x01\xff", "letter '\\x00' in record 'a'"),
    "text": (b"hello world\n", "starts with b'hello world\\n', want FASTA ('>')"),
    "text after a comment": (b";x\nACGT\n>a\nACGT\n", "text before the first record"),
    "no name": (b">a\nACGT\n>\nACGT\n", "record 2 has no name"),
    "one name twice": (b">a x\nACGT\n>b\nA\n>a y\nACGT\n", "two records are named 'a'"),
    "truncated gzip": (gzip.compress(os.urandom(999).hex().encode())[:-300], "truncated gzip"),
    "truncated gzip of FASTA": (
        gzip.compress(b">a\n" + bytes(random.Random(0).choices(b"ACGT", k=9999)))[:-300],
        "gzip",
    ),
    "gzip of nothing": (gzip.compress(b""), "empty file"),
    "FASTQ cut short": (b"@r1\nACGT\n+\n!!!!\n@r2\nACGT\n+\n!!", "not valid FASTQ"),
    "GenBank without sequence": (b"LOCUS       X 4 bp DNA linear UNK 01-JAN-2000\nORIGIN\n//\n", "no sequence"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file(tmp_path, monkeypatch, case):
    monkeypatch.setattr(records, "BLOCK", 64)
    content, message = BAD[case]
    path = tmp_path / "bad.fa"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        open_genome(path, tmp_path / "cache")
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").iterdir())


def test_not_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.fa: no such file"):
        open_genome(tmp_path / "nowhere.fa", tmp_path / "cache")
    with pytest.raises(IsADirectoryError, match="is a directory, want"):
        open_genome(tmp_path, tmp_path / "cache")


def annotated(kind):
    found = [SeqRecord(Seq(bases), id=name, name=name[:1]) for name, bases in (("X1.2", "ACGTN" * 30), ("Y", "AC"))]
    for record in found:
        record.annotations["molecule_type"] = "DNA"
        record.letter_annotations["phred_quality"] = [30] * len(record)
    return "".join(record.format(kind) for record in found).encode()


@pytest.mark.parametrize("save", [write, write_gzip])
@pytest.mark.parametrize(
    ("kind", "names"), [("genbank", ["X1.2", "Y"]), ("embl", ["X1.2", "Y"]), ("fastq", ["X1.2", "Y"])]
)
def test_other_formats(tmp_path, save, kind, names):
    save(tmp_path / "g", annotated(kind))
    genome = open_genome(tmp_path / "g", tmp_path / "cache")
    assert genome.contigs == {names[0]: 150, names[1]: 2}
    assert genome.fetch(names[0], 0, 150) == b"ACGTN" * 30
    assert genome.fetch(names[1], 0, 2) == b"AC"


def test_genbank_shorter_than_it_says(tmp_path):
    text = annotated("genbank")
    (tmp_path / "g.gb").write_bytes(text.replace(b"150 bp", b"160 bp"))
    with pytest.raises(ValueError, match="not valid genbank: record 1: Expected sequence length 160, found 150"):
        open_genome(tmp_path / "g.gb", tmp_path / "cache")


def test_genbank_release_with_a_banner(tmp_path):
    (tmp_path / "g.gbff").write_bytes(b"GBPHG1.SEQ   Genetic Sequence Data Bank\n\n" + annotated("genbank"))
    assert open_genome(tmp_path / "g.gbff", tmp_path / "cache").contigs == {"X1.2": 150, "Y": 2}


def test_a_changed_file_is_read_afresh(tmp_path):
    path = tmp_path / "g.fa"
    path.write_bytes(b">a\nACGTACGT\n")
    (tmp_path / "g.fa.fai").write_text("a\t3\t900\t1\t7\n")  # a stale index beside the file is not trusted
    before = open_genome(path, tmp_path / "cache")
    assert before.fetch("a", 0, 8) == b"ACGTACGT"
    status = path.stat()
    path.write_bytes(b">b\nACGTTTTT\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size and time, as `cp -p` may leave it
    after = open_genome(path, tmp_path / "cache")
    assert after.contigs == {"b": 8}
    assert after.fetch("b", 0, 8) == b"ACGTTTTT"
    assert before.fingerprint() != after.fingerprint()
    path.write_bytes(b">b\nA\n")
    with pytest.raises(OSError, match="changed since it was opened"):
        pickle.loads(pickle.dumps(after)).fetch("b", 0, 1)


def test_a_file_dated_in_the_future_is_indexed_once(tmp_path, monkeypatch):
    path = tmp_path / "g.fa"
    path.write_bytes(layout())
    os.utime(path, (4e9, 4e9))
    open_genome(path, tmp_path / "cache").fetch("chr1", 0, 9)
    monkeypatch.setattr(records.RecordReader, "__iter__", None)
    assert open_genome(path, tmp_path / "cache").fetch("chr1", 0, 6) == b"ACGTNN"


@pytest.mark.parametrize("suffix", [".fa", ".fai", ".json"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_cache_is_rebuilt(tmp_path, suffix, damage):
    path = tmp_path / "g.fa"
    path.write_bytes(layout(end="\r\n"))
    open_genome(path, tmp_path / "cache")
    (part,) = (
        found for found in (tmp_path / "cache").iterdir() if found.name.endswith(suffix) and "g.fa." in found.name
    )
    part.unlink() if damage == "gone" else part.write_bytes(part.read_bytes()[:-5])
    assert open_genome(path, tmp_path / "cache").fetch("last", 5, 11) == b"TTTTTA"


def test_default_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "g.fa").write_bytes(layout())
    open_genome(tmp_path / "g.fa")
    folder = "Library/Caches" if sys.platform == "darwin" else ".cache"
    assert list((tmp_path / "home" / folder / "titans_dna").glob("*.json"))


def test_a_home_that_cannot_be_written_falls_back(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file, so no directory can be made in it")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "g.fa").write_bytes(layout())
    assert open_genome(tmp_path / "g.fa").fetch("chr1", 0, 6) == b"ACGTNN"
    assert list(tmp_path.glob("titans_dna-*/*.json"))
    with pytest.raises(OSError, match=r"cache_dir: cannot write in .*home/x .*, want a writable directory"):
        open_genome(tmp_path / "g.fa", tmp_path / "home/x")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write_lines", full)
    (tmp_path / "g.fa").write_bytes(layout(end="\r\n"))
    with pytest.raises(OSError, match="No space left"):
        open_genome(tmp_path / "g.fa", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


CONTIGS = {f"c{i}": "".join(random.Random(i).choices("ACGTacgtN", k=20_000 + i)) for i in range(5)}


def fetch_many(genome, seed, count=400):
    """Random windows compared with the sequences; returns the number that differ."""
    rng = random.Random(seed)
    wrong = 0
    for _ in range(count):
        name = rng.choice(list(CONTIGS))
        start = rng.randrange(len(CONTIGS[name]) - 500)
        wrong += genome.fetch(name, start, start + 500).decode() != CONTIGS[name][start : start + 500]
    return wrong


@pytest.fixture
def shared_genome(tmp_path):
    (tmp_path / "g.fa").write_bytes(layout(width=60, contigs=CONTIGS))
    genome = open_genome(tmp_path / "g.fa", tmp_path / "cache")
    assert fetch_many(genome, 0) == 0  # the handle is open before any worker starts
    return genome


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_a_genome(shared_genome, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not available here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads (Python 3.12)
        with multiprocessing.get_context(method).Pool(3) as pool:
            pending = pool.starmap_async(fetch_many, [(shared_genome, seed) for seed in range(12)], chunksize=1)
            assert fetch_many(shared_genome, 99) == 0
            assert pending.get(timeout=60) == [0] * 12


INHERITED = []


def _inherit(seed):
    return fetch_many(INHERITED[0], seed, 4000)


def test_forked_workers_inherit_an_open_genome(shared_genome, monkeypatch):
    """Not pickled but inherited, as a DataLoader's dataset is; fails within moments if the handle is shared."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("fork is not available here")
    monkeypatch.setattr(sys.modules[__name__], "INHERITED", [shared_genome])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(_inherit, range(3), chunksize=1) == [0] * 3


def test_threads_share_a_genome(shared_genome):
    wrong = []
    threads = [
        threading.Thread(target=lambda seed=seed: wrong.append(fetch_many(shared_genome, seed))) for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 8


def open_and_fetch(path, folder):
    return open_genome(path, folder).fetch("c1", 100, 900).decode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_processes_open_one_file_at_once(tmp_path, end):
    (tmp_path / "g.fa").write_bytes(layout(width=60, end=end, contigs=CONTIGS))
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        got = pool.starmap(open_and_fetch, [(tmp_path / "g.fa", tmp_path / "cache")] * 12, chunksize=1)
    assert got == [CONTIGS["c1"][100:900]] * 12
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize("name", ["ecoli.fa.gz", "lambda.fa", "human_mt.fa", "sacCer3.fa.gz"])
def test_real_genomes(tmp_path, name):
    if not (DATA / name).exists():
        pytest.skip("shared/data/genomes is not beside the repository")
    shutil.copy(DATA / name, tmp_path)
    genome = open_genome(tmp_path / name, tmp_path / "cache")
    opened = gzip.open if name.endswith(".gz") else open
    with opened(DATA / name, "rt") as text:
        expected = {record.id: bytes(record.seq) for record in SeqIO.parse(text, "fasta")}
    assert genome.contigs == {name: len(bases) for name, bases in expected.items()}
    rng = random.Random(0)
    for contig, bases in expected.items():
        assert genome.fetch(contig, 0, len(bases)) == bases
        for _ in range(50):
            start = rng.randrange(len(bases))
            end = min(start + rng.randrange(3000), len(bases))
            assert genome.fetch(contig, start, end) == bases[start:end]


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_one_entry_however_often_it_changes(tmp_path):
    path, other = tmp_path / "g.fa.gz", tmp_path / "other.fa.gz"
    other.write_bytes(gzip.compress(b">o\nACGT\n"))
    open_genome(other, tmp_path / "cache")
    for i in range(3):
        path.write_bytes(gzip.compress(layout(), mtime=i))
        os.utime(path, (1000 + i, 1000 + i))
        open_genome(path, tmp_path / "cache")
        assert len(entries(tmp_path / "cache")) == 6  # copy, index and record of two files


def test_what_nobody_opened_for_long_goes(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.fa").write_text(f">{name}\r\nACGT\r\n")
        open_genome(tmp_path / f"{name}.fa", tmp_path / "cache")
    for record in (tmp_path / "cache").glob("[ab].fa.*.json"):
        os.utime(record, (1, 1))
    open_genome(tmp_path / "b.fa", tmp_path / "cache")
    (tmp_path / "d.fa").write_text(">d\nA\n")
    open_genome(tmp_path / "d.fa", tmp_path / "cache")
    assert {name[0] for name in entries(tmp_path / "cache")} == {"b", "c", "d"}


def test_a_copy_that_was_altered_in_place_is_not_used(tmp_path):
    (tmp_path / "g.fa").write_bytes(layout().replace(b"\n", b"\r\n"))
    wanted = open_genome(tmp_path / "g.fa", tmp_path / "cache").fetch("chr1", 0, 9)
    (copy,) = (tmp_path / "cache").glob("*.fa")
    with open(copy, "r+b") as file:
        file.seek(7)
        file.write(b"TTT")
    assert open_genome(tmp_path / "g.fa", tmp_path / "cache").fetch("chr1", 0, 9) == wanted


def test_where_the_cache_is(tmp_path, monkeypatch):
    (tmp_path / "g.fa").write_bytes(layout())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    open_genome(tmp_path / "g.fa")
    assert entries(tmp_path / "xdg") == ["titans_dna"]
    monkeypatch.setenv("TITANS_DNA_CACHE", str(tmp_path / "named"))
    open_genome(tmp_path / "g.fa")
    assert len(entries(tmp_path / "named")) == 2
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("how", ["a link", "open to all"])
def test_a_temporary_directory_of_others_is_not_trusted(tmp_path, monkeypatch, how):
    (tmp_path / "home").touch()  # no home to write in
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "g.fa").write_bytes(layout())
    planted = tmp_path / f"titans_dna-{os.getuid()}"
    if how == "a link":
        (tmp_path / "elsewhere").mkdir()
        planted.symlink_to(tmp_path / "elsewhere")
    else:
        planted.mkdir()
        planted.chmod(0o777)
    with pytest.raises(OSError, match="cache_dir: cannot write in"):
        open_genome(tmp_path / "g.fa")
    assert not entries(planted)
