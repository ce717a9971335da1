"""What the documentation points to is there: files, pages, headings; and the site's order names every page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCS = sorted((ROOT / "docs").glob("*.md"))
_FILE = re.compile(r"\b(?:tests|sdmobile|benchmarks)/[\w/.-]+\.(?:py|json|toml|md|png|html|safetensors)\b")
_LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]+)")
_FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)


@pytest.mark.parametrize("page", [*TOP[:2], *DOCS], ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = {ROOT / name for name in _FILE.findall(page.read_text("utf-8"))}
    assert sorted(str(path) for path in named if not path.exists()) == []


@pytest.mark.parametrize("page", [*TOP, *DOCS], ids=lambda page: page.name)
def test_no_link_of_a_page_is_dead(page: Path) -> None:
    assert dead_links(page) == []


def test_dead_files_and_anchors_are_noticed(tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    fence = "```\n# no heading [x](gone.md)\n```\n"
    other.write_text(f"# Où `a/b` is …?\n\n## Same\n\n{fence}\n## Same\n\n[up](#same-1) `[x](gone)`\n")
    page = tmp_path / "page.md"
    good = "[1](other.md) [2](other.md#où-ab-is-) [3](other.md#same-1) [4](https://example.org/gone.md#x)"
    page.write_text(f"{good}\n![5](gone.png) [6](other.md#same-2) [7](#no-heading) [8](other.md#no-heading)\n")
    assert dead_links(other) == []
    assert dead_links(page) == ["gone.png", "other.md#same-2", "#no-heading", "other.md#no-heading"]


def test_the_site_has_every_page_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"^ +- .+: (\S+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)
    assert sorted(listed) == [page.name for page in DOCS]
    overview = _LINK.findall((ROOT / "docs" / "index.md").read_text("utf-8"))
    assert [name for name in overview if name.endswith(".md")] == [name for name in listed if name != "index.md"]


def dead_links(page: Path) -> list[str]:
    """Returns a page's relative links whose file, or whose heading in a page, is not there."""
    found = []
    for link in _LINK.findall(_CODE.sub("", _FENCE.sub("", page.read_text("utf-8")))):
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            found.append(link)
    return found


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Returns what code hosts and the site make of the page's headings: lower case, hyphens for blanks, numbered."""
    seen: dict[str, int] = {}
    anchors = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text("utf-8"))):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        anchors.add(f"{anchor}-{count}" if count else anchor)
    return frozenset(anchors)
