"""Which address a phone can reach, and its code for a camera."""

from __future__ import annotations

import io
import ipaddress
import socket

from sdmobile.errors import ResourceError

LOOPBACK = "127.0.0.1"
# Addresses for documentation (RFC 5737): asking the system which way it would go there sends nothing.
_FAR_AWAY = ("192.0.2.1", 9)


def lan_address() -> str:
    """Returns this computer's address in the local network: the one that the system would send from.

    Raises:
        ResourceError: it has none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_FAR_AWAY)
            address = str(probe.getsockname()[0])
        except OSError:
            address = _by_interface()
    found = ipaddress.ip_address(address)
    if found.is_loopback or found.is_unspecified:
        address = _by_interface()
    return address


def _by_interface() -> str:
    """Returns the first address of an interface that is up and no loopback: a network without a way out has one."""
    import psutil

    states = psutil.net_if_stats()
    for name, entries in psutil.net_if_addrs().items():
        if not (state := states.get(name)) or not state.isup:
            continue
        for entry in entries:
            if entry.family == socket.AF_INET and not ipaddress.ip_address(entry.address).is_loopback:
                return str(entry.address)
    raise ResourceError(
        "--lan needs a network that the phone is in, too", "this computer has no address", "Use USB: leave --lan out."
    )


def terminal_code(address: str) -> str:
    """Returns an address as a QR code of half blocks, to be read off a terminal.

    Raises:
        MissingDependencyError: `segno` is not installed (by way of the import).
    """
    import segno

    stream = io.StringIO()
    segno.make(address, error="l", boost_error=False).terminal(stream, compact=True)
    return stream.getvalue()
