"""Sources of apt in both forms, and the backports derived from them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sdmobile.validate.gpu.setup.apt_sources import (
    AptSource,
    distribution_source,
    os_release,
    read_sources,
    with_backports,
)

LINES = """
# a comment
deb cdrom:[A disc]/ bookworm main
deb-src http://archive.example/debian bookworm main
deb [arch=amd64,i386 signed-by=/keys/debian.gpg] http://archive.example/debian bookworm main contrib # the release
deb http://other.example/tools stable main
"""
STANZAS = """Types: deb deb-src
# kept by hand
URIs: http://archive.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://archive.example/debian
Suites: sid
Components: main

Types: deb-src
URIs: http://archive.example/debian
Suites: trixie
Components: main
"""


def _read(folder: Path, lines: str = "", stanzas: str = "") -> list[AptSource]:
    (folder / "sources.list.d").mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text(lines)
    (folder / "sources.list.d" / "debian.sources").write_text(stanzas)
    return read_sources(folder)


def test_lines(tmp_path: Path) -> None:
    first, second = _read(tmp_path, lines=LINES)
    assert first.uris == ("http://archive.example/debian",)
    assert first.components == ("main", "contrib")
    assert first.options == {"Architectures": "amd64 i386", "Signed-By": "/keys/debian.gpg"}
    assert second.suites == ("stable",)


def test_stanzas(tmp_path: Path) -> None:
    (source,) = _read(tmp_path, stanzas=STANZAS)
    assert source.suites == ("trixie", "trixie-updates")
    assert source.options["Signed-By"].splitlines()[3] == " abc"


def test_backports_come_from_where_the_release_comes_from(tmp_path: Path) -> None:
    source = distribution_source(_read(tmp_path, stanzas=STANZAS), "trixie")
    assert source is not None
    text = with_backports(source, "trixie")
    assert "URIs: http://archive.example/debian\n" in text
    assert "Suites: trixie trixie-updates trixie-backports\n" in text
    assert "\n abc\n" in text
    assert distribution_source([source], "bookworm") is None


words = st.lists(st.from_regex(r"[a-z][a-z0-9/:.-]{0,12}", fullmatch=True), min_size=1, max_size=3).map(tuple)


@given(uris=words, suites=words, components=words, key=st.from_regex(r"/[a-z]{1,9}\.gpg", fullmatch=True))
def test_a_written_stanza_is_read_back(
    tmp_path_factory, uris: tuple[str, ...], suites: tuple[str, ...], components: tuple[str, ...], key: str
) -> None:
    source = AptSource(uris, suites, components, {"Signed-By": key})
    assert _read(tmp_path_factory.mktemp("apt"), stanzas=source.stanza(suites)) == [source]


def test_os_release() -> None:
    assert os_release('# x\nID=debian\nVERSION_CODENAME="bookworm"\n') == {
        "ID": "debian",
        "VERSION_CODENAME": "bookworm",
    }
