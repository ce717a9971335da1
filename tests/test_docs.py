"""What the documentation points to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FILE = re.compile(r"\b(?:tests|sdmobile|benchmarks)/[\w/.-]+\.(?:py|json|toml|md|png|html|safetensors)\b")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    named = {ROOT / name for name in _FILE.findall(text)}
    linked = {page.parent / name for name in _LINK.findall(text)}
    assert sorted(str(path) for path in named | linked if not path.exists()) == []
