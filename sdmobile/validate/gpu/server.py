"""Serves the built page to a browser on this machine, and takes back what it computed."""

from __future__ import annotations

import contextlib
import mimetypes
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from sdmobile.errors import EXIT_MISSING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Cross-origin isolation: without both headers a page gets no shared memory, and so no WebAssembly threads.
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
_TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".html": "text/html", ".css": "text/css"}
_RESULT = re.compile(r"/results/([0-9]+-[0-9]+\.bin)")
_CHUNK = 1 << 20


@contextlib.contextmanager
def serve(page: Path, files: Mapping[str, Path], results: Path, port: int = 0) -> Iterator[str]:
    """Serves until the block ends, on the loopback interface only.

    Args:
        page: folder of the built page, served at /.
        files: further files by path, as {"/job/model": …}.
        results: folder for what the page sends to /results/<a>-<b>.bin.
        port: 0 for a free one.

    Yields:
        The address of the page.
    """
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(page.resolve(), files, results))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(page: Path, files: Mapping[str, Path], results: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            file = _resolve(self.path.partition("?")[0], page, files)
            if file is None:
                self._answer(HTTPStatus.NOT_FOUND)
                return
            kind = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._answer(HTTPStatus.OK, file.stat().st_size, kind)
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    self.wfile.write(chunk)

        def do_PUT(self) -> None:
            match = _RESULT.fullmatch(self.path)
            left = int(self.headers.get("Content-Length", 0))
            if match is None:
                self.close_connection = True
                self._answer(HTTPStatus.FORBIDDEN)
                return
            with (results / match[1]).open("wb") as stream:
                while left > 0 and (chunk := self.rfile.read(min(left, _CHUNK))):
                    stream.write(chunk)
                    left -= len(chunk)
            self._answer(HTTPStatus.CREATED)

        def _answer(self, status: HTTPStatus, length: int = 0, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length))
            self.send_header("Cache-Control", "no-store")
            for name, value in ISOLATION.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler


def _resolve(path: str, page: Path, files: Mapping[str, Path]) -> Path | None:
    """Returns the file of a path, or None; nothing outside the page's folder is served by name."""
    if path in files:
        return files[path]
    file = (page / (path.lstrip("/") or "index.html")).resolve()
    return file if file.is_file() and file.is_relative_to(page) else None


def main() -> None:
    """Serves the page for people until it is interrupted: `python -m sdmobile.validate.gpu.server --port 8765`."""
    import argparse

    from sdmobile.basics.scratch import temporary_folder
    from sdmobile.validate.gpu import places

    parser = argparse.ArgumentParser(description="Serve the page that runs a .tflite file on this device's GPU.")
    parser.add_argument("--port", type=int, default=8765)
    port = parser.parse_args().port
    if not places.page_is_built():
        parser.exit(EXIT_MISSING, f"the page is not built. {places.SETUP}\n")
    with temporary_folder("gpu-page") as results, serve(places.page_folder(), {}, results, port) as address:
        print(address, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
