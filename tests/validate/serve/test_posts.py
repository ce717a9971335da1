"""The two addresses that take something: by type, length, origin and schema, and what becomes of it."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.validate.serve import inbox
from tests.validate.serve.site import Prepared, Served, pixels_of, png_of, prepared, run_of, served

_JSON = {"Content-Type": "application/json"}
_PROGRESS = {"sequence": 3, "phase": "compiling", "component": "unet", "detail": "part 1", "heap": 5 << 20}


def _raw(site: Served, head: str, body: bytes = b"") -> bytes:
    """Returns what comes back for a request that no client library would send."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        return answer


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_phase_is_told_before_it_starts(site: Served) -> None:
    assert site.post("progress", _PROGRESS) == (204, None)
    assert site.lines[-1] == "phone: compiling unet (part 1; runtime's memory 5.0 MiB)"
    assert site.session.last_words is not None
    assert "compiling unet" in site.session.last_words


def test_a_good_run_is_kept_as_it_came(site: Served, tmp_path: Path) -> None:
    document = run_of(site.prepared)
    sent = json.dumps(document).encode()
    status, answer = site.post("results", sent)
    assert (status, answer["verdict"], answer["faults"]) == (201, "passed", [])
    kept = tmp_path / "results" / answer["file"]
    assert kept.read_bytes() == sent
    assert kept.with_suffix(".png").read_bytes() == base64.b64decode(document["picture"]["png_base64"])
    assert site.session.last_words is None
    assert any("worst of 4 comparisons 120.0 dB; median of 2: 10.0 ms" in line for line in site.lines)
    site.session.close("test")
    assert site.session.exit_code == 0
    assert site.session.to_json(site.prepared.job)["passed"] is True


def _first_component(document: dict[str, Any], **changes: Any) -> None:
    document["components"][0].update(changes)


_FAULTS = {
    "the page says: no": lambda run: run.update(verdict="failed", reason="no"),
    "fell back to wasm": lambda run: _first_component(run, used="wasm"),
    "given nothing to compute": lambda run: _first_component(run, dispatches=0),
    "text_encoder: out of memory": lambda run: _first_component(run, error="out of memory"),
    "text_encoder did not run": lambda run: run["components"].pop(0),
    "34.9 dB, at least 35 is asked": lambda run: run["checks"][0].update(psnr_db=34.9),
    "not finite": lambda run: run["checks"][-1].update(psnr_db=None),
    "only the first run is right": lambda run: [c.update(psnr_db=3.0) for c in run["checks"] if c["run"] == 1],
    "1 of 2 runs were timed": lambda run: _first_component(run, seconds=[0.1]),
    "of call 2 was not compared": lambda run: run.update(checks=[c for c in run["checks"] if c["label"] != "call 2"]),
    "no picture was drawn": lambda run: run.update(picture=None),
    "hash is not that of its pixels": lambda run: run["picture"].update(sha256="1" * 64),
}


@pytest.mark.parametrize("words", _FAULTS)
def test_the_verdict_is_made_here(site: Served, words: str) -> None:
    document = run_of(site.prepared)
    _FAULTS[words](document)
    status, answer = site.post("results", document)
    assert (status, answer["verdict"]) == (201, "failed")
    assert any(words in fault for fault in answer["faults"]), answer["faults"]
    site.session.close("test")
    assert site.session.exit_code == 3


def test_another_picture_is_found_by_its_pixels(site: Served) -> None:
    """The page may say what it likes about it."""
    import hashlib

    other = pixels_of(2)
    document = run_of(site.prepared)
    digest = hashlib.sha256(other.tobytes()).hexdigest()
    document["picture"].update(sha256=digest, png_base64=base64.b64encode(png_of(other)).decode())
    _, answer = site.post("results", document)
    assert len(answer["faults"]) == 1
    assert answer["faults"][0].startswith("the picture has ")


def test_a_picture_nearly_right_passes(site: Served) -> None:
    import hashlib

    pixels = site.prepared.golden.pixels()
    near = np.where(pixels < 255, pixels + 1, pixels).astype(np.uint8)
    document = run_of(site.prepared)
    digest = hashlib.sha256(near.tobytes()).hexdigest()
    document["picture"].update(sha256=digest, png_base64=base64.b64encode(png_of(near)).decode())
    assert site.post("results", document)[1]["verdict"] == "passed"


