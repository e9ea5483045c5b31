"""How endpoints are written."""

from __future__ import annotations

import pytest

from kvstore.client import Client, errors
from kvstore.client.endpoint import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:2379", Address("10.0.0.1:2379", "10.0.0.1:2379", False, "10.0.0.1", 2379)),
        ("http://h:1", Address("http://h:1", "h:1", False, "h", 1)),
        ("https://h:1/", Address("https://h:1/", "h:1", True, "h", 1)),
        ("http://[::1]:1", Address("http://[::1]:1", "[::1]:1", False, "::1", 1)),
        ("unix:///run/kv.sock", Address("unix:///run/kv.sock", "unix:/run/kv.sock", False)),
        ("unixs://kv.sock", Address("unixs://kv.sock", "unix:kv.sock", True)),
    ],
)
def test_an_endpoint_is_understood(text: str, address: Address) -> None:
    assert parse_address(text, secure_by_default=False) == address


def test_a_bare_address_is_secure_if_tls_was_configured_and_a_scheme_overrules_that() -> None:
    assert parse_address("h:1", secure_by_default=True).secure
    assert not parse_address("http://h:1", secure_by_default=True).secure


@pytest.mark.parametrize("text", ["ftp://h:1", "h", "http://h", "http://:1", "h:port"])
def test_an_endpoint_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"endpoint|[Pp]ort"):
        parse_address(text, secure_by_default=False)


async def test_a_client_needs_an_endpoint() -> None:
    with pytest.raises(errors.NoEndpoints):
        Client([])
