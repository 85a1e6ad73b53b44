"""Who may import whom, read from the sources. The layers are those of ARCHITECTURE.md; a new arrow is a decision."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "puerta"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NATIVE = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])

LONGEST = 300
"""Lines of a module. What grows beyond it has more than one subject."""

LONGER = {
    "config/schema.py": 350,  # a table of options, not code
    "reactor/native.pyx": 450,  # one system call after the other
    "reactor/native.py": 340,  # its twin
    # State machines whose steps are read together:
    "proxy/session.py": 420,
    "proxy/redis_session.py": 450,
    "proxy/redis_cluster.py": 340,
    "proxy/redis_upstream.py": 450,
}
"""The modules that are allowed more, and how much: the list may get shorter."""


BASE = frozenset({"errors", "blob", "board", "config", "log", "resolve", "role"})
"""What everybody above the protocols may use."""

ALLOWED: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "log": frozenset(),
    "pure": frozenset(),
    "resolve": frozenset(),
    "blob": frozenset({"errors"}),
    "board": frozenset({"errors", "blob"}),
    "config": frozenset({"errors"}),
    "role": frozenset({"board", "config"}),
    "protocol": frozenset({"errors"}),
    "reactor": BASE | {"protocol"},
    "proxy": BASE | {"protocol", "reactor"},
    "worker": BASE | {"protocol", "reactor", "proxy"},
    "health": BASE | {"protocol"},
    "admin": BASE | {"protocol", "health"},  # a check's words and a command's name, for which the board has no room
    "supervisor": BASE | {"health", "admin"},
    "process": BASE,
    "cli": BASE | {"process"},
    "__main__": frozenset({"cli"}),
}
"""Layer → the layers it may import; its own is always allowed. The package itself (its version) is open to all."""

HEAVY = ("gevent", "greenlet", "redis", "pymongo", "bson", "ssl", "waitress", "prometheus_client", "cython")
"""What the master must never load: it has to outlive every mistake of its children."""

HEAVY_LAYERS = ("protocol", "reactor", "proxy", "health", "admin", "worker", "supervisor")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def layer(module: str) -> str:
    """`puerta.proxy.route` is of the layer `proxy`; the package itself is of the layer ""."""
    return module.partition(".")[2].partition(".")[0]


def python_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every import, wherever it stands; names of modules, not of what is in them."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import (write the whole name)"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else str(node.module)


def native_imports(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.match(r"\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w.]+))", line)
        if found:
            yield number, found[1] or found[2]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    return python_imports(path) if path.suffix == ".py" else native_imports(path)


def ours(path: Path) -> Iterator[tuple[int, str]]:
    return ((line, name) for line, name in imports(path) if name.split(".")[0] == "puerta")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE], ids=shown)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    own = layer(module_name(path))
    if not own:
        allowed = frozenset({"pure"})
    else:
        assert own in ALLOWED, f"{own} is a new layer: give it its place in ALLOWED"
        allowed = ALLOWED[own] | {own, ""}
    wrong = [f"{shown(path)}:{line}: {own} imports {name}" for line, name in ours(path) if layer(name) not in allowed]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_no_import_hides_in_a_function(path: Path) -> None:
    hidden = [
        f"{shown(path)}:{inner.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert not hidden


def test_no_circle() -> None:
    arrows = {module_name(path): {name for _, name in ours(path)} - {module_name(path)} for path in SOURCES}
    del arrows["puerta"]  # everybody may ask the package for its version, and it asks nobody back
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in arrows.get(module, ()):
                visit(name, (*path, module))
            done.add(module)

    for module in arrows:
        visit(module, ())


def test_the_layers_have_no_circle_either() -> None:
    ranks = {name: index for index, name in enumerate(ALLOWED)}
    upwards = [(name, other) for name, allowed in ALLOWED.items() for other in allowed if ranks[other] > ranks[name]]

    assert not upwards


def test_the_master_stays_light() -> None:
    """Measured, not read: a library may bring what nobody asked for."""
    code = "import sys, puerta.cli; print('\\n'.join(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = answer.stdout.split()
    heavy = [name for name in loaded if name.split(".")[0] in HEAVY or name in {"_ssl", "asyncio"}]
    assert not heavy
    assert "puerta.process.master" in loaded
    assert not [name for name in loaded if name.startswith("puerta.") and layer(name) in HEAVY_LAYERS]


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE], ids=shown)
def test_a_module_has_one_subject(path: Path) -> None:
    most = LONGER.get(str(path.relative_to(PACKAGE)), LONGEST)
    lines = path.read_text().count("\n")
    assert lines <= most, f"{shown(path)} has {lines} lines, more than {most}: what is its second subject?"


def test_no_module_is_excused_for_nothing() -> None:
    for name in LONGER:
        assert (PACKAGE / name).read_text().count("\n") > LONGEST, f"{name} needs no exception any more"


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree)
