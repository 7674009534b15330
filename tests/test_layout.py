"""The house: who imports whom, what importing costs, and what the wheel holds."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Each module imports only from those before it; `config` and `titans_kernels` are for all.
ORDER = [
    ["config"],
    ["packing", "layers", "attention", "memory", "blocks", "model", "transformer"],
    ["data.vocabulary", "data.nucleotide", "data.kmer", "data.bpe", "data.tokenizer"],
    ["data.records", "data.cache", "data.fasta", "data.regions", "data.intervals"],
    ["data.stretches", "data.sampler", "data.dataset", "data.loader", "data.datamodule"],
    ["markov"],
    ["heads"],
    ["device", "fingerprint", "hub", "checkpoint", "packed_state", "state_file"],
    ["training"],
    ["embedding"],
    ["labelled"],
    ["finetuning"],
    ["huggingface"],
    ["remembering"],
    ["bench"],
    ["planning"],
    ["flags", "parsers", "cli"],
]
# The doors back: methods that import what they call when they are called.
LAZY = {("model", "titans_dna.reading.embed"), ("model", "titans_dna.checkpoint")}
COLUMNS = {1: {0, 1}, 2: {2}, 3: {2, 3}, 4: {2, 3, 4}, 5: {2, 5}, 6: {0, 1, 2, 3, 6}}


def place(module):
    for i, group in enumerate(ORDER):
        for j, name in enumerate(group):
            if module == name or module.startswith(name + "."):
                return i, j
    raise AssertionError(f"{module}: not in the import order of this test")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module == "titans_dna":
                yield from (f"titans_dna.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_import_order():
    for path in (ROOT / "titans_dna").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "titans_dna").with_suffix("").parts).removesuffix(".__init__")
        if ("." not in module and (ROOT / "titans_dna" / module).is_dir()) or module == "__init__":
            continue
        group, rank = place(module)
        for found in imports(path):
            if not found.startswith("titans_dna.") or found in ("titans_dna.data", "titans_dna.training"):
                continue
            if (module, found) in LAZY:
                continue
            other, before = place(found.removeprefix("titans_dna."))
            allowed = COLUMNS.get(group, set(range(group + 1)))
            assert other in allowed, f"{module} imports {found}"
            assert other != group or group >= 7 or before < rank, f"{module} imports {found}"


def test_kernels_depend_on_torch_alone():
    for path in (ROOT / "kernels" / "titans_kernels").rglob("*.py"):
        for found in imports(path):
            top = found.split(".")[0]
            allowed = (
                ("torch", "titans_kernels", "triton") if path.parent.name == "triton" else ("torch", "titans_kernels")
            )
            assert top in allowed or top in sys.stdlib_module_names, f"{path.name} imports {found}"
    assert not (ROOT / "kernels" / "__init__.py").exists()


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_quick_and_light():
    """What the package adds to torch's own import; and nothing heavy comes along unasked."""
    code = (
        "import torch, time, sys; start = time.process_time(); import titans_dna; titans_dna.TitansDNA; titans_dna.load;"
        "print(time.process_time() - start, 'triton' in sys.modules, 'lightning' in sys.modules)"
    )
    seconds, triton, lightning = run(code).split()
    assert float(seconds) < 2
    assert (triton, lightning) == ("False", "False")


def test_imports_without_triton():
    run("import sys; sys.modules['triton'] = None; import titans_dna, titans_kernels; titans_dna.TitansDNA")


def test_wheel_holds_two_packages_and_their_data(tmp_path):
    source = tmp_path / "source"  # a build leaves its own folders behind
    for name in ("titans_dna", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--disable-pip-version-check",
         "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    tops = {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"titans_dna", "titans_kernels"}
    assert all((target / name / "py.typed").is_file() for name in tops)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import titans_dna, titans_kernels;"
        "from titans_dna.config import TitansConfig; from importlib import resources;"
        "assert (resources.files('titans_dna') / 'genomes' / 'lambda.fa').is_file();"
        "print(titans_dna.__file__, TitansConfig.preset('xl').width)"
    )
    where, width = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.split()  # fmt: skip
    assert where.startswith(str(target))
    assert width == "1024"
