"""Who is at the other end of a transport: its address as gRPC writes it, and what TLS knows of it."""

import asyncio
import socket
from collections.abc import Mapping


def peer_of(transport: asyncio.BaseTransport) -> str:
    """ipv4:address:port, ipv6:[address]:port, unix:path, or "" if the transport cannot tell."""
    address = transport.get_extra_info("peername")
    sock = transport.get_extra_info("socket")
    family = getattr(sock, "family", None)
    if family == socket.AF_UNIX:
        local = transport.get_extra_info("sockname") or b""
        path = local.decode(errors="replace") if isinstance(local, bytes) else local
        return f"unix:{path}"
    if not isinstance(address, tuple):
        return ""
    host, port = address[0], address[1]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def auth_context_of(transport: asyncio.BaseTransport) -> Mapping[str, list[bytes]]:
    """What TLS knows of the peer, under the names that grpcio uses; empty on a plain connection.

    The identity of a client certificate is there only if the TLS context verified one.
    """
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return {}
    context = {"transport_security_type": [b"ssl"]}
    certificate = connection.getpeercert()
    if not certificate:
        return context
    fields = [field for name in certificate.get("subject", ()) for field in name]
    common_names = [value.encode() for key, value in fields if key == "commonName"]
    organizations = [value.encode() for key, value in fields if key == "organizationName"]
    alternatives = [value.encode() for _, value in certificate.get("subjectAltName", ())]
    context["x509_subject"] = [",".join(f"{key}={value}" for key, value in fields).encode()]
    if common_names:
        context["x509_common_name"] = common_names
    if organizations:
        context["x509_organization"] = organizations
    if alternatives:
        context["x509_subject_alternative_name"] = alternatives
    return context
