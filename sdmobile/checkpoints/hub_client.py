"""The Hub's HTTP client, kept from what a hostile server could make it do.

The client of huggingface_hub names files of its cache by the ETag of a server's answer, and reads an answer to its end
however long that is. Both are bounded here, where every answer passes: ETags are plain words, and no answer is longer
than what is expected. Xet, the Hub's second way to move files, goes past this client (its own opens the connections and
writes the files), so it is off: the Hub gives every file by plain HTTP, too.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Git's and SHA-256's hashes, and the identifiers that stores of objects make; the client strips W/ and quotes.
_ETAG = re.compile(r'(?:W/)?"?[0-9A-Za-z_-]{1,128}"?')
_NAMES_A_FILE = ("etag", "x-linked-etag")
MOST_BYTES_OF_AN_ANSWER = 64_000_000
"""Of a list of files, and the like."""
_ENCODINGS = ("gzip", "deflate")
_MOST_ENCODED = 1_000_000  # which both of these make a thousand times as long at most
_SLACK = 1_000_000  # of what is declared: a page that says why something is refused


def guard_client(most: int = MOST_BYTES_OF_AN_ANSWER) -> None:
    """Makes every answer to the Hub's client pass these checks, also of clients that it opens anew after a fault.

    Args:
        most: bytes of the longest file that is about to be downloaded.
    """
    from huggingface_hub import constants, get_session, set_client_factory

    constants.HF_HUB_DISABLE_XET = True  # what the variable of that name says, which may have been read by now
    usual = get_session()
    kind, asked = type(usual), list(usual.event_hooks["request"])
    bounded = _bounded(kind)
    most = max(most + _SLACK, MOST_BYTES_OF_AN_ANSWER)

    def checked(response: Any) -> None:
        if response.request.method == "HEAD":  # the client names files after answers to these alone
            _require_plain_etag(response.headers)
            return
        allowed = min(most, _most_encoded(response.headers.get("content-encoding")) or most)
        _require_short(int(response.headers.get("content-length") or 0), allowed)
        response.stream = bounded(response.stream, allowed)

    def opened() -> Any:
        hooks = {"request": asked, "response": [checked]}
        headers = {"Accept-Encoding": ", ".join(_ENCODINGS)}
        return kind(event_hooks=hooks, headers=headers, follow_redirects=True, timeout=None)

    set_client_factory(opened)


def _bounded(client: type) -> Any:
    """Returns a class of an answer's bytes, up to as many as are expected, as a client's library wants it."""
    library: Any = sys.modules[client.__module__.partition(".")[0]]

    class Bounded(library.SyncByteStream):
        def __init__(self, stream: Any, most: int) -> None:
            self._stream, self._most = stream, most

        def __iter__(self) -> Iterator[bytes]:
            read = 0
            for part in self._stream:
                read += len(part)
                _require_short(read, self._most)
                yield part

        def close(self) -> None:
            self._stream.close()

    return Bounded


def _require_plain_etag(headers: Any) -> None:
    for header in _NAMES_A_FILE:
        value = headers.get(header)
        if value is not None and not _ETAG.fullmatch(value):
            raise CheckpointError("the Hub must name a file's content by a plain word", f"{header}: {value[:80]!a}")


def _most_encoded(encoding: str | None) -> int | None:
    """Returns how long a compressed answer may be, None for one that is not compressed."""
    if encoding in (None, "", "identity"):
        return None
    if encoding not in _ENCODINGS:
        raise CheckpointError("the Hub must answer in a known encoding", f"{encoding[:80]!a}")
    return _MOST_ENCODED


def _require_short(length: int, most: int) -> None:
    if length > most:
        raise CheckpointError("the Hub must not send more than its list of files says", f"over {most / 1e6:.0f} MB")
