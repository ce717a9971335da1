"""What a request gets: what is on the list, with its headers, and nothing else whatever it asks for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sdmobile.validate.serve.handler import HEADERS
from tests.validate.serve.site import Prepared, Served, served

_ASKED_FOR = (
    "..",
    "../",
    "../../etc/passwd",
    "bundle/../../../secret.txt",
    "bundle/%2e%2e/%2e%2e/secret.txt",
    "bundle/..%2f..%2fsecret.txt",
    "bundle/..%5csecret.txt",
    "bundle\\..\\secret.txt",
    "bundle//unet.tflite",
    "bundle/./unet.tflite",
    "bundle/unet.tflite/",
    "bundle/unet.tflite%00",
    "bundle/UNET.tflite",
    "bundle/manifest.json",
    "bundle/README.md",
    "bundle/golden.json",
    "bundle/",
    "bundle",
    "wasm",
    "wasm/",
    "index.html",
    "sources.sha256",
    "/etc/passwd",
    "file:///etc/passwd",
    "progress",
    "results",
    "job.json/",
    ";job.json",
    "job.json%20",
)


def test_the_page_is_served_with_what_protects_it(site: Served) -> None:
    status, headers, body = site.ask("GET", site.base)
    assert (status, body) == (200, b"this is phone.html")
    assert headers["content-type"] == "text/html; charset=utf-8"
    for name, value in HEADERS.items():
        assert headers[name.lower()] == value
    assert "server" not in headers
    assert "wasm-unsafe-eval" in headers["content-security-policy"]


def test_everything_on_the_list_comes_whole_and_with_its_type(site: Served) -> None:
    expected = {"phone.js": "text/javascript", "wasm/litert.wasm": "application/wasm", "job.json": "application/json"}
    expected |= {"bundle/unet.tflite": "application/octet-stream", "bundle/tokenizer/vocab.json": "application/json"}
    for name, kind in expected.items():
        status, headers, body = site.ask("GET", site.base + name)
        assert status == 200, name
        assert headers["content-type"].split(";")[0] == kind
        assert len(body) == int(headers["content-length"])
    assert json.loads(site.ask("GET", site.base + "job.json")[2]) == site.prepared.job
    listed = site.prepared.job["files"]
    assert {f"{entry['url']}" for entry in listed.values()} < set(site.prepared.routes)
    for entry in listed.values():
        body = site.ask("GET", site.base + entry["url"])[2]
        assert len(body) == entry["size"]


@pytest.mark.parametrize("name", _ASKED_FOR)
def test_nothing_else_is_found(site: Served, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("the user's own")
    for path in (site.base + name, f"/{name}", name if name.startswith("/") else f"//{name}"):
        status, headers, body = site.ask("GET", path)
        assert (status, body) == (404, b""), path
        assert set(headers) <= {"content-length", "connection"}


def test_a_wrong_token_is_like_a_wrong_path(site: Served) -> None:
    token = site.base.strip("/")
    assert len(token) == 16
    wrong = ("", token[:-1], f"{token}x", token.swapcase(), "é" * 8, "a" * 5000, f"{token}%2f", f" {token}")
    for one in wrong:
        path = f"/{one}/job.json".encode().decode("latin-1")
        if not path.isascii() or " " in path:  # http.client sends no such path
            continue
        assert site.ask("GET", path)[0] == 404
    for path in ("/", f"/{token}", f"/x/{token}/job.json", f"{token}/job.json", "*"):
        assert site.ask("GET", path)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_other_methods_find_nothing(site: Served, method: str) -> None:
    status, headers, body = site.ask(method, f"{site.base}job.json", b"{}")
    assert (status, body) == (404, b"")
    assert set(headers) <= {"content-length", "connection"}


def test_a_head_has_no_body(site: Served) -> None:
    _, whole, _ = site.ask("GET", f"{site.base}bundle/unet.tflite")
    status, headers, body = site.ask("HEAD", f"{site.base}bundle/unet.tflite")
    assert (status, headers, body) == (200, whole, b"")


@pytest.mark.parametrize(
    ("asked", "status", "begin", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=5-", 206, 5, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=3-100000000", 206, 3, None),
        ("bytes=-100000000", 206, 0, None),
        ("bytes=0-1,3-4", 200, 0, None),
        ("lines=1-2", 200, 0, None),
        ("bytes=-", 200, 0, None),
        ("bytes=9-5", 416, 0, 0),
        ("bytes=100000000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
def test_a_part_of_a_file(site: Served, asked: str, status: int, begin: int, end: int | None) -> None:
    whole = site.prepared.bundle.files["unet.tflite"].read_bytes()
    found = site.ask("GET", f"{site.base}bundle/unet.tflite", headers={"Range": asked})
    assert (found[0], found[2]) == (status, whole[begin:end])
    if status == 206:
        first = begin % len(whole)
        assert found[1]["content-range"] == f"bytes {first}-{first + len(found[2]) - 1}/{len(whole)}"


def test_what_is_asked_for_by_its_hash_may_be_kept(site: Served) -> None:
    entry = site.prepared.job["files"]["unet.tflite"]
    path = site.base + entry["url"]
    assert "immutable" in site.ask("GET", f"{path}?{entry['sha256']}")[1]["cache-control"]
    for query in ("", "?", f"?{'0' * 64}", f"?{entry['sha256']}x"):
        assert site.ask("GET", path + query)[1]["cache-control"] == "no-cache"
    assert site.ask("GET", f"{site.base}phone.js?{entry['sha256']}")[1]["cache-control"] == "no-cache"
    status, headers, body = site.ask("GET", path, headers={"If-None-Match": f'"{entry["sha256"]}"'})
    assert (status, body, headers["etag"]) == (304, b"", f'"{entry["sha256"]}"')


@pytest.mark.parametrize("harm", ["longer", "gone", "a link", "a folder"])
def test_a_file_that_was_changed_meanwhile_is_not_served(ready: Prepared, tmp_path: Path, harm: str) -> None:
    (tmp_path / "secret.txt").write_text("the user's own")
    file = ready.bundle.files["unet.tflite"]
    with served(ready, tmp_path / "results") as site:
        size = file.stat().st_size
        if harm == "longer":
            file.write_bytes(bytes(size + 1))
        else:
            file.unlink()
        if harm == "a link":
            (tmp_path / "target").write_bytes(bytes(size))
            file.symlink_to(tmp_path / "target")
        if harm == "a folder":
            os.mkdir(file)
        status, _, body = site.ask("GET", f"{site.base}bundle/unet.tflite")
        assert (status, body) == (410, b"")
        assert [line for line in site.lines if line.startswith("warning: ") and "unet.tflite" in line]
        assert site.ask("GET", site.base)[0] == 200
