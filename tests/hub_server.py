"""A small server on this machine that speaks the part of the Hub's protocol that sdmobile needs.

Addresses and headers are those of `huggingface_hub` (hf_api.py, file_download.py, _commit_api.py, lfs.py). Repositories
are dictionaries; a commit is the hash of its files, so that a push can be read back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]
_LARGE = (".safetensors", ".onnx", ".tflite", ".bin")


_ENDLESS = 80_000_000  # far beyond any small file's declared size


@dataclass
class Repository:
    """Files by branch, tag or commit; who may do what is told by the token that is asked for.

    Args:
        revisions: each with its files.
        gated: the list of files is open, the files are not.
        token: that reads a private repository, or a gated one's files.
        commits: what a request for the list says the commit is, where it lies.
        etag: of every file, where it lies.
        xet: files are offered the Hub's other way, too.
        endless: the file whose bytes do not end where the list says.
        bomb: the file that comes compressed, and is far longer than the list says.
    """

    revisions: dict[str, Files]
    gated: bool = False
    private: bool = False
    token: str | None = None
    commits: str | None = None
    etag: str | None = None
    xet: bool = False
    endless: str | None = None
    bomb: str | None = None

    def files(self, revision: str) -> Files | None:
        """Returns the files of a revision, None where there is none."""
        known = {commit_of(files): files for files in self.revisions.values()}
        return {**known, **self.revisions}.get(revision)


@dataclass(frozen=True)
class Fault:
    """An answer in the place of the right one.

    Args:
        where: part of the addresses that get it.
        status: of the answer.
        body: of it.
        headers: of it.
        seconds: that it takes.
    """

    where: str
    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


@dataclass
class Hub:
    """The server's state: repositories by name, every request that came, and what goes wrong."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    writer: str = "hf_writer"
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    fault: Fault | None = None

    def add(self, name: str, files: Files, **more: Any) -> str:
        """Adds a repository with a main branch; returns its commit."""
        self.repositories[name] = Repository({"main": files}, **more)
        return commit_of(files)

    def downloads(self) -> list[str]:
        """Returns the files that were asked for whole since the last call, in order of their names."""
        wanted = (line for line in self.requests if line.startswith("GET ") and "/resolve/" in line)
        paths = sorted(line.split("/resolve/")[1].partition("/")[2] for line in wanted if "bytes=" not in line)
        self.requests.clear()
        return paths


def commit_of(files: Files) -> str:
    """Returns a commit's hash, which stands for the files' names and bytes."""
    digest = hashlib.sha1(b"")
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
    return digest.hexdigest()


