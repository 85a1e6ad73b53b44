"""Import Puerta's modules from their sources, past any compiled extension (`PUERTA_PURE=1`)."""

import importlib.machinery
import importlib.util
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent


class SourceFinder(MetaPathFinder):
    """Finds every `puerta.*` module that has a `.py`, before the path finder would prefer its extension."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != "puerta" and not package.startswith("puerta."):
            return None
        source = ROOT.joinpath(*package.split(".")[1:], name + ".py")
        if not source.is_file():
            return None
        return importlib.util.spec_from_file_location(fullname, source)
