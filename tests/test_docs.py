"""The documents: their links lead somewhere, and what they quote works."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from puerta.config.load import load
from tests.harness import ROOT

SKIPPED = {".venv", "venv", ".git", ".pytest_cache", "build"}


def documents() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [each for each in folders if each not in SKIPPED]
        yield from (Path(folder, name) for name in names if name.endswith(".md"))


DOCUMENTS = sorted(documents())


def anchors(text: str) -> set[str]:
    """The headings of a document, as the anchors that GitHub makes of them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        found = path.parent / file if file else path
        if not found.exists() or (anchor and anchor not in anchors(found.read_text())):
            broken.append(target)
    assert not broken


def test_the_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "puerta.yaml").write_text(block)
        assert load(str(tmp_path / "puerta.yaml"), {}).routes


def test_the_shipped_configuration_is_one() -> None:
    assert load(str(ROOT / "etc" / "puerta.yaml"), {}).routes