def read_files(folder: Path) -> Files:
    """Returns the files below a folder."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Yields a server on a free port of this machine, and stops it."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", url: str = "") -> None:
        self.status, self.code, self.message, self.url = status, code, message, url


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self._chunks()
        address = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {unquote(address.path)} {self.headers.get('Range', '')}".strip())
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        if (fault := self.hub.fault) is not None and fault.where in address.path:
            time.sleep(fault.seconds)
            self._send(fault.status, fault.body, dict(fault.headers))
            return
        try:
            data, headers = self._route(address.path, parse_qs(address.query), body)
            self._send(200, data, headers)
        except _Refused as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, json.dumps({"error": refusal.message, "url": refusal.url}).encode(), headers)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        begin, end = 0, len(data)
        if status == 200 and (wanted := self.headers.get("Range")):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(int(last or end) + 1, end), 206
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(end - begin)}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[begin:end])

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[bytes, dict[str, str]]:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            name, what, rest = "/".join(parts[2:4]), (parts[4:5] or ["revision"])[0], parts[5:]
            return _json(getattr(self, f"_{what}")(name, (rest or ["main"])[0], body)), {}
        if self.command == "POST" and parts[:2] == ["api", "repos"]:
            return _json(self._create(json.loads(body))), {}
        if parts[:2] == ["api", "validate-yaml"]:
            return _json({"errors": [], "warnings": []}), {}
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return _json(self._batch(json.loads(body))), {}
        if parts[0] == "large":
            if hashlib.sha256(body).hexdigest() != parts[1]:
                raise _Refused(400, message="the bytes are others")
            self.hub.large[parts[1]] = body
            return b"", {"ETag": '"1"'}
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise _Refused(404)

    def _repository(self, name: str, closed: bool = False) -> Repository:
        repository = self.hub.repositories.get(name)
        known = repository is not None and self._token() == repository.token is not None
        if repository is None or (repository.private and not known):
            raise _Refused(401, "RepoNotFound", "Repository not found")
        if closed and repository.gated and not known:
            raise _Refused(403 if self._token() else 401, "GatedRepo", "Access to it is restricted")
        return repository

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _files(self, repository: Repository, revision: str) -> Files:
        files = repository.files(revision)
        if files is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return files

    def _revision(self, name: str, revision: str, _: bytes) -> dict[str, Any]:
        repository = self._repository(name)
        files = self._files(repository, revision)
        siblings = [{"rfilename": path, "size": len(data), "blobId": "0" * 40} for path, data in files.items()]
        commit = repository.commits or commit_of(files)
        return {"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []}

    def _tree(self, name: str, revision: str, _: bytes) -> list[dict[str, Any]]:
        files = self._files(self._repository(name), revision)
        return [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files.items()]

    def _resolve(self, name: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        files = self._files(self._repository(name, closed=True), revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", f"{path} does not exist")
        data = files[path]
        repository = self.hub.repositories[name]
        etag = repository.etag or hashlib.sha256(data).hexdigest()
        if path == repository.endless and self.command == "GET":
            data = data.ljust(_ENDLESS, b" ")
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit_of(files)}
        if repository.xet:
            route = f"{self.hub.endpoint}/api/models/{name}/xet-read-token/{revision}"
            headers |= {"X-Xet-Hash": hashlib.sha256(data).hexdigest(), "X-Xet-Refresh-Route": route}
            headers |= {"Link": f'<{route}>; rel="xet-auth"'}
        if path == repository.bomb and self.command == "GET":
            return random.Random(0).randbytes(2_000_000), {**headers, "Content-Encoding": "gzip"}
        return data, headers

    def _require_writer(self) -> None:
        if self._token() is None:
            raise _Refused(401, message="Invalid username or password.")
        if self._token() != self.hub.writer:
            raise _Refused(403, message="You don't have the rights to create a model under this namespace")

    def _create(self, order: dict[str, Any]) -> dict[str, Any]:
        self._require_writer()
        name = f"{order['organization']}/{order['name']}"
        if name in self.hub.repositories:
            raise _Refused(409, message="You already created this model repo", url=f"{self.hub.endpoint}/{name}")
        private = order.get("visibility") == "private" or bool(order.get("private"))
        self.hub.repositories[name] = Repository({"main": {}}, private=private, token=self.hub.writer)
        return {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": "0"}

    def _branch(self, name: str, branch: str, _: bytes) -> dict[str, Any]:
        self._require_writer()
        revisions = self._repository(name).revisions
        if branch in revisions:
            raise _Refused(409, message="Reference already exists")
        revisions[branch] = dict(revisions["main"])
        return {}

    def _preupload(self, name: str, revision: str, body: bytes) -> dict[str, Any]:
        self._require_writer()
        files = self._files(self._repository(name), revision)
        modes = {
            entry["path"]: "lfs" if entry["path"].endswith(_LARGE) else "regular" for entry in json.loads(body)["files"]
        }
        oids = {path: _oid(files[path], mode) if path in files else None for path, mode in modes.items()}
        return {
            "files": [
                {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oids[path]}
                for path, mode in modes.items()
            ]
        }

    def _batch(self, order: dict[str, Any]) -> dict[str, Any]:
        self._require_writer()
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.endpoint}/large/{item['oid']}", "header": {}}}}
            for item in order["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, revision: str, body: bytes) -> dict[str, Any]:
        self._require_writer()
        repository = self._repository(name)
        files = dict(self._files(repository, revision))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        repository.revisions[revision] = files
        commit = commit_of(files)
        return {"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "pullRequestUrl": None}


def _oid(data: bytes, mode: str) -> str:
    return (
        hashlib.sha256(data).hexdigest()
        if mode == "lfs"
        else hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    )


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
