"""A certificate for one address of this computer, made once and kept; or the user's own."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from sdmobile.basics.files import data_folder, write_whole
from sdmobile.errors import UsageError

_DAYS = 90
_FRESH_DAYS = 1
"""A kept certificate must hold so much longer."""


def own_certificate(address: str, folder: Path | None = None) -> Path:
    """Returns a file with private key and self-signed certificate of an address, for its owner's eyes only.

    It is the same one until it runs out, so that a person accepts it once.

    Args:
        address: IP address.
        folder: where such files are kept; None for the user's data folder.

    Raises:
        MissingDependencyError: `cryptography` is not installed (by way of the import).
        OutputError: the folder cannot be written.
    """
    folder = data_folder("phone-tls") if folder is None else folder
    file = folder / f"{address.replace(':', '-')}.pem"
    if _is_fresh(file, address):
        return file
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with _private():
        write_whole(file, _made(address))
    file.chmod(0o600)
    return file


@contextlib.contextmanager
def _private():
    """Lets nobody else read what is written meanwhile, not even before its mode is set."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _is_fresh(file: Path, address: str) -> bool:
    """Whether a kept certificate is of an address, private and valid for a while."""
    from cryptography import x509

    try:
        if file.is_symlink() or file.stat().st_mode & 0o077:
            return False
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        known = names.get_values_for_type(x509.IPAddress)
        ends = certificate.not_valid_after_utc
        context_of(file)
    except (OSError, ValueError, x509.ExtensionNotFound, UsageError):
        return False
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=_FRESH_DAYS)
    return ipaddress.ip_address(address) in known and ends > soon


def _made(address: str) -> bytes:
    """Returns key and certificate in PEM: ECDSA on P-256, which every phone's browser knows."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sdmobile serve on {address}")])
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)  # signatures alone
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a phone's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + certificate.public_bytes(serialization.Encoding.PEM)


def context_of(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """Returns the settings of a server with a certificate.

    Args:
        certificate: PEM file with the certificate and those that vouch for it.
        key: PEM file with its private key, None if that is in the same file.

    Raises:
        UsageError: a file is missing, they do not belong together, or the key has a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # or a password would be asked for
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        files = f"{certificate} and {key}" if key is not None else str(certificate)
        raise UsageError(
            "--cert and --key must be a certificate and its private key, in PEM and without a password",
            f"{files}: {reason}",
        ) from error
    return context


def host_of(certificate: Path, address: str) -> str:
    """Returns the name by which a browser will accept a certificate: the address, or the first plain name in it.

    Args:
        certificate: PEM file.
        address: that is served; returned, too, where `cryptography` is not there to read the names.
    """
    try:
        from cryptography import x509
    except ModuleNotFoundError:
        return address
    try:
        names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        if ipaddress.ip_address(address) in names.value.get_values_for_type(x509.IPAddress):
            return address
        plain = [name for name in names.value.get_values_for_type(x509.DNSName) if "*" not in name]
    except (OSError, ValueError, x509.ExtensionNotFound):
        return address
    return plain[0] if plain else address
