"""The same features from every format, at the right bases; bad files give one clear line."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import CompoundLocation, SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord

from titans_dna.genome.genome import open_genome
from titans_dna.genome.intervals import Interval
from titans_dna.labels.annotation import ContigNames, Met, read_annotation
from titans_dna.labels.windows import BaseLabels
from titans_dna.tokens.strands import reverse_complement

GENOMES = Path(__file__).parents[2] / "../shared/data/genomes"
BASES = "".join(np.random.default_rng(1).choice(list("ACGT"), 120))

GFF3 = """##gff-version 3
#a comment
chrA.1\tsrc\tregion\t1\t120\t.\t+\t.\tID=r
chrA.1\tsrc\tCDS\t1\t9\t.\t+\t0\tID=c1;kind=first%2Cone

chrA.1\tsrc\tCDS\t21\t30\t.\t-\t0\tID=c2;kind=b
chrA.1\tsrc\tCDS\t41\t50\t.\t-\t0\tID=c2;kind=b
chrA.1\tsrc\ttRNA\t111\t120\t.\t+\t.\tID=t1
##FASTA
>chrA.1
chrA.1\tsrc\tCDS\t60\t70\t.\t+\t0\tID=no
"""
GTF = """#!genome-build x
chrA.1\tsrc\tCDS\t1\t9\t.\t+\t0\tgene_id "g;1"; kind "first,one";
chrA.1\tsrc\tCDS\t21\t30\t.\t-\t0\tgene_id "g2"; kind "b";
chrA.1\tsrc\tCDS\t41\t50\t.\t-\t0\tgene_id "g2"; kind "b";
chrA.1\tsrc\ttRNA\t111\t120\t.\t+\t.\tgene_id "g3"; number 2;
"""
BED = """track name=x
chrA.1\t0\t9\tCDS\t0\t+
chrA.1\t20\t30\tCDS\t0\t-
chrA.1\t40\t50\tCDS\t0\t-
chrA.1\t110\t120\ttRNA\t0\t+
"""
WANTED = [("CDS", "+", 0, 9), ("CDS", "-", 20, 30), ("CDS", "-", 40, 50), ("tRNA", "+", 110, 120)]


def record():
    joined = CompoundLocation([SimpleLocation(40, 50, -1), SimpleLocation(20, 30, -1)])
    features = [
        SeqFeature(SimpleLocation(0, 9, 1), type="CDS", qualifiers={"kind": ["first,one"]}),
        SeqFeature(joined, type="CDS", qualifiers={"kind": ["b"]}),
        SeqFeature(SimpleLocation(110, 120, 1), type="tRNA"),
    ]
    annotations = {"molecule_type": "DNA"}
    return SeqRecord(Seq(BASES), id="chrA.1", name="chrA", features=features, annotations=annotations)


@pytest.fixture
def genome(tmp_path):
    (tmp_path / "genome.fa").write_text(f">chrA.1 of a test\n{BASES}\n>other\nACGT\n")
    return open_genome(tmp_path / "genome.fa", tmp_path / "cache")


def written(folder, kind):
    path = folder / f"features.{kind}"
    if kind in ("gb", "embl"):
        SeqIO.write([record()], path, {"gb": "genbank"}.get(kind, kind))
        return path
    text = {"gff3": GFF3, "gtf": GTF, "bed": BED, "crlf": GFF3.replace("\n", "\r\n")}.get(kind.removesuffix(".gz"))
    data = text.encode()
    path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("kind", ["gff3", "gff3.gz", "crlf", "gtf", "gtf.gz", "bed", "bed.gz", "gb", "embl"])
def test_formats_agree(tmp_path, genome, kind):
    path = written(tmp_path, kind)
    found = read_annotation(path, genome, features=("CDS", "tRNA"))
    assert sorted((one.name, one.strand, one.interval.start, one.interval.end) for one in found) == WANTED
    assert {one.interval.contig for one in found} == {"chrA.1"}
    only = read_annotation(path, genome, features=("tRNA",))
    assert [one.interval for one in only] == [Interval("chrA.1", 110, 120)]
    if "bed" not in kind:
        assert read_annotation(path, genome) == [one for one in found if one.name == "CDS"]
        named = read_annotation(path, genome, features=("CDS", "tRNA"), class_by="kind")
        assert Counter(one.name for one in named) == {"first,one": 1, "b": 2, "tRNA": 1}


def test_suffix_does_not_matter(tmp_path, genome):
    (tmp_path / "a.txt").write_text(GFF3)
    (tmp_path / "b.gff3").write_text(BED)
    assert len(read_annotation(tmp_path / "a.txt", genome)) == 3
    assert len(read_annotation(tmp_path / "b.gff3", genome)) == 4


def test_bed_classes(tmp_path, genome):
    (tmp_path / "three.bed").write_text("chrA.1\t3\t7\nother\t0\t2\n")
    found = read_annotation(tmp_path / "three.bed", genome)
    assert [(one.name, one.strand) for one in found] == [("feature", ".")] * 2
    named = read_annotation(written(tmp_path, "bed"), genome, class_by="type")
    assert {one.name for one in named} == {"feature"}


def test_same_bases_as_biopython(tmp_path, genome):
    source = record()
    for feature in source.features:
        wanted = str(feature.extract(source.seq))
        source_only = SeqRecord(source.seq, id=source.id, features=[feature], annotations=source.annotations)
        SeqIO.write([source_only], tmp_path / "one.gb", "genbank")
        found = read_annotation(tmp_path / "one.gb", genome, features=(feature.type,))
        parts = [genome.fetch(one.interval.contig, one.interval.start, one.interval.end) for one in found]
        # Biopython lists the parts of a reverse location in the order in which they are read.
        read = b"".join(reverse_complement(p) if one.strand == "-" else p for p, one in zip(parts, found, strict=True))
        assert read.decode() == wanted


def test_circle(tmp_path, genome):
    line = "chrA.1\t.\tCDS\t115\t126\t.\t+\t0\tID=c"
    (tmp_path / "c.gff3").write_text(f"chrA.1\t.\tregion\t1\t120\t.\t+\t.\tID=r;Is_circular=true\n{line}\n")
    found = [one.interval for one in read_annotation(tmp_path / "c.gff3", genome)]
    assert found == [Interval("chrA.1", 114, 120), Interval("chrA.1", 0, 6)]
    (tmp_path / "l.gff3").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"l\.gff3: line 1: got bases 115 to 126 of chrA\.1, want 1 <= .* <= 120"):
        read_annotation(tmp_path / "l.gff3", genome)


@pytest.mark.parametrize(
    ("contigs", "name", "wanted"),
    [
        (["U00096.3"], "U00096.3", "U00096.3"),
        (["U00096.3"], "U00096", "U00096.3"),
        (["U00096"], "U00096.3", "U00096"),
        (["U00096.3"], "U00096.2", None),
        (["a.1", "a.2"], "a", None),
        (["a.1", "a"], "a", "a"),
        (["gi|9626243|ref|NC_001416.1|"], "NC_001416.1", "gi|9626243|ref|NC_001416.1|"),
        (["gi|9626243|ref|NC_001416.1|"], "NC_001416", "gi|9626243|ref|NC_001416.1|"),
        (["gi|1|ref|NC_1.1|"], "gi|2|ref|NC_2.1|", None),
        (["gi|1|ref|NC_1.1|"], "ref", None),
        (["NC_001416.1"], "gi|9626243|ref|NC_001416.1|", "NC_001416.1"),
        (["chr1", "chr10"], "1", "chr1"),
        (["1", "2"], "chr2", "2"),
        (["chr1", "1"], "chr1", "chr1"),
        (["chr"], "x", None),
        (["chrM", "chr1"], "MT", "chrM"),
        (["MT"], "chrM", "MT"),
        (["M"], "chrMT", "M"),
    ],
)
def test_contig_names(tmp_path, contigs, name, wanted):
    (tmp_path / "g.fa").write_text("".join(f">{one}\nACGT\n" for one in contigs))
    names = ContigNames(open_genome(tmp_path / "g.fa", tmp_path / "cache"))
    if name != "a" or wanted is not None:
        assert names.find(name) == wanted
    else:
        with pytest.raises(ValueError, match=r"contig 'a' may be any of 'a\.1', 'a\.2'"):
            names.find(name)
    assert repr(name) in names.missing(name)
    assert contigs[0] in names.missing(name)


LINE = "chrA.1\tsrc\tCDS\t{}\t{}\t.\t+\t0\tID=x\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.gff3", "", {}, "empty file"),
        ("a.gff3", "\n  \n", {}, "empty file"),
        ("a.gff3", "##gff-version 3\n", {}, "no features"),
        ("a.gff3", GFF3, {"features": ("mRNA",)}, r"no mRNA; it has CDS \(3\), region \(1\), tRNA \(1\)"),
        ("a.gff3", GFF3, {"features": ()}, "want a list"),
        ("a.gff3", GFF3, {"features": "CDS"}, "want a list"),
        ("a.gff3", GFF3, {"class_by": "colour"}, r"attribute 'colour', want one of ID \(3\), kind \(3\)"),
        ("a.gff3", LINE.format(0, 5), {}, "line 1: got bases 0 to 5"),
        ("a.gff3", LINE.format(9, 5), {}, "line 1: got bases 9 to 5"),
        (
            "a.gff3",
            LINE.format(1, 5) + LINE.format(100, 121),
            {},
            "line 2: got bases 100 to 121 of chrA.1, want .* 120",
        ),
        ("a.gff3", LINE.format(1, 5) + LINE.format(1, "x"), {}, "line 2: got start '1' and end 'x', want integers"),
        ("a.gff3", LINE.format(1, 5) + "chrA.1\tCDS\n", {}, r"line 2: got 2 column\(s\)"),
        (
            "a.gff3",
            LINE.format(1, 5).replace("chrA.1", "chrZ"),
            {},
            "line 1: contig 'chrZ' is not in .*'chrA.1', 'other'",
        ),
        ("a.bed", "chrZ\t0\t5\n", {}, "line 1: contig 'chrZ' is not in .*'chrA.1', 'other'"),
        ("a.bed", "chrA.1\t0\t121\n", {}, "line 1: interval chrA.1:0-121"),
        ("a.bed", BED, {"features": ("mRNA",)}, r"no mRNA; it has CDS \(3\), tRNA \(1\)"),
        ("a.bed", BED, {"class_by": "kind"}, "BED, which has no attributes"),
        ("a.txt", ">chrA.1\nACGT\n", {}, "starts with '>chrA.1', want BED"),
        ("a.gb", "LOCUS       broken\nFEATURES\n", {}, "genbank"),
    ],
)
def test_bad_files(tmp_path, genome, name, content, options, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotation(tmp_path / name, genome, **options)
    assert "\n" not in str(caught.value)


def test_bad_paths(tmp_path, genome):
    (tmp_path / "cut.gff3.gz").write_bytes(gzip.compress(LINE.format(1, 5).encode() * 200)[:-9])
    with pytest.raises(ValueError, match=r"cut\.gff3\.gz: damaged or truncated gzip"):
        read_annotation(tmp_path / "cut.gff3.gz", genome)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_annotation(tmp_path / "absent.gff3", genome)
    with pytest.raises(IsADirectoryError, match="is a directory"):
        read_annotation(tmp_path, genome)


def test_e_coli_starts_and_stops(tmp_path):
    if not (GENOMES / "ecoli.gff3.gz").exists():
        pytest.skip("shared/data/genomes is not beside the repository")
    genome = open_genome(GENOMES / "ecoli.fa.gz", tmp_path)
    features = read_annotation(GENOMES / "ecoli.gff3.gz", genome)
    assert Counter(one.strand for one in features) == {"-": 2235, "+": 2144}  # counted with cut and uniq
    labels = BaseLabels(features, stranded=True)
    starts, stops, painted = 0, 0, 0
    for interval, strand, _ in features:
        bases = genome.fetch(interval.contig, interval.start, interval.end)
        bases = reverse_complement(bases) if strand == "-" else bases
        starts += bases[:3] in (b"ATG", b"GTG", b"TTG")
        stops += bases[-3:] in (b"TAA", b"TAG", b"TGA")
        codon = (interval.start, interval.start + 3) if strand == "+" else (interval.end - 3, interval.end)
        wanted = labels.classes.index(f"CDS{strand}")
        painted += labels.track(interval.contig, *codon).tolist() == [wanted] * 3
    # 134 of the 4,379 are of pseudogenes.
    assert starts > 0.97 * len(features)
    assert stops > 0.97 * len(features)
    assert painted > 0.97 * len(features)  # the others overlap one of the other strand


def test_yeast_gtf(tmp_path):
    if not (GENOMES / "sacCer3.ensGene.gtf.gz").exists():
        pytest.skip("shared/data/genomes is not beside the repository")
    genome = open_genome(GENOMES / "sacCer3.fa.gz", tmp_path)
    features = read_annotation(GENOMES / "sacCer3.ensGene.gtf.gz", genome, features=("start_codon",))
    codons = Counter(
        genome.fetch(f.interval.contig, f.interval.start, f.interval.end) for f in features if f.strand == "+"
    )
    assert codons[b"ATG"] > 0.98 * codons.total()


GENES = "".join(f"{{contig}}\tsrc\tCDS\t{1 + 10 * i}\t{9 + 10 * i}\t.\t+\t0\tID=g{i}\n" for i in range(5))


def genome_of(tmp_path, **contigs):
    (tmp_path / "g.fa").write_text("".join(f">{name}\n{'ACGT' * 30}\n" for name in contigs or {"c": 0}))
    return open_genome(tmp_path / "g.fa", tmp_path / "cache")


@pytest.mark.parametrize(
    ("line", "all_of_them"),
    [
        ("##FASTAQQLVR", True),
        ("# ##FASTA", True),
        ("##FASTA-like", True),
        ("##FASTA", False),
        ("##FASTA  ", False),
        (">c", False),
    ],
)
def test_only_the_directive_ends_an_annotation(tmp_path, line, all_of_them):
    (tmp_path / "a.gff3").write_text(GENES.format(contig="c") + line + "\n" + GENES.format(contig="c"))
    assert len(read_annotation(tmp_path / "a.gff3", genome_of(tmp_path))) == (10 if all_of_them else 5)


def test_features_of_other_contigs_are_left_out_and_counted(tmp_path):
    text = GENES.format(contig="chrM") + GENES.format(contig="2") + GENES.format(contig="c")
    genome, met = genome_of(tmp_path, c=1, MT=2), Met(Counter(), {})
    (tmp_path / "a.gff3").write_text(text)
    found = read_annotation(tmp_path / "a.gff3", genome, met=met)
    assert (Counter(one.interval.contig for one in found), met) == ({"MT": 5, "c": 5}, ({"2": 5}, {"chrM": "MT"}))
    (tmp_path / "a.bed").write_text("2\t1\t3\tx\nc\t1\t3\ty\n")
    met.absent.clear()
    assert len(read_annotation(tmp_path / "a.bed", genome, met=met)) == 1
    assert met.absent == {"2": 1}
    (tmp_path / "b.gff3").write_text("#\n" + GENES.format(contig="2"))
    with pytest.raises(
        ValueError, match=r"b\.gff3: line 2: contig '2' is not in .*g\.fa.* nor is that of any other CDS"
    ):
        read_annotation(tmp_path / "b.gff3", genome)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ('kind="rich"', "rich"),
        ("kind='rich'", "rich"),
        ("kind=rich%3B", "rich;"),
        ('kind "rich"; kind "rich";', "rich"),
        ("ID=x", "CDS"),
        ('kind "rich"; kind "poor";', None),
        ("kind=rich;kind=poor", None),
    ],
)
def test_an_attribute_is_one_value(tmp_path, attributes, wanted):
    line = "c\tsrc\tCDS\t{}\t{}\t.\t+\t0\t{}\n"
    (tmp_path / "a.gff").write_text(line.format(1, 3, "kind=plain") + line.format(4, 6, attributes))
    if wanted is None:
        with pytest.raises(ValueError, match=r"a\.gff: line 2: attribute 'kind' has 2 values \(rich, poor\), want one"):
            read_annotation(tmp_path / "a.gff", genome_of(tmp_path), class_by="kind")
        return
    found = read_annotation(tmp_path / "a.gff", genome_of(tmp_path), class_by="kind")
    assert [one.name for one in found] == ["plain", wanted]


def test_what_is_not_wanted_may_be_anything(tmp_path):
    odd = [
        "c\tsrc\tgene\tx\ty\t.\t+\t0\tID=1",
        "c\tsrc\tgene\t9\t99999\t.\tz\t0\tID=1",
        "q\tsrc\tgene\t1\t2\t.\t+\t.\t.",
    ]
    (tmp_path / "a.gff").write_text("\n".join([*odd, GENES.format(contig="c")]))
    assert len(read_annotation(tmp_path / "a.gff", genome_of(tmp_path))) == 5
    with pytest.raises(ValueError, match=r"a\.gff: line 1: got start 'x' and end 'y'"):
        read_annotation(tmp_path / "a.gff", genome_of(tmp_path), features=["gene"])


@pytest.mark.parametrize(
    "odd", ["(3.5)..8", "join(1..", "-2..3", "x", "", "3..9\n                     /a=\n                     b"]
)
def test_what_is_not_wanted_may_be_anything_in_a_flat_file(tmp_path, odd):
    (tmp_path / "a.gb").write_text(
        "LOCUS       c  20 bp    DNA     linear   SYN 17-MAY-2019\nACCESSION   c\n  AUTHORS   Doe,J.\n"
        "FEATURES             Location/Qualifiers\n     CDS             3..11\n                     /gene=\"a\"\n"
        f"     misc_feature    {odd}\n     CDS             complement(join(12..14,16..17))\n"
        "ORIGIN\n        1 acgtacgtac gtacgtacgt\n//\n"
    )  # fmt: skip
    found = read_annotation(tmp_path / "a.gb", genome_of(tmp_path))
    places = sorted((one.interval.start, one.interval.end, one.strand) for one in found)
    assert places == [(2, 11, "+"), (11, 14, "-"), (15, 17, "-")]
