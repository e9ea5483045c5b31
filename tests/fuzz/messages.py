"""Random protobuf messages from their descriptors: valid ones, those that only look so, and spoiled ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from kvstore.wire import length_delimited, varint
from tests.fuzz.mutations import changes, spoil

MAX_DEPTH: Final = 4
KEYS: Final = (b"", b"\0", b"a", b"a\0", b"b", b"c", b"k" * 479, b"k" * 480, b"k" * 600, b"\xff", b"\xff\xff")
NUMBERS: Final = (0, 1, 2, 3, 4, 5, 7, 20, 1000, 1 << 31, 1 << 32, (1 << 63) - 1, -1, -2, -(1 << 63))
TEXTS: Final = ("", "a", "b", "\0", "ä", "a" * 300)

_SIGNED: Final = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM)
_SHORT: Final = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32)


def encoded(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    """Encodings of a message: right ones most of the time."""
    right = message(descriptor).map(lambda made: made.SerializeToString(deterministic=True))
    unknown = st.builds(_with_unknown, right, _UNKNOWN)
    kinds = [right, right, st.builds(spoil, right, changes()), unknown]
    if descriptor.full_name == "etcdserverpb.TxnRequest":
        kinds.append(st.sampled_from((1, 2, 40, 41, 48, 49, 50)).map(_nested))
    return st.one_of(kinds)


@functools.cache
def message(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Messages with any of their fields, nested up to a depth."""
    return st.builds(_build, st.just(descriptor), _fields(descriptor, depth))


def _fields(descriptor: Descriptor, depth: int) -> st.SearchStrategy[list[tuple[str, Any]]]:
    values = [
        _value(field, depth).map(lambda value, name=field.name: (name, value))  # type: ignore[misc]
        for field in descriptor.fields
        if field.message_type is None or depth < MAX_DEPTH
    ]
    return st.lists(st.one_of(values), max_size=len(values) + 1) if values else st.just([])


def _build(descriptor: Descriptor, fields: Sequence[tuple[str, Any]]) -> Message:
    made = GetMessageClass(descriptor)()
    for name, value in fields:
        field = descriptor.fields_by_name[name]
        if field.is_repeated:
            getattr(made, name).extend(value)
        elif field.message_type is not None:
            getattr(made, name).CopyFrom(value)
        else:
            setattr(made, name, value)
    return made


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        # Not built before it is drawn: messages nest themselves.
        one = st.deferred(lambda: message(field.message_type, depth + 1))
    else:
        one = _scalar(field)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.type:
        case FieldDescriptor.TYPE_BYTES:
            return st.one_of(st.sampled_from(KEYS), st.binary(max_size=12))
        case FieldDescriptor.TYPE_STRING:
            return st.sampled_from(TEXTS)
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_ENUM:
            assert field.enum_type is not None
            known = [value.number for value in field.enum_type.values]
            return st.one_of(st.sampled_from(known), st.sampled_from([*known, 9, 300, -1, -(1 << 31)]))
        case _:
            bits = 32 if field.type in _SHORT else 64
            return st.sampled_from([_fit(number, bits, field.type in _SIGNED) for number in NUMBERS])


def _fit(number: int, bits: int, signed: bool) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if signed and number >> (bits - 1) else number


_UNKNOWN: Final = st.one_of(
    st.builds(length_delimited, st.integers(100, 5000), st.binary(max_size=8)),
    # A group within a group, as deep as decoders go and a little less or more.
    st.sampled_from((1, 97, 98, 99, 100, 101)).map(
        lambda depth: varint(100 << 3 | 3) * depth + varint(100 << 3 | 4) * depth
    ),
)


def _with_unknown(data: bytes, fields: bytes) -> bytes:
    """A message with fields that its type does not have."""
    return data + fields


def _nested(depth: int) -> bytes:
    """A put in so many transactions, one in the other."""
    # TxnRequest.success holds a RequestOp that holds a request_put, or a request_txn.
    data = length_delimited(2, length_delimited(2, b"\n\x01a"))
    for _ in range(depth):
        data = length_delimited(2, length_delimited(4, data))
    return data
