"""A small server of jobs for the page's tests: the routes of `sdmobile serve`, with faults that a test may ask for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mimetypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.phone_run import PhoneRun, PhoneRunError, parse_run
from sdmobile.validate.golden import Golden
from sdmobile.validate.serve.handler import HEADERS
from sdmobile.validate.serve.job import JobOptions, make_job, thresholds_of

TOKEN = "dGVzdC10b2tlbi1vZi"
_TYPES = {".wasm": "application/wasm", ".js": "text/javascript", ".html": "text/html", ".css": "text/css"}


def job_of(bundle: Bundle, golden: Golden, only: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """Returns the job of a bundle, of three timed runs.

    Args:
        bundle: for Android.
        golden: its recorded calls.
        only: names of components; none for all.
        changes: of the job's entries.
    """
    return make_job(bundle, golden, JobOptions(tuple(only) or None, runs=3)) | changes


def entry_of(url: str, data: bytes) -> dict[str, Any]:
    """Returns what a job says of a file."""
    return {"url": url, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@dataclass
class JobServer:
    """What is served and what came.

    Args:
        page: folder of the built page.
        bundle: whose files are served.
        golden: recorded calls.
        job: of `job_of`.
        replaced: bytes in the place of a route's own, by route.
        refuse_results: status that results are answered with; None takes them.
        refuse_progress: status that lines of progress are answered with; None takes them.
        dies_at: phase at whose announcement the server closes every connection from then on.
    """

    page: Path
    bundle: Bundle
    golden: Golden
    job: dict[str, Any]
    replaced: dict[str, bytes] = field(default_factory=dict)
    refuse_results: int | None = None
    refuse_progress: int | None = None
    dies_at: str | None = None
    dead: bool = False
    asked: list[str] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    runs: list[PhoneRun] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)

    def content(self, route: str) -> bytes | None:
        """Returns what a route has, None for none."""
        if route in self.replaced:
            return self.replaced[route]
        own = {
            "job.json": json.dumps(self.job).encode(),
            "golden.json": self.golden.text,
            "golden.bin": self.golden.data,
        }
        if route in own:
            return own[route]
        root, name = (
            (self.bundle.path, route[7:]) if route.startswith("bundle/") else (self.page, route or "phone.html")
        )
        file = (root / name).resolve()
        return file.read_bytes() if file.is_file() and file.is_relative_to(root.resolve()) else None

    def post(self, route: str, data: bytes) -> tuple[int, bytes]:
        """Takes a line of progress or a document."""
        document = json.loads(data)
        if route == "progress":
            self.lines.append(document)
            self.dead = self.dead or document["phase"] == self.dies_at
            return self.refuse_progress or HTTPStatus.NO_CONTENT, b""
        if self.refuse_results is not None:
            return self.refuse_results, json.dumps({"error": "the test refuses it"}).encode()
        self.documents.append(document)
        try:
            run = parse_run(data)
        except PhoneRunError as error:
            return HTTPStatus.UNPROCESSABLE_ENTITY, json.dumps({"error": str(error)}).encode()
        self.runs.append(run)
        faults = run.faults(thresholds_of(self.job))
        answer = {"verdict": "failed" if faults else "passed", "file": "run-1.json"}
        return HTTPStatus.CREATED, json.dumps(answer).encode()


@contextlib.contextmanager
def served(server: JobServer, host: str = "127.0.0.1") -> Iterator[str]:
    """Serves until the block ends.

    Yields:
        The address of the page.
    """
    http = ThreadingHTTPServer((host, 0), _handler(server))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{http.server_port}/{TOKEN}/"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(server: JobServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            route = self._route()
            if route is None:
                return
            server.asked.append(route)
            data = server.content(route)
            name = route or "phone.html"
            kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
            self._answer(HTTPStatus.NOT_FOUND if data is None else HTTPStatus.OK, data or b"", kind)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            route = self._route()
            if route is not None:
                self._answer(*server.post(route, data), "application/json")

        def _route(self) -> str | None:
            """Returns the path after the token; None, and no answer, once the server is dead."""
            path = self.path.partition("?")[0]
            if server.dead:
                self.close_connection = True
                self.connection.close()
                return None
            return path.removeprefix(f"/{TOKEN}/") if path.startswith(f"/{TOKEN}/") else "?"

        def _answer(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            return

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().handle()

    return Handler
