"""The house: who imports whom, what importing costs, and what the wheel holds."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

ROOMS = (
    "config",
    "run",
    "tokens",
    "genome",
    "nn",
    "hub",
    "checkpoint",
    "labels",
    "reading",
    "metrics",
    "baselines",
    "train",
    "tasks",
    "context",
    "planning",
    "huggingface",
    "verbs cli",
)
"""From the ground up; a module imports from its own floor and from those below it."""


def modules():
    """Every module of both packages, by its name."""
    found = {}
    for base in ("titans_dna", "kernels/titans_kernels"):
        for path in (ROOT / base).rglob("*.py"):
            parts = path.relative_to((ROOT / base).parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name):
    """Modules that one names in an import, wherever it stands in its file."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (full if (full := f"{node.module}.{one.name}") in MODULES else node.module for one in node.names)
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names)


def floor(module):
    room = module.split(".")[1]
    return next(number for number, rooms in enumerate(ROOMS) if room in rooms.split())


def test_no_arrow_points_up():
    for name in MODULES:
        if name.startswith("titans_dna."):
            ours = (one for one in imports(name) if one.startswith("titans_dna."))
            assert [one for one in ours if floor(one) > floor(name)] == [], name


def test_no_import_circle():
    """A module is done once all that it imports is; what is left when nothing more gets done is a circle."""
    faces = ("titans_dna", "titans_kernels")  # the packages' own lists of names
    waiting = {name: {one for one in imports(name) if one in MODULES and one not in (name, *faces)} for name in MODULES}
    while ready := [name for name, needed in waiting.items() if not needed & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert sorted(waiting) == []


def test_the_house_is_small():
    lines = {
        name: len(path.read_text().splitlines()) for name, path in MODULES.items() if name.startswith("titans_dna")
    }
    assert max(lines.values()) <= 400
    assert len(lines) <= 100


def test_kernels_depend_on_torch_alone():
    for name in (one for one in MODULES if one.startswith("titans_kernels")):
        allowed = ("torch", "titans_kernels", "triton")[: 3 if ".triton." in name else 2]
        for found in imports(name):
            top = found.split(".")[0]
            assert top in allowed or top in sys.stdlib_module_names, f"{name} imports {found}"
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
        "assert all(titans_dna.load(name).tokenizer for name in ('human-small', 'multi-small'));"
        "print(titans_dna.__file__, TitansConfig.preset('xl').width)"
    )
    where, width = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.split()  # fmt: skip
    assert where.startswith(str(target))
    assert width == "1024"
