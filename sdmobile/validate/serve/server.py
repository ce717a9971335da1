"""The sockets: one address, TLS or none, few threads, and patience that ends.

A request reaches `handler.py` once its connection is set up. What a stranger can do is to open connections: each waits
for `idle_seconds` at most, however slowly bytes come, and one address has `threads_each` of them.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from sdmobile.errors import ResourceError

if TYPE_CHECKING:
    from sdmobile.validate.serve.inbox import Inbox
    from sdmobile.validate.serve.routes import Routes

TOKEN_BYTES = 12  # 96 bits


@dataclass(frozen=True)
class Limits:
    """How much is taken from a connection.

    Args:
        idle_seconds: for a handshake, for a request's head, for a piece of an answer.
        slowest: bytes per second that the body of a request must have beyond that.
        progress_bytes, results_bytes: of the two bodies.
        threads: connections at once.
        threads_each: those of one address; a browser opens six.
    """

    idle_seconds: float = 30.0
    slowest: float = 64e3
    progress_bytes: int = 64 << 10
    results_bytes: int = 32 << 20
    threads: int = 48
    threads_each: int = 24


@dataclass(frozen=True)
class Site:
    """What a server knows.

    Args:
        token: what every path begins with.
        routes: what is served.
        inbox: takes what is sent.
        tell: gets lines for people.
        limits: of connections.
        tls: None for plain HTTP.
    """

    token: str
    routes: Routes
    inbox: Inbox
    tell: Callable[[str], None]
    limits: Limits = Limits()
    tls: ssl.SSLContext | None = None


def new_token() -> str:
    """Returns a token that nobody guesses, 96 random bits in the letters of an address."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class PhoneServer(ThreadingHTTPServer):
    """Listens on one address.

    Args:
        address: IP address and port; port 0 for a free one.
        site: what it serves.

    Raises:
        OSError: the port is taken, or not this user's to take.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name == "posix"  # elsewhere that takes a port away from who has it

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        from sdmobile.validate.serve.handler import Handler

        self.site = site
        self._slots = threading.BoundedSemaphore(site.limits.threads)
        self._each: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._told: set[str] = set()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection a thread, or closes it if there are too many."""
        host = str(client_address[0])
        with self._lock:
            free = self._each[host] < self.site.limits.threads_each and self._slots.acquire(blocking=False)
            if free:
                self._each[host] += 1
        if free:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shakes hands where TLS is spoken, then serves the connection's requests."""
        connection = request
        try:
            request.settimeout(self.site.limits.idle_seconds)  # of a handshake, too: Python counts all of it
            if self.site.tls is not None:
                connection = self.site.tls.wrap_socket(request, server_side=True)
            self.finish_request(connection, client_address)
        except ssl.SSLError as error:  # TLS 1.3 tells it in the first read, earlier versions in the handshake
            self._explain(error.reason or "")
        except OSError:
            pass  # the other side has gone
        except Exception as error:
            self._once(f"the server met {type(error).__name__}: {error}")
        finally:
            self.shutdown_request(connection)
            with self._lock:
                host = str(client_address[0])
                self._each[host] -= 1
                if not self._each[host]:
                    del self._each[host]
                self._slots.release()

    def _explain(self, reason: str) -> None:
        """Tells what a broken conversation by TLS means for a person, where it means something."""
        if reason == "HTTP_REQUEST":
            self._once("a browser asked by http:// ; the address begins with https://")
        elif "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            self._once("a browser does not trust the certificate: accept it there once, or give --cert and --key")

    def _once(self, text: str) -> None:
        """Tells something the first time only: a browser tries again and again."""
        with self._lock:
            if text in self._told:
                return
            self._told.add(text)
        self.site.tell(f"note: {text}")

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection; one that is closed already does no harm."""
        with contextlib.suppress(OSError, ValueError):
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints no traceback."""


class PatientReader(io.RawIOBase):
    """Reads from a connection until a moment that is set, however slowly the bytes come.

    Args:
        connection: a socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end = time.monotonic()

    def wait_for(self, seconds: float) -> None:
        """Sets how long from now what comes next may take in all."""
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads what has come; raises TimeoutError once the moment has passed."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


@contextlib.contextmanager
def serving(host: str, port: int, site: Site) -> Iterator[PhoneServer]:
    """Serves until the block ends.

    Args:
        host: IP address to listen on.
        port: 0 for a free one.
        site: what is served.

    Raises:
        ResourceError: the port cannot be had.
    """
    try:
        server = PhoneServer((host, port), site)
    except (OSError, OverflowError) as error:
        raise ResourceError(
            "the port must be free",
            f"{host}:{port}: {getattr(error, 'strerror', None) or error}",
            "Choose another --port",
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
