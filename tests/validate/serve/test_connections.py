"""Connections that come slowly, in numbers, or with what is no HTTP: each ends, and the others are served meanwhile."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdmobile.errors import EXIT_RESOURCES, ResourceError
from sdmobile.validate.serve.server import Limits
from sdmobile.validate.serve.session import Network, phone_session
from tests.validate.serve.site import Prepared, Served, served

_SHORT = Limits(idle_seconds=0.6, slowest=1e9, threads=6, threads_each=4)


@pytest.fixture
def hasty(ready: Prepared, tmp_path: Path) -> Iterator[Served]:
    with served(ready, tmp_path / "results", limits=_SHORT) as site:
        yield site


def _open(site: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port), timeout=10)


def _seconds_until_closed(connection: socket.socket, drop: bytes = b"") -> float:
    """Sends a byte now and then; returns when the other side had enough."""
    started = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - started < 8:
        try:
            if drop:
                connection.sendall(drop)
            if connection.recv(1 << 16) == b"":
                return time.monotonic() - started
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - started
    raise AssertionError("the connection stayed open")


@pytest.mark.parametrize("begin", [b"", b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\nContent-Le"])
def test_a_head_that_comes_slowly_is_not_waited_for(hasty: Served, begin: bytes) -> None:
    """Slow loris: one more byte, always just in time."""
    with _open(hasty) as connection:
        connection.sendall(begin)
        assert hasty.ask("GET", hasty.base)[0] == 200
        assert _seconds_until_closed(connection, b"X" if begin else b"") < 3
    assert hasty.ask("GET", hasty.base)[0] == 200


def test_a_body_that_comes_slowly_is_not_waited_for(hasty: Served, tmp_path: Path) -> None:
    head = f"POST {hasty.base}results HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    with _open(hasty) as connection:
        connection.sendall(head.encode())
        assert _seconds_until_closed(connection, b" ") < 3
    assert not (tmp_path / "results").exists()


def test_one_address_has_so_many_connections_and_gets_them_back(ready: Prepared, tmp_path: Path) -> None:
    with served(ready, tmp_path / "results", limits=Limits(idle_seconds=20, threads=6, threads_each=4)) as site:
        held = [_open(site) for _ in range(4)]
        time.sleep(0.2)
        with _open(site) as more:
            more.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert more.recv(1) == b""
        for connection in held:
            connection.close()
        time.sleep(0.3)
        assert site.ask("GET", site.base)[0] == 200


def test_all_together_have_so_many(ready: Prepared, tmp_path: Path) -> None:
    with served(ready, tmp_path / "results", limits=Limits(idle_seconds=20, threads=2, threads_each=4)) as site:
        with _open(site), _open(site), _open(site) as more:
            more.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert more.recv(1) == b""
        time.sleep(0.3)
        assert site.ask("GET", site.base)[0] == 200


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),  # TLS to a server without
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1 extra\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"\r\n\r\n",
        b"SSH-2.0-x\r\n",
    ],
)
def test_noise_is_answered_shortly_or_not_at_all(
    hasty: Served, noise: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with _open(hasty) as connection:
        connection.sendall(noise)
        connection.settimeout(5)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    assert len(answer) < 200
    assert b"<" not in answer
    assert hasty.ask("GET", hasty.base)[0] == 200
    assert capfd.readouterr() == ("", "")
    assert not [line for line in hasty.lines if "met" in line]


def test_the_oldest_protocol_gets_no_page(hasty: Served) -> None:
    with _open(hasty) as connection:
        connection.sendall(b"GET /\r\n")
        connection.settimeout(5)
        assert connection.recv(1 << 16) == b""


def test_several_requests_on_one_connection(hasty: Served) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", hasty.port, timeout=5)
    for _ in range(3):
        connection.request("GET", f"{hasty.base}phone.js")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"this is phone.js")
    connection.close()


def test_a_reader_that_leaves_does_no_harm(hasty: Served, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with _open(hasty) as connection:
            connection.sendall(f"GET {hasty.base}bundle/unet.tflite HTTP/1.1\r\n\r\n".encode())
    time.sleep(0.2)
    assert hasty.ask("GET", hasty.base)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_it_listens_on_one_address_alone(site: Served) -> None:
    from sdmobile.validate.serve.address import lan_address

    assert site.session.address.startswith("http://127.0.0.1:")
    try:
        other = lan_address()
    except ResourceError:
        pytest.skip("this computer is in no network")
    with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
        socket.create_connection((other, site.port), timeout=2)


def test_a_port_that_is_taken_is_a_sentence(ready: Prepared, site: Served, tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=f"the port must be free: 127.0.0.1:{site.port}") as caught,
        phone_session(ready, Network(port=site.port), tmp_path, lambda _: None),
    ):
        pass
    assert caught.value.exit_code == EXIT_RESOURCES
