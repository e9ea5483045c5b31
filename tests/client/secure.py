"""Fixtures for servers that want to see certificates."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.harness import ClusterFactory, Member, wait_until


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a directory, and a certificate of its making for both ends."""

    ca: str
    cert: str
    key: str


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)

    def build(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        builder = builder.issuer_name(issuer).public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))

    def write(name: str, data: bytes) -> str:
        (directory / name).write_bytes(data)
        return str(directory / name)

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    ca = build("ca", ca_name, ca_key).add_extension(x509.BasicConstraints(True, None), True)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("member.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    leaf = build("member", ca_name, key).add_extension(names, False).add_extension(usages, False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Authority(
        write("ca.pem", ca.sign(ca_key, hashes.SHA256()).public_bytes(pem)),
        write("cert.pem", leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem)),
        write("key.pem", private),
    )


@pytest.fixture
def secure_member(make_cluster: ClusterFactory, authority: Authority) -> Member:
    """A member that wants to see a client's certificate."""
    member = make_cluster.prepare(size=1).members[0]
    url = member.client_url.replace("http:", "https:")
    member.start(
        listen_client_urls=url,
        advertise_client_urls=url,
        cert_file=authority.cert,
        key_file=authority.key,
        trusted_ca_file=authority.ca,
        client_cert_auth="true",
    )
    wait_until(lambda: not member.running or listens(member), "the member listens or has given up")
    if not member.running and "is not supported yet" in member.log_tail():
        pytest.skip(f"this server has no TLS: {member.log_tail().strip()}")
    return member


def listens(member: Member) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", member.client_port)) == 0