def test_one_at_a_time_draws_no_picture(site: Served) -> None:
    assert site.post("results", run_of(site.prepared, picture=None, way="one at a time"))[1]["verdict"] == "passed"


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


_NO_PROGRESS: dict[str, Any] = {
    "not JSON": b"compiling",
    "nothing": b"",
    "not UTF-8": b'{"sequence": 1, "phase": "\xff"}',
    "NaN": b'{"sequence": 1, "phase": "x", "heap": NaN}',
    "infinite": b'{"sequence": 1e999, "phase": "x"}',
    "deep": _nested(10_000),
    "a key twice": b'{"sequence": 1, "sequence": 2, "phase": "x"}',
    "a list": [],
    "text for a number": {**_PROGRESS, "sequence": "3"},
    "a fraction": {**_PROGRESS, "sequence": 1.5},
    "below zero": {**_PROGRESS, "heap": -1},
    "too large a number": b'{"sequence": 1' + b"0" * 400 + b', "phase": "x"}',
    "an unknown key": {**_PROGRESS, "more": 1},
    "no phase": {"sequence": 1},
    "a long phase": {**_PROGRESS, "phase": "x" * 65},
    "a path for a component": {**_PROGRESS, "component": "../x"},
    "what moves the cursor": {**_PROGRESS, "detail": "\x1b[2J"},
}


@pytest.mark.parametrize("harm", _NO_PROGRESS)
def test_a_phase_keeps_to_its_schema(site: Served, harm: str) -> None:
    before = list(site.lines)
    status, answer = site.post("progress", _NO_PROGRESS[harm])
    assert status == 422
    assert set(answer) == {"error"}
    assert site.lines == before


def test_text_that_turns_the_direction_of_reading_is_not_printed(site: Served) -> None:
    assert site.post("progress", {**_PROGRESS, "detail": "a\u202eb\u2066c\td"})[0] == 204
    assert site.lines[-1] == "phone: compiling unet (a b c d; runtime's memory 5.0 MiB)"


def _bad_picture(data: bytes) -> Any:
    return lambda run: run["picture"].update(png_base64=base64.b64encode(data).decode())


_NO_RESULT: dict[str, Any] = {
    "another job": lambda run: run.update(job="0" * 16),
    "another bundle": lambda run: run.update(bundle_sha256="0" * 64),
    "another precision": lambda run: run.update(precision="float16"),
    "an unknown key": lambda run: run.update(more=1),
    "another kind": lambda run: run.update(kind="sdmobile-gpu-check"),
    "a component twice": lambda run: run["components"].append(run["components"][0]),
    "no PNG": _bad_picture(b"GIF89a"),
    "a PNG's beginning": _bad_picture(png_of(pixels_of())[:40]),
    "a PNG of another size": _bad_picture(png_of(np.zeros((5, 5, 3), np.uint8))),
    "no base64": lambda run: run["picture"].update(png_base64="ü"),
}


@pytest.mark.parametrize("harm", _NO_RESULT)
def test_a_result_keeps_to_its_schema(site: Served, tmp_path: Path, harm: str) -> None:
    document = run_of(site.prepared)
    _NO_RESULT[harm](document)
    status, answer = site.post("results", document)
    assert (status, set(answer)) == (422, {"error"})
    assert not (tmp_path / "results").exists()
    assert site.session.inbox.receipts == []


@pytest.mark.parametrize("body", [b"NaN", _nested(100_000), b'{"kind": "sdmobile-phone-run", "x": Infinity}', b"[]"])
def test_no_result_at_all(site: Served, body: bytes) -> None:
    assert site.post("results", body)[0] == 422


def test_a_picture_that_nobody_asked_for(bundle: Path, tmp_path: Path) -> None:
    from sdmobile.validate.serve.job import JobOptions

    ready = prepared(bundle, JobOptions(("unet",), runs=2))
    assert ready.job["picture"] is None
    with served(ready, tmp_path / "results") as site:
        assert site.post("results", run_of(ready))[1]["verdict"] == "passed"
        sent = {"sha256": "0" * 64, "psnr_db": 1.0, "passed": True, "png_base64": "iVBORw0KGgo=", "total_seconds": 1.0}
        assert site.post("results", run_of(ready, picture=sent))[0] == 422


