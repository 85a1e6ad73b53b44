"""The compiled core: never older than its sources, never half there, and never missed where it can't be built."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def compiled() -> list[str]:
    """What setup.py lists, read without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            return list(ast.literal_eval(node.value))
    raise AssertionError("setup.py has no list COMPILED")


CORE = [(ROOT / entry).with_suffix("") for entry in compiled()]
"""The modules of the compiled core, without their suffix."""

NAMES = [".".join(path.relative_to(ROOT).parts) for path in CORE]
WHERE = f"import importlib\nfor name in {NAMES}: print(importlib.import_module(name).__file__)"

ASK_WHERE = [sys.executable, "-c", WHERE]
BUILD = ["setup.py", "--quiet", "build_ext", "--inplace"]


def sources(stem: Path) -> list[Path]:
    return [path for path in (stem.with_suffix(suffix) for suffix in (".py", ".pyx", ".pxd")) if path.exists()]


def extensions(stem: Path) -> list[Path]:
    """The files that Python would import for this module instead of its source."""
    return [path for path in (stem.with_name(stem.name + suffix) for suffix in EXTENSION_SUFFIXES) if path.exists()]


def run(command: list[str], where: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name != "PUERTA_PURE"}
    return subprocess.run(
        command, cwd=where, env={**kept, **environ}, capture_output=True, text=True, timeout=110, check=False
    )


def imported(where: Path, **environ: str) -> list[Path]:
    """The files from which the core's modules are imported, in a process of its own."""
    answer = run(ASK_WHERE, where, **environ)
    assert answer.returncode == 0, answer.stderr
    return [Path(line) for line in answer.stdout.splitlines()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a build needs, with nothing built yet."""
    shutil.copytree(ROOT / "puerta", tmp_path / "puerta", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_what_declares_types_is_compiled() -> None:
    declared = {path.with_suffix("") for path in (ROOT / "puerta").rglob("*.pxd")}
    assert declared <= set(CORE)


def test_the_build_is_not_stale() -> None:
    """An extension wins over the source beside it, so an old one would run instead of what you read."""
    built = [file for stem in CORE for file in extensions(stem)]
    strays = set((ROOT / "puerta").rglob("*.so")) - set(built)
    assert not strays, f"of modules that are not compiled any more: rm {' '.join(map(str, strays))}"
    if not built:
        pytest.skip("the core is not compiled here")
    assert all(extensions(stem) for stem in CORE), "the core is half built: make build"
    oldest = min(file.stat().st_mtime for file in built)
    newer = [path.name for stem in CORE for path in sources(stem) if path.stat().st_mtime > oldest]
    assert not newer, f"changed since the core was compiled: {', '.join(newer)}; make build"


def test_what_is_compiled_is_imported_compiled() -> None:
    if not any(extensions(stem) for stem in CORE):
        pytest.skip("the core is not compiled here")
    assert imported(ROOT) == [extensions(stem)[0] for stem in CORE]


def test_pure_means_the_sources() -> None:
    assert imported(ROOT, PUERTA_PURE="1") == [stem.with_suffix(".py") for stem in CORE]


def test_without_a_compiler_the_sources_run(tree: Path) -> None:
    old = tree / "puerta" / "reactor" / f"relay{EXTENSION_SUFFIXES[0]}"
    old.write_bytes(b"of an earlier build")
    answer = run([sys.executable, *BUILD], tree, CC="false")
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("the compiled core was not built") == 1
    assert "running from the Python sources" in answer.stderr
    assert not list((tree / "puerta").rglob("*.so"))
    assert imported(tree) == [tree / stem.relative_to(ROOT).with_suffix(".py") for stem in CORE]


def test_without_cython_the_sources_run(tree: Path) -> None:
    code = "import runpy, sys; sys.modules['Cython.Build'] = None; runpy.run_path('setup.py', run_name='__main__')"
    answer = run([sys.executable, "-c", code, *BUILD[1:]], tree)
    assert answer.returncode == 0, answer.stderr
    assert "running from the Python sources" in answer.stderr
    assert imported(tree) == [tree / stem.relative_to(ROOT).with_suffix(".py") for stem in CORE]
