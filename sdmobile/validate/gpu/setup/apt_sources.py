"""Reads where this machine's apt gets the distribution from, and derives the address of its backports.

Both forms are read: `sources.list` lines and deb822 stanzas in `*.sources` files. Source: sources.list(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_OPTIONS = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "arch": "Architectures",
    "allow-insecure": "Allow-Insecure",
    "check-valid-until": "Check-Valid-Until",
}
_LINE = re.compile(r"^deb(?:\s+\[(?P<options>[^\]]*)\])?\s+(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>[^#]*)")
_COPIED = ("Signed-By", "Trusted", "Architectures", "Allow-Insecure", "Check-Valid-Until")


@dataclass(frozen=True)
class AptSource:
    """One archive that apt may install from.

    Args:
        uris: where it is.
        suites: as bookworm, bookworm-updates.
        components: as main.
        options: further deb822 fields, as Signed-By; a field may have several lines.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)

    def stanza(self, suites: Iterable[str]) -> str:
        """Returns the deb822 text for other suites of the same archive."""
        lines = ["Types: deb", f"URIs: {' '.join(self.uris)}", f"Suites: {' '.join(suites)}"]
        lines.append(f"Components: {' '.join(self.components)}")
        lines += [f"{name}: {value}" for name, value in self.options.items()]
        return "\n".join(lines) + "\n"


def read_sources(folder: Path) -> list[AptSource]:
    """Returns every enabled binary source of an apt configuration.

    Args:
        folder: the folder that holds sources.list and sources.list.d, usually /etc/apt.
    """
    parts = folder / "sources.list.d"
    lists = [folder / "sources.list", *sorted(parts.glob("*.list"))]
    found: list[AptSource] = []
    for file in filter(_is_file, lists):
        found += _from_lines(file.read_text("utf-8", errors="replace"))
    for file in filter(_is_file, sorted(parts.glob("*.sources"))):
        found += _from_stanzas(file.read_text("utf-8", errors="replace"))
    return found


def distribution_source(sources: Iterable[AptSource], codename: str) -> AptSource | None:
    """Returns the source of the distribution itself: the first one that has the release's own suite."""
    return next((source for source in sources if codename in source.suites), None)


def with_backports(source: AptSource, codename: str) -> str:
    """Returns a deb822 stanza for the release, its updates and its backports, from where apt gets the release."""
    updates = [suite for suite in source.suites if suite == f"{codename}-updates"]
    return source.stanza([codename, *updates, f"{codename}-backports"])


def os_release(text: str) -> dict[str, str]:
    """Returns the fields of an os-release file, without quotes."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _is_file(path: Path) -> bool:
    return path.is_file()


def _from_lines(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match is None or match["uri"].startswith("cdrom:"):
            continue
        pairs = (option.partition("=") for option in (match["options"] or "").split())
        options = {_OPTIONS[name.lower()]: value for name, _, value in pairs if name.lower() in _OPTIONS}
        if "Architectures" in options:
            options["Architectures"] = options["Architectures"].replace(",", " ")
        yield AptSource((match["uri"],), (match["suite"],), tuple(match["components"].split()), options)


def _from_stanzas(text: str) -> Iterator[AptSource]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0")
        if not enabled or "deb" not in fields.get("types", "").split() or "suites" not in fields:
            continue
        options = {name: fields[name.lower()] for name in _COPIED if name.lower() in fields}
        uris, suites, components = (tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components"))
        yield AptSource(uris, suites, components, options)


def _fields(stanza: str) -> dict[str, str]:
    """Returns a stanza's fields by lower-case name; lines that start with a space continue the field before."""
    fields: dict[str, str] = {}
    last = None
    for line in stanza.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace() and last is not None:
            fields[last] += "\n" + line.rstrip()
        elif ":" in line:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()
    return fields
