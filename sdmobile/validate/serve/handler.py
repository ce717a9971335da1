"""One request: token, then the list of what is served; two addresses take a small JSON document each.

Whatever is not on the list, and every path without the token, gets 404 and not a byte more.
"""

from __future__ import annotations

import hmac
import io
import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from sdmobile.errors import SdmobileError
from sdmobile.validate.serve.inbox import RefusedError
from sdmobile.validate.serve.routes import PROGRESS, RESULTS, Asset
from sdmobile.validate.serve.server import PatientReader, PhoneServer

if TYPE_CHECKING:
    from typing import BinaryIO

CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    # Without these two a page gets no shared memory.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_CHUNK = 1 << 18
_DRAIN_SECONDS = 2.0
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_LENGTH = re.compile(r"[0-9]{1,15}")
_LARGE_AT_ONCE = threading.BoundedSemaphore(2)
"""Results that are read at once: each may take 32 MiB."""


class Handler(BaseHTTPRequestHandler):
    """Answers on one connection."""

    protocol_version = "HTTP/1.1"
    server: PhoneServer

    def setup(self) -> None:
        """Lets reading end in time."""
        super().setup()
        self.rfile.close()
        self._patient = PatientReader(self.connection)
        self.rfile = io.BufferedReader(self._patient, 1 << 16)  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle_one_request(self) -> None:
        """Waits for a request's head, all of it, and answers."""
        self._patient.wait_for(self.server.site.limits.idle_seconds)
        super().handle_one_request()

    def do_GET(self) -> None:
        """Sends what is on the list."""
        path, _, query = self.path.partition("?")
        name = self._below_token(path)
        asset = None if name is None else self.server.site.routes.get(name)
        if asset is None:
            self._nothing(HTTPStatus.NOT_FOUND)
        elif self.headers.get("If-None-Match") == f'"{asset.sha256}"':
            self._head(HTTPStatus.NOT_MODIFIED, asset, query)
            self.end_headers()
        else:
            self._send(asset, query)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Takes a document of the page."""
        refusal = self._why_not()
        if refusal is not None:
            self._nothing(refusal)
            return
        length = int(self.headers["Content-Length"])
        large = length > self.server.site.limits.progress_bytes
        if large and not _LARGE_AT_ONCE.acquire(blocking=False):
            self._nothing(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        try:
            self._take(length)
        finally:
            if large:
                _LARGE_AT_ONCE.release()

    def _below_token(self, path: str) -> str | None:
        """Returns what follows the token in a path, None if the token is missing or another."""
        before, token, *rest = [*path.split("/", 2), "", ""]
        known = hmac.compare_digest(token.encode("latin-1", "replace"), self.server.site.token.encode())
        return rest[0] if known and before == "" and path.count("/") > 1 else None

    def _why_not(self) -> HTTPStatus | None:
        """Returns why a document is not taken, by the head of its request; None if it may come."""
        limits, name = self.server.site.limits, self._below_token(self.path)
        most = {PROGRESS: limits.progress_bytes, RESULTS: limits.results_bytes}.get(name or "")
        if most is None:
            return HTTPStatus.NOT_FOUND
        if (origin := self.headers.get("Origin")) is not None and origin != self._own_origin():
            return HTTPStatus.FORBIDDEN
        if self.headers.get_content_type() != "application/json" or "Content-Type" not in self.headers:
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or not lengths:
            return HTTPStatus.LENGTH_REQUIRED
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            return HTTPStatus.BAD_REQUEST
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if int(lengths[0]) > most else None

    def _own_origin(self) -> str:
        scheme = "http" if self.server.site.tls is None else "https"
        return f"{scheme}://{self.headers.get('Host', '')}"

    def _take(self, length: int) -> None:
        """Reads a document of a known length and hands it over."""
        limits, inbox = self.server.site.limits, self.server.site.inbox
        self._patient.wait_for(limits.idle_seconds + length / limits.slowest)
        data = self.rfile.read(length)
        if len(data) < length:
            self.close_connection = True
            return
        try:
            if self._below_token(self.path) == PROGRESS:
                inbox.progress(data)
                self._answer(HTTPStatus.NO_CONTENT)
                return
            receipt = inbox.results(data)
            reply = {"verdict": receipt.verdict, "file": receipt.file.name, "faults": list(receipt.faults)}
            self._answer(HTTPStatus.CREATED, reply)
        except RefusedError as error:
            self._answer(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": error.message()[:2000]})
        except SdmobileError as error:  # the disk is full, or the folder is not there any more
            self.server.site.tell(f"warning: a result was not kept: {error.message()}")
            self._answer(HTTPStatus.INSUFFICIENT_STORAGE, {"error": "the result could not be kept"})

    def _answer(self, status: HTTPStatus, document: Any = None) -> None:
        """Sends a small JSON document, or no body."""
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response_only(status)
        self._common("no-store")
        if document is not None:
            self.send_header("Content-Type", "application/json")
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _nothing(self, status: HTTPStatus) -> None:
        """Answers with a number alone and closes the connection, whatever was still to come on it."""
        self.close_connection = True
        self.send_response_only(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "POST":
            self._drain()

    def _drain(self) -> None:
        """Takes in what is under way for a moment: a connection that is closed before loses the answer, too."""
        self._patient.wait_for(min(_DRAIN_SECONDS, self.server.site.limits.idle_seconds))
        while self.rfile.read1(_CHUNK):
            pass

    def flush_headers(self) -> None:
        """Sends the head of an answer; what was left of the patience for the request does not matter any more."""
        self.connection.settimeout(self.server.site.limits.idle_seconds)
        super().flush_headers()

    def _common(self, caching: str) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", caching)

    def _head(self, status: HTTPStatus, asset: Asset, query: str) -> None:
        """Begins the answer about something on the list."""
        lasting = asset.lasting and query == asset.sha256
        self.send_response_only(status)
        self._common("private, max-age=31536000, immutable" if lasting else "no-cache")
        self.send_header("ETag", f'"{asset.sha256}"')

    def _send(self, asset: Asset, query: str) -> None:
        """Sends a file, or a part of it."""
        part = self._part(asset.size)
        if part is None:
            self._nothing(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        begin, end, whole = part
        try:
            stream = asset.opened()
        except OSError as error:
            self.server.site.tell(f"warning: {error}")
            self._nothing(HTTPStatus.GONE)
            return
        with stream:
            self._head(HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT, asset, query)
            self.send_header("Content-Type", asset.kind)
            self.send_header("Content-Length", str(end - begin))
            self.send_header("Accept-Ranges", "bytes")
            if not whole:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{asset.size}")
            self.end_headers()
            if self.command != "HEAD":
                self._pour(stream, begin, end - begin)

    def _part(self, size: int) -> tuple[int, int, bool] | None:
        """Returns where the wanted bytes begin and end and whether they are all; None if there are none such."""
        stated = self.headers.get("Range")
        match = None if stated is None else _RANGE.fullmatch(stated)
        if match is None or self.headers.get("If-Range") is not None or not any(match.groups()):
            return 0, size, True  # several ranges, or another unit: the whole is a right answer, too
        first, last = match.groups()
        if not first:
            return (max(0, size - int(last)), size, False) if int(last) and size else None
        begin, end = int(first), min(size, int(last) + 1 if last else size)
        return (begin, end, False) if begin < end else None

    def _pour(self, stream: BinaryIO, begin: int, left: int) -> None:
        stream.seek(begin)
        while left > 0:
            chunk = stream.read(min(left, _CHUNK))
            if not chunk:  # it was cut off meanwhile; the browser sees that bytes are missing
                self.close_connection = True
                return
            self.connection.settimeout(self.server.site.limits.idle_seconds)  # for all of the chunk
            self.wfile.write(chunk)
            left -= len(chunk)

    def handle_expect_100(self) -> bool:
        """Lets a body come only if it would be taken."""
        refusal = self._why_not() if self.command == "POST" else HTTPStatus.NOT_FOUND
        if refusal is None:
            return super().handle_expect_100()
        self._nothing(refusal)
        return False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what is no request, or of an unknown method, with a number alone."""
        known = HTTPStatus.NOT_FOUND if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._nothing(known)

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing: a request's text is a stranger's."""
