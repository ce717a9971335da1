"""The list of what is served, made once: a request's path is looked up in it and never joined to a folder."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sdmobile.basics.files import files_of, hash_file
from sdmobile.errors import MissingDependencyError
from sdmobile.validate.golden import DATA, DOCUMENT
from sdmobile.validate.gpu import places

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.formats.tflite.external import External
    from sdmobile.validate.golden import Golden

JOB = "job.json"
PAGE = "phone.html"
PROGRESS, RESULTS = "progress", "results"
PAGE_FILES = (PAGE, "phone.js", "phone.css")
_WORKER = "wasm/phone_worker.js"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
}
_OTHER = "application/octet-stream"


class ChangedError(OSError):
    """A file is no longer what it was when the list was made."""


@dataclass(frozen=True)
class Asset:
    """Something that is served.

    Args:
        source: a file, or bytes.
        size: bytes.
        kind: Content-Type.
        sha256: of the content.
        lasting: whether the page asks for it by its hash, so that a copy may be kept for ever.
    """

    source: Path | bytes
    size: int
    kind: str
    sha256: str
    lasting: bool = False

    def opened(self) -> BinaryIO:
        """Opens it for reading; no link is followed, and a file must have the size that it had.

        Raises:
            OSError: it cannot be read, or was changed.
        """
        import io

        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.source, flags)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != self.size:
            os.close(descriptor)
            raise ChangedError(f"{self.source} was changed")
        return os.fdopen(descriptor, "rb")


Routes = dict[str, Asset]


def page_files() -> dict[str, Path]:
    """Returns the built page's files by their paths.

    Raises:
        MissingDependencyError: it is not built, or is of another version.
    """
    folder = places.page_folder()
    names = (*PAGE_FILES, _WORKER)
    if not places.page_is_built() or not all((folder / name).is_file() for name in names):
        raise MissingDependencyError("a phone needs the built page", f"{folder} has none of today's", places.SETUP)
    runtime = [file for file in files_of(folder / "wasm") if file.suffix in (".js", ".wasm")]
    return {
        **{name: folder / name for name in PAGE_FILES},
        **{f"wasm/{file.relative_to(folder / 'wasm').as_posix()}": file for file in runtime},
    }


def make_routes(
    bundle: Bundle,
    golden: Golden,
    job: Mapping[str, Any],
    page: Mapping[str, Path],
    external: Mapping[str, External] | None = None,
) -> Routes:
    """Returns what is served by its path below the token; the page itself has the empty path.

    Args:
        bundle: compared with its manifest just now.
        golden: recorded calls.
        job: of the page.
        page: the page's files by path.
        external: models without weights and their weights, by the model's file name; None for none.
    """
    routes = {"" if name == PAGE else name: _file(path, hash_file(path)) for name, path in page.items()}
    made = {DOCUMENT: golden.text, DATA: golden.data}
    for name, entry in job["files"].items():
        source = made.get(name, bundle.files.get(name))
        assert source is not None
        routes[entry["url"]] = Asset(source, entry["size"], kind_of(name), entry["sha256"], lasting=True)
    for name, files in (external or {}).items():
        for part, file in (("model", files.model), ("weights", files.weights)):
            url = job["files"][name]["external"][part]["url"]
            routes[url] = Asset(file.path, file.size, _OTHER, file.sha256, lasting=True)
    routes[JOB] = _bytes(JOB, json_bytes(job))
    return routes


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Returns a document as it is sent."""
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def kind_of(name: str) -> str:
    """Returns the Content-Type of a file; what is not known is bytes, which no browser runs."""
    return _TYPES.get(Path(name).suffix, _OTHER)


def _file(path: Path, sha256: str) -> Asset:
    return Asset(path, path.stat().st_size, kind_of(path.name), sha256)


def _bytes(name: str, data: bytes) -> Asset:
    return Asset(data, len(data), kind_of(name), hashlib.sha256(data).hexdigest())
