"""The Hub's HTTP client, kept from what a hostile server could make it do.

The client of huggingface_hub names files of its cache by the ETag of a server's answer, and reads an answer to its end
however long that is. Both are bounded here, where every answer passes: ETags are plain words, and no answer is longer
than what is expected.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Git's and SHA-256's hashes, and the identifiers that stores of objects make; the client strips W/ and quotes.
_ETAG = re.compile(r'(?:W/)?"?[0-9A-Za-z_-]{1,128}"?')
_NAMES_A_FILE = ("etag", "x-linked-etag")
MOST_BYTES_OF_AN_ANSWER = 64_000_000
"""Of a list of files, and the like."""
_SLACK = 1_000_000  # of what is declared: a page that says why something is refused


class _Allowed:
    """Bytes of the longest answer that is expected now."""

    most = MOST_BYTES_OF_AN_ANSWER


def expect(most: int) -> None:
    """Lets answers be as long as the longest file that is about to be downloaded, or as a list of files."""
    _Allowed.most = max(most + _SLACK, MOST_BYTES_OF_AN_ANSWER)


@cache
def guard_client() -> None:
    """Makes every answer to the Hub's client pass `_checked`, also of clients that it opens anew after a fault."""
    from huggingface_hub import get_session, set_client_factory

    usual = get_session()
    kind, hooks = type(usual), list(usual.event_hooks["request"])
    library: Any = sys.modules[kind.__module__.partition(".")[0]]

    class Bounded(library.SyncByteStream):
        """An answer's bytes, up to as many as are expected."""

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

    def checked(response: Any) -> None:
        _require_plain_etag(response)
        if response.request.method != "HEAD":
            _require_short(int(response.headers.get("content-length") or 0), _Allowed.most)
        response.stream = Bounded(response.stream, _Allowed.most)

    def opened() -> Any:
        return kind(event_hooks={"request": hooks, "response": [checked]}, follow_redirects=True, timeout=None)

    set_client_factory(opened)


def _require_plain_etag(response: Any) -> None:
    if response.request.method != "HEAD":  # the client names files after answers to these alone
        return
    for header in _NAMES_A_FILE:
        value = response.headers.get(header)
        if value is not None and not _ETAG.fullmatch(value):
            raise CheckpointError("the Hub must name a file's content by a plain word", f"{header}: {value[:80]!a}")


def _require_short(length: int, most: int) -> None:
    if length > most:
        raise CheckpointError("the Hub must not send more than its list of files says", f"over {most / 1e6:.0f} MB")
