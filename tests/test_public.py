"""What the package says of itself: every public name once, and each there when it is asked for."""

import ast
import inspect
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import titans_dna

NAMES = {
    "FineTuned", "TitansConfig", "TitansDNA", "embed", "evaluate", "load", "load_finetuned", "load_state", "predict", "push",
    "remember", "save", "save_state",
}  # fmt: skip


def test_the_names_stand_once():
    assert set(titans_dna.__all__) == NAMES
    assert len(titans_dna.__all__) == len(NAMES)
    assert set(dir(titans_dna)) >= NAMES | {"__version__"}
    tree = ast.parse(Path(titans_dna.__file__).read_text())
    text = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not NAMES.intersection(text)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_is_there_and_documented(name):
    found = getattr(titans_dna, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    if inspect.isfunction(found):
        hints = {one: part.annotation for one, part in inspect.signature(found).parameters.items()}
        assert inspect.Parameter.empty not in [*hints.values(), inspect.signature(found).return_annotation]


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'titans_dna' has no attribute 'nothing'"):
        titans_dna.nothing  # noqa: B018


def test_the_package_alone_brings_no_torch():
    code = "import sys, titans_dna, titans_dna.config; print([one for one in ('torch', 'numpy') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_source_distribution_is_the_whole_repository(tmp_path):
    """What git holds, and so the tests with their conftest."""
    root = Path(__file__).parents[1]
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    files = [name for name in listed.stdout.splitlines() if (root / name).exists()]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, tmp_path / name, follow_symlinks=False)
    build = "from setuptools import build_meta; build_meta.build_sdist('out')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (archive,) = (tmp_path / "out").glob("*.tar.gz")
    with tarfile.open(archive) as inside:
        there = {name.partition("/")[2] for name in inside.getnames()}
    assert [name for name in files if name not in there and not (root / name).is_symlink()] == []
