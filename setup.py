"""The compiled core: built when Cython and a C compiler are at hand, else Puerta runs from the same sources, slower."""

import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

COMPILED = [
    "puerta/reactor/native.pyx",
    "puerta/reactor/outbox.pyx",
    "puerta/reactor/loop.py",
    "puerta/reactor/relay.py",
    "puerta/proxy/deadlines.py",
    "puerta/proxy/backend.py",
    "puerta/proxy/affinity.py",
    "puerta/proxy/route.py",
    "puerta/proxy/session.py",
    "puerta/proxy/mongodb_session.py",
    "puerta/proxy/acceptor.py",
    "puerta/protocol/span.pyx",
    "puerta/protocol/request.py",
    "puerta/protocol/resp.py",
    "puerta/protocol/spec.py",
    "puerta/proxy/redis_caller.py",
    "puerta/proxy/redis_latencies.py",
    "puerta/proxy/redis_upstream.py",
    "puerta/proxy/redis_slots.py",
    "puerta/proxy/redis_cluster.py",
    "puerta/proxy/redis_upkeep.py",
    "puerta/proxy/redis_gather.py",
    "puerta/proxy/redis_keyed.py",
    "puerta/proxy/redis_scatter.py",
    "puerta/proxy/redis_session.py",
]


class OptionalBuild(build_ext):
    """Goes on without the extensions when they can't be built, and says so. All or nothing: they call one another."""

    def run(self) -> None:
        inplace = self.inplace
        try:
            super().run()
        except Exception as error:
            self.inplace = inplace
            self.fall_back(error)

    def fall_back(self, error: Exception) -> None:
        """Remove what was built, now or earlier: an extension would win over its newer source."""
        for extension in self.extensions:
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        print(f"puerta: the compiled core was not built ({error}); running from the Python sources", file=sys.stderr)


def extensions() -> list:  # type: ignore[type-arg]
    if os.environ.get("PUERTA_PURE", "") not in ("", "0"):
        print("puerta: PUERTA_PURE is set; not building the compiled core", file=sys.stderr)
        return []
    try:
        from Cython.Build import cythonize
    except ImportError as error:
        print(f"puerta: {error}; running from the Python sources", file=sys.stderr)
        return []
    directives = {
        "language_level": 3,
        "boundscheck": False,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": False,
        "annotation_typing": False,
        "show_performance_hints": False,
    }
    modules = cythonize(COMPILED, compiler_directives=directives, quiet=True, force=True)
    for module in modules:
        # GCC takes None for an array that is read beyond its end, in Python's own headers.
        module.extra_compile_args = ["-O2", "-fno-plt", "-Wno-array-bounds"]
    return modules


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuild})
