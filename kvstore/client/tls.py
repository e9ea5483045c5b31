"""How a connection is secured: what the caller configured, as gRPC channel credentials.

gRPC always verifies a server. Where the caller asks not to (`skip_verify`), the certificate that the server shows is
fetched first and then trusted as it is, under the first name it carries: encryption without proof of identity.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

import grpc

from kvstore.client.errors import ClientError


class TLSError(ClientError, ValueError):
    """A TLS configuration that cannot work; the message names the file or option."""


@dataclass(slots=True, frozen=True)
class TLSConfig:
    """Files are PEM, by path; empty is not given.

    ca_file: whom to trust; the system's authorities if empty. cert_file, key_file: identify this client, always
    both. server_name: expected in the server's certificate instead of the endpoint's host. skip_verify: take any
    certificate; for tests only. secure_bare: secure endpoints that are given without a scheme, too.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    skip_verify: bool = False
    secure_bare: bool = True

    def __post_init__(self) -> None:
        if bool(self.cert_file) != bool(self.key_file):
            raise TLSError(f"KeyFile and CertFile must both be present[key: {self.key_file}, cert: {self.cert_file}]")


@dataclass(slots=True, frozen=True)
class Secured:
    """Credentials and, if not empty, the name to expect in place of the endpoint's host."""

    credentials: grpc.ChannelCredentials
    server_name: str


def verified(config: TLSConfig) -> Secured:
    """Credentials that trust `ca_file`, or the system's authorities. Raises TLSError for a file that cannot be read."""
    roots = _read(config.ca_file) if config.ca_file else _system_roots()
    return Secured(_credentials(roots, config), config.server_name)


def unverified(config: TLSConfig, host: str, port: int, timeout: float) -> Secured:
    """Credentials that trust whatever the server shows now. Blocks for up to two handshakes of `timeout` seconds each.

    Raises OSError (ssl.SSLError among them) if the server cannot be asked, or shows a certificate that has expired.
    """
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    shown.check_hostname = False
    shown.verify_mode = ssl.CERT_NONE
    _identify(shown, config)
    with _handshake(shown, host, port, timeout) as connection:
        pem = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
    return Secured(_credentials(pem.encode(), config), config.server_name or _name_in(pem, config, host, port, timeout))


def _name_in(pem: str, config: TLSConfig, host: str, port: int, timeout: float) -> str:
    """The first name that the certificate is for. Only a certificate that was verified is parsed: hence once more."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(cadata=pem)
    _identify(trusting, config)
    with _handshake(trusting, host, port, timeout) as connection:
        names = (connection.getpeercert() or {}).get("subjectAltName", ())
    return next((str(name[1]) for name in names if isinstance(name, tuple)), "")


def _identify(context: ssl.SSLContext, config: TLSConfig) -> None:
    if config.cert_file:
        context.load_cert_chain(config.cert_file, config.key_file)


def _handshake(context: ssl.SSLContext, host: str, port: int, timeout: float) -> ssl.SSLSocket:
    plain = socket.create_connection((host, port), timeout)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _credentials(roots: bytes | None, config: TLSConfig) -> grpc.ChannelCredentials:
    key = _read(config.key_file) if config.key_file else None
    chain = _read(config.cert_file) if config.cert_file else None
    return grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=chain)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise TLSError(f"open {path}: {reason}") from error


def _system_roots() -> bytes | None:
    """The authorities of this machine; None leaves gRPC its built-in list."""
    bundle = ssl.get_default_verify_paths().cafile
    return _read(bundle) if bundle else None
