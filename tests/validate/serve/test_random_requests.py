"""Requests changed at random: the server answers shortly or not at all, keeps nothing, and goes on."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from pathlib import Path

import pytest

from sdmobile.validate.serve.server import Limits
from tests.validate.serve.site import Prepared, run_of, served

_CASES = 400
_ANSWERS = {200, 204, 206, 304, 400, 403, 404, 411, 413, 414, 415, 416, 417, 422, 431, 505}
_PIECES = (
    b"\r\n",
    b"\0",
    b"\xff",
    b"..",
    b"%2e",
    b"/",
    b"//",
    b" ",
    b":",
    b"chunked",
    b"-1",
    b"9" * 30,
    b"HTTP/1.1",
    b"?",
)


def _changed(data: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randrange(1, 5)):
        begin = dice.randrange(len(data) + 1)
        end = min(len(data), begin + dice.choice((0, 0, 1, 2, 8, 60)))
        data = data[:begin] + dice.choice((*_PIECES, bytes([dice.randrange(256)]))) + data[end:]
    return data


def test_nothing_that_is_sent_does_harm(ready: Prepared, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(0)
    body = json.dumps(run_of(ready, picture=None)).encode()
    seen: set[int] = set()
    with served(ready, tmp_path / "results", limits=Limits(idle_seconds=0.3)) as site:
        json_head = f"HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        seeds = (
            f"GET {site.base} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
            f"GET {site.base}bundle/unet.tflite HTTP/1.1\r\nRange: bytes=3-9\r\n\r\n".encode(),
            f"HEAD {site.base}job.json HTTP/1.1\r\nIf-None-Match: x\r\n\r\n".encode(),
            f"POST {site.base}progress {json_head}".encode() + body,
            f"POST {site.base}results {json_head}".encode() + body[:-1],
        )
        for _ in range(_CASES):
            with socket.create_connection(("127.0.0.1", site.port), timeout=5) as connection:
                answer = b""
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    connection.sendall(_changed(dice.choice(seeds), dice))
                    connection.shutdown(socket.SHUT_WR)
                    while piece := connection.recv(1 << 16):
                        answer += piece
            if answer.startswith(b"HTTP/1.1 "):
                seen.add(int(answer[9:12]))
        assert site.ask("GET", site.base)[0] == 200
        assert not [line for line in site.lines if "the server met" in line]
    assert seen <= _ANSWERS
    assert {200, 404, 400} <= seen
    assert not (tmp_path / "results").exists()
    assert capfd.readouterr() == ("", "")
