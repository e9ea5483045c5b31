"""Metadata, messages and timeouts as they stand in HTTP/2 header fields.

Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md). Knows header fields as pairs of bytes; not who sends them.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable

from kvstore.rpc.status import Metadata

Headers = tuple[tuple[bytes, bytes], ...]

_KEY = re.compile(r"[0-9a-z_.\-]+\Z")
_VALUE = re.compile(r"[\x20-\x7e]*\Z")
# What gRPC itself says in header fields; the rest is the application's. user-agent is shown to servicers.
_RESERVED = frozenset(
    (b"content-type", b"te", b"host", b"connection", b"grpc-timeout", b"grpc-encoding", b"grpc-message")
)
_RESERVED_MORE = frozenset((b"grpc-accept-encoding", b"grpc-message-type", b"grpc-status", b"accept-encoding"))
_UNSAFE = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")

# Seconds in each unit of grpc-timeout.
_UNITS = {0x48: 3600.0, 0x4D: 60.0, 0x53: 1.0, 0x6D: 1e-3, 0x75: 1e-6, 0x6E: 1e-9}
_MAX_TIMEOUT_DIGITS = 8


def encode_metadata(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Turn metadata into header fields.

    Raises ValueError for a key or a value that may not stand in a header field.
    """
    fields = []
    for key, value in metadata:
        key = key.lower()
        if not _KEY.match(key) or key.startswith("grpc-"):
            raise ValueError(f"not a metadata key: {key!r}")
        if key.endswith("-bin"):
            raw = value.encode() if isinstance(value, str) else value
            fields.append((key.encode(), b64encode(raw).rstrip(b"=")))
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not _VALUE.match(text):
            raise ValueError(f"metadata value of {key!r} has characters outside printable ASCII")
        fields.append((key.encode(), text.encode()))
    return fields


def decode_metadata(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str | bytes], ...]:
    """The application's metadata among header fields, in order; a repeated key stays repeated.

    A "-bin" value that is not base64 is left out: no handler could make use of it.
    """
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name[:1] == b":" or name in _RESERVED:
            continue
        key = name.decode("latin-1")
        if not key.endswith("-bin"):
            metadata.append((key, value.decode("latin-1")))
            continue
        for part in value.split(b","):
            decoded = _decode_base64(part.strip())
            if decoded is not None:
                metadata.append((key, decoded))
    return tuple(metadata)


def _decode_base64(value: bytes) -> bytes | None:
    try:
        return b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (Base64Error, ValueError):
        return None


def encode_message(message: str) -> bytes:
    """Percent-encode a grpc-message: every byte of its UTF-8 outside printable ASCII, and the percent sign."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], message.encode("utf-8", "replace"))


def decode_message(value: bytes) -> str:
    """Read a grpc-message; what is not valid percent-encoding or UTF-8 is kept as well as it can be."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), value).decode("utf-8", "replace")


def parse_timeout(value: bytes) -> float:
    """Seconds in a grpc-timeout: up to eight digits and a unit (H, M, S, m, u, n).

    Raises ValueError if it is not one.
    """
    digits = value[:-1]
    unit = _UNITS.get(value[-1]) if value else None
    if unit is None or len(digits) > _MAX_TIMEOUT_DIGITS or not digits.isdigit():
        raise ValueError(f"malformed grpc-timeout: {value.decode('latin-1')!r}")
    return int(digits) * unit


def format_timeout(seconds: float) -> bytes:
    """The grpc-timeout for this many seconds, in the finest unit that eight digits can hold; at least a nanosecond."""
    nanoseconds = max(1, int(seconds * 1e9))
    for unit, size in ((b"n", 1), (b"u", 1_000), (b"m", 1_000_000), (b"S", 1_000_000_000), (b"M", 60_000_000_000)):
        amount = -(-nanoseconds // size)
        if amount < 10**_MAX_TIMEOUT_DIGITS:
            return b"%d%b" % (amount, unit)
    return b"%dH" % min(-(-nanoseconds // 3_600_000_000_000), 10**_MAX_TIMEOUT_DIGITS - 1)