def test_the_disk_is_not_filled(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST_RESULTS", 2)
    assert [site.post("results", run_of(site.prepared))[0] for _ in range(3)] == [201, 201, 422]


def test_the_terminal_is_not_filled(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST_MESSAGES", 2)
    assert [site.post("progress", _PROGRESS)[0] for _ in range(3)] == [204, 204, 422]
    assert site.post("results", run_of(site.prepared))[0] == 201


def test_a_result_that_cannot_be_kept_is_said(ready: Prepared, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    with served(ready, tmp_path / "results") as site:
        assert site.post("results", run_of(ready))[0] == 507
        assert any(line.startswith("warning: a result was not kept") for line in site.lines)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 204),
        ("application/json; charset=utf-8", 204),
        ("APPLICATION/JSON", 204),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 415),
        ("application/jsonx", 415),
        ("", 415),
    ],
)
def test_only_json_is_taken(site: Served, kind: str, status: int) -> None:
    """A page of another site can send the three others without asking, and this one not."""
    body = json.dumps(_PROGRESS).encode()
    assert site.ask("POST", f"{site.base}progress", body, {"Content-Type": kind})[0] == status


def test_no_type_at_all(site: Served) -> None:
    assert _status(_raw(site, f"POST {site.base}progress HTTP/1.1\nContent-Length: 2", b"{}")) == 415


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://127.0.0.1", "http://127.0.0.1:1"])
def test_another_sites_page_sends_nothing(site: Served, origin: str) -> None:
    body = json.dumps(_PROGRESS).encode()
    assert site.ask("POST", f"{site.base}progress", body, {**_JSON, "Origin": origin})[0] == 403
    own = f"http://127.0.0.1:{site.port}"
    assert site.ask("POST", f"{site.base}progress", body, {**_JSON, "Origin": own})[0] == 204


@pytest.mark.parametrize("name", ["", "job.json", "phone.js", "result", "results/", "progress?x", "RESULTS"])
def test_other_addresses_take_nothing(site: Served, name: str) -> None:
    status, _, body = site.ask("POST", site.base + name, b"{}", _JSON)
    assert (status, body) == (404, b"")
    assert site.ask("POST", f"/{name or 'results'}", b"{}", _JSON)[0] == 404


@pytest.mark.parametrize(
    ("name", "head", "status"),
    [
        ("results", "Content-Length: 1073741824", 413),
        ("results", f"Content-Length: {(32 << 20) + 1}", 413),
        ("progress", f"Content-Length: {(64 << 10) + 1}", 413),
        ("results", "Content-Length: 99999999999999999999999999", 400),
        ("results", "Content-Length: -1", 400),
        ("results", "Content-Length: +2", 400),
        ("results", "Content-Length: 0x10", 400),
        ("results", "Content-Length: 2\nContent-Length: 3", 400),
        ("results", "Transfer-Encoding: chunked", 411),
        ("results", "Transfer-Encoding: chunked\nContent-Length: 2", 411),
        ("results", "X: y", 411),
        ("results", "Expect: 100-continue\nContent-Length: 1073741824", 413),
        ("nowhere", "Expect: 100-continue\nContent-Length: 2", 404),
    ],
)
def test_a_body_is_refused_by_its_head(site: Served, name: str, head: str, status: int) -> None:
    whole = f"POST {site.base}{name} HTTP/1.1\nHost: x\nContent-Type: application/json\n{head}"
    answer = _raw(site, whole, b"2\r\n{}\r\n0\r\n\r\n")
    assert _status(answer) == status
    assert answer.count(b"HTTP/1.1") == 1  # what follows is not taken for another request
    assert answer.endswith(b"\r\n\r\n")


def test_a_body_that_is_asked_for_first_comes(site: Served) -> None:
    body = json.dumps(_PROGRESS).encode()
    head = f"POST {site.base}progress HTTP/1.1\nHost: x\nContent-Type: application/json\nConnection: close\n"
    answer = _raw(site, f"{head}Expect: 100-continue\nContent-Length: {len(body)}", body)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 ")


def test_a_body_that_ends_early_is_nothing(site: Served, tmp_path: Path) -> None:
    whole = f"POST {site.base}results HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 500"
    assert _raw(site, whole, b'{"kind":') == b""
    assert not (tmp_path / "results").exists()


def test_a_large_body_is_answered_before_the_connection_closes(site: Served) -> None:
    """A browser that is still sending would else see a broken connection instead of the number."""
    status, _, _ = site.ask("POST", f"{site.base}results", bytes((32 << 20) + 1), _JSON)
    assert status == 413
