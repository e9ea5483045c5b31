"""Puts as they are worked with: decoded once, of a message that a client sent or of one inside a transaction.

A put is what most clients send most of the time, and a protobuf message is slow to make, to ask for its fields and to
encode again. So one of the usual form is taken apart here, and goes through the log in the bytes it came in.
"""

from __future__ import annotations

from typing import Final

from kvstore.errors import EmptyKey, LeaseProvided, ValueProvided
from kvstore.pb import rpc_pb2

_KEY: Final = 0x0A
_VALUE: Final = 0x12
_LEASE: Final = 0x18


class Put:
    """The fields of a PutRequest; encoded: the message, for the log."""

    __slots__ = ("encoded", "ignore_lease", "ignore_value", "key", "lease", "prev_kv", "value")

    def __init__(
        self,
        key: bytes,
        value: bytes,
        lease: int,
        prev_kv: bool,
        ignore_value: bool,
        ignore_lease: bool,
        encoded: bytes,
    ) -> None:
        self.key = key
        self.value = value
        self.lease = lease
        self.prev_kv = prev_kv
        self.ignore_value = ignore_value
        self.ignore_lease = ignore_lease
        self.encoded = encoded

    def check(self) -> None:
        """Raises EmptyKey, ValueProvided, LeaseProvided: what can be told without looking at the store."""
        if not self.key:
            raise EmptyKey
        if self.ignore_value and self.value:
            raise ValueProvided
        if self.ignore_lease and self.lease:
            raise LeaseProvided


def of_message(request: rpc_pb2.PutRequest, encoded: bytes = b"") -> Put:
    """What a message says. encoded: the same, without fields that this version does not know, if it is for the log."""
    return Put(
        request.key,
        request.value,
        request.lease,
        request.prev_kv,
        request.ignore_value,
        request.ignore_lease,
        encoded,
    )


def for_the_log(request: rpc_pb2.PutRequest) -> Put:
    """What a message says, with its encoding. Fields that this version does not know are taken out of it."""
    request.DiscardUnknownFields()
    return of_message(request, request.SerializeToString())


def decode(data: bytes) -> Put:
    """Decode a message. Raises google.protobuf.message.DecodeError if it is none."""
    put = _usual(data)
    return put if put is not None else for_the_log(rpc_pb2.PutRequest.FromString(data))


def _usual(data: bytes) -> Put | None:
    """What a message says that holds a key, and maybe a value and a lease after it, each once; None of any other.

    Every member must find the same in it, whether it reads it so or with protobuf.
    """
    size = len(data)
    if size < 2 or data[0] != _KEY:
        return None
    # A length of more bytes than two of a key, or three of a value, is for protobuf to judge.
    at = 2
    length = data[1]
    if length > 0x7F:
        if size < 3 or data[2] > 0x7F:
            return None
        length = length & 0x7F | data[2] << 7
        at = 3
    end = at + length
    if end > size:
        return None
    key = data[at:end]
    value = b""
    if end < size and data[end] == _VALUE:
        at = end + 2
        if at > size:
            return None
        length = data[end + 1]
        if length > 0x7F:
            if at >= size:
                return None
            more = data[at]
            at += 1
            length = length & 0x7F | (more & 0x7F) << 7
            if more > 0x7F:
                if at >= size or data[at] > 0x7F:
                    return None
                length |= data[at] << 14
                at += 1
        end = at + length
        if end > size:
            return None
        value = data[at:end]
    lease = 0
    if end < size:
        if data[end] != _LEASE:
            return None
        at = end + 1
        shift = 0
        # Nine bytes are 63 bits: nothing negative, nothing to be cut off.
        while True:
            if at >= size or shift > 56:
                return None
            byte = data[at]
            at += 1
            lease |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if at != size:
            return None
    return Put(key, value, lease, False, False, False, data)
