"""Certificates, and clients that do not trust them or speak something else."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from sdmobile.errors import UsageError
from sdmobile.validate.serve import session, tls
from sdmobile.validate.serve.server import Limits
from sdmobile.validate.serve.session import Network
from tests.validate.serve.site import Prepared, Served, served

_HOST = "127.0.0.1"


@pytest.fixture
def secure(ready: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server by TLS; the local network is this computer."""
    monkeypatch.setattr(session, "lan_address", lambda: _HOST)
    with served(ready, tmp_path / "results", Network(lan=True, port=0), Limits(idle_seconds=0.8)) as site:
        yield site


def _trusting(tmp_path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(tmp_path / f"data/phone-tls/{_HOST}.pem"))


def _page(site: Served, context: ssl.SSLContext) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(_HOST, site.port, timeout=10, context=context)
    connection.request("GET", site.base)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_whoever_trusts_the_certificate_gets_the_page(secure: Served, tmp_path: Path) -> None:
    assert secure.session.address.startswith(f"https://{_HOST}:")
    assert _page(secure, _trusting(tmp_path)) == (200, b"this is phone.html")


def test_another_browser_gets_nothing_and_a_person_one_line(
    secure: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        with pytest.raises(ssl.SSLCertVerificationError):
            _page(secure, ssl.create_default_context())
    time.sleep(0.2)
    assert len([line for line in secure.lines if "does not trust the certificate" in line]) == 1
    assert _page(secure, _trusting(tmp_path))[0] == 200
    assert capfd.readouterr() == ("", "")


def test_plain_http_is_told_once(secure: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises((OSError, http.client.HTTPException)):
            secure.ask("GET", secure.base)
    time.sleep(0.2)
    assert len([line for line in secure.lines if "begins with https://" in line]) == 1
    assert _page(secure, _trusting(tmp_path))[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"SSH-2.0\r\n", bytes(100)])
def test_a_handshake_that_does_not_come_is_not_waited_for(secure: Served, tmp_path: Path, sent: bytes) -> None:
    with socket.create_connection((_HOST, secure.port), timeout=5) as connection:
        connection.sendall(sent)
        assert _page(secure, _trusting(tmp_path))[0] == 200
        started = time.monotonic()
        try:
            while connection.recv(100):
                pass
        except ConnectionResetError:
            pass
        assert time.monotonic() - started < 3


def test_a_handshake_byte_by_byte_is_not_waited_for(secure: Served) -> None:
    """Every single wait would be short enough."""
    started = time.monotonic()
    with socket.create_connection((_HOST, secure.port), timeout=5) as connection, pytest.raises(OSError, match=r"\w"):
        _trickle(connection, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400))
    assert time.monotonic() - started < 5


def _trickle(connection: socket.socket, sent: bytes) -> None:
    for byte in sent:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(secure: Served, tmp_path: Path) -> None:
    context = _trusting(tmp_path)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        _page(secure, context)


def test_the_certificate_is_its_owners_and_stays_the_same(tmp_path: Path) -> None:
    file = tls.own_certificate("192.168.7.9")
    assert file.parent == tmp_path / "data/phone-tls"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.168.7.9")]
    lasts = certificate.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    assert 80 < lasts.days < 398  # phones take no longer ones
    before = file.read_bytes()
    assert tls.own_certificate("192.168.7.9").read_bytes() == before
    other = tls.own_certificate("192.168.7.10")
    assert other != file
    assert other.read_bytes() != before


@pytest.mark.parametrize("harm", ["others can read it", "damaged", "of another address", "run out", "a link"])
def test_a_certificate_that_does_not_do_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    file = tls.own_certificate(_HOST)
    before = file.read_bytes()
    if harm == "others can read it":
        file.chmod(0o644)
    elif harm == "damaged":
        file.write_bytes(before[:-100])
    elif harm == "of another address":
        file.write_bytes(tls.own_certificate("10.0.0.1").read_bytes())
    elif harm == "run out":
        monkeypatch.setattr(tls, "_FRESH_DAYS", 91)
    else:
        (tmp_path / "elsewhere.pem").write_bytes(before)
        (tmp_path / "elsewhere.pem").chmod(0o600)
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere.pem")
    made = tls.own_certificate(_HOST)
    assert made.read_bytes() != before
    tls.context_of(made)


def _split(file: Path, folder: Path) -> tuple[Path, Path]:
    """Returns certificate and key of a file with both, as files of their own."""
    key, _, certificate = file.read_text().partition("-----BEGIN CERTIFICATE-----")
    (folder / "cert.pem").write_text("-----BEGIN CERTIFICATE-----" + certificate)
    (folder / "key.pem").write_text(key)
    return folder / "cert.pem", folder / "key.pem"


def test_a_certificate_of_ones_own(ready: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "lan_address", lambda: _HOST)
    certificate, key = _split(tls.own_certificate(_HOST, tmp_path / "mine"), tmp_path)
    network = Network(lan=True, port=0, certificate=certificate, key=key)
    with served(ready, tmp_path / "results", network) as site:
        assert _page(site, ssl.create_default_context(cafile=str(certificate)))[0] == 200
    assert not (tmp_path / "data/phone-tls").exists()


def test_the_name_in_a_certificate_is_the_address(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([])
    names = x509.SubjectAlternativeName([x509.DNSName("*.example.org"), x509.DNSName("phone.example.org")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + datetime.timedelta(1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "named.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    assert tls.host_of(file, "10.0.0.7") == "phone.example.org"
    assert tls.host_of(tls.own_certificate("10.0.0.7"), "10.0.0.7") == "10.0.0.7"
    assert tls.host_of(tmp_path / "none.pem", "10.0.0.7") == "10.0.0.7"


@pytest.mark.parametrize("harm", ["missing", "no PEM", "a folder", "another key", "a password"])
def test_a_certificate_that_cannot_be_used_is_a_sentence(tmp_path: Path, harm: str) -> None:
    certificate, key = _split(tls.own_certificate(_HOST, tmp_path / "mine"), tmp_path)
    if harm == "missing":
        certificate = tmp_path / "nowhere.pem"
    elif harm == "no PEM":
        certificate.write_text("no certificate")
    elif harm == "a folder":
        certificate = tmp_path
    elif harm == "another key":
        _, key = _split(tls.own_certificate("10.0.0.1", tmp_path / "mine"), tmp_path / "mine")
    else:
        from cryptography.hazmat.primitives import serialization

        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(b"secret")
        key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    with pytest.raises(UsageError, match="--cert and --key"):
        tls.context_of(certificate, key)


def test_options_that_belong_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a key belongs to a certificate"):
        Network(lan=True, key=tmp_path)
    with pytest.raises(UsageError, match="a certificate is for --lan"):
        Network(certificate=tmp_path)
