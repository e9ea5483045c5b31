"""Targets: the wire formats that are written by hand, against the protobuf library."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from hypothesis import strategies as st

from kvstore import wire
from kvstore.mvcc import encoding
from kvstore.pb import internal_pb2, kv_pb2, rpc_pb2
from kvstore.rpc import Promise
from kvstore.server.headers import ResponseHeaders
from kvstore.server.proposals import Proposals, decode
from raft.confcodec import decode_conf_change, decode_conf_change_v2, encode_conf_change
from raft.errors import CodecError
from raft.messages import ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2
from tests.fuzz.messages import message
from tests.fuzz.mutations import changes, spoil
from tests.fuzz.target import Target, by_itself

_INT64: Final = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, 300),
    st.builds(lambda n, d: (1 << n) + d, st.integers(1, 62), st.integers(-1, 1)),
)
_POSITIVE: Final = _INT64.map(lambda number: abs(number) or 1).filter(lambda number: number < 1 << 63)
_BYTES: Final = st.one_of(
    st.binary(max_size=20), st.sampled_from((127, 128, 16383, 16384)).map(lambda size: b"x" * size)
)


# Versions of keys


def versions() -> st.SearchStrategy[Any]:
    """(key, value, create, mod, version, lease, sub revision)"""
    return st.tuples(_BYTES, _BYTES, _POSITIVE, _POSITIVE, _POSITIVE, _INT64, st.integers(0, encoding.MAX_SUB))


def check_version(value: Any) -> None:
    """Rows hold exactly what the library would have written, and are read back as they were."""
    key, data, create, mod, version, lease, sub = value
    framed, row = encoding.encode_version(key, data, create, mod, version, lease, sub)
    expected = kv_pb2.KeyValue(
        key=key, value=data, create_revision=create, mod_revision=mod, version=version, lease=lease
    )
    body = expected.SerializeToString(deterministic=True)
    if key:
        assert framed == wire.length_delimited(2, body)
    assert rpc_pb2.RangeResponse.FromString(framed).kvs[0] == expected
    assert encoding.version_of(row)[:5] == (create, mod, version, lease, sub)
    assert encoding.value_of(row) == data
    bare = kv_pb2.KeyValue(key=key, create_revision=create, mod_revision=mod, version=version, lease=lease)
    assert rpc_pb2.RangeResponse.FromString(encoding.without_value(row)).kvs[0] == bare
    history = b"\x00" + framed
    assert encoding.key_of_history(history) == key
    assert encoding.current_row_of_history(history, sub) == row
    gone = encoding.encode_deletions([key], mod)[0]
    assert rpc_pb2.RangeResponse.FromString(gone[1:]).kvs[0] == kv_pb2.KeyValue(key=key, mod_revision=mod)
    assert encoding.key_of_history(gone) == key


# Numbers, headers


def numbers() -> st.SearchStrategy[Any]:
    """(a signed number, three unsigned ones, bytes)"""
    unsigned = _INT64.map(lambda number: number & (1 << 64) - 1)
    return st.tuples(_INT64, unsigned, unsigned, unsigned, _BYTES)


def check_numbers(value: Any) -> None:
    """Numbers, fields and headers are those of the library."""
    signed, cluster, member, term, data = value
    field = rpc_pb2.ResponseHeader(revision=signed).SerializeToString()
    if signed:
        assert b"\x18" + wire.varint(signed) == field
    row = wire.varint(signed) + b"\x80"
    assert wire.read_varint(row, 0) == (signed & (1 << 64) - 1, len(row) - 1)
    assert wire.length_delimited(2, data) == rpc_pb2.PutRequest(value=data).SerializeToString() or not data
    assert wire.length_prefixed(b"\x12", data) == wire.length_delimited(2, data)
    headers = ResponseHeaders(cluster, member)
    headers.set_term(term)
    header = rpc_pb2.PutResponse.FromString(headers.encode(signed)).header
    assert header == rpc_pb2.ResponseHeader(cluster_id=cluster, member_id=member, revision=signed, raft_term=term)


# Batches of the log

_KINDS: Final = {
    field.name: field for field in internal_pb2.InternalRequest.DESCRIPTOR.oneofs_by_name["request"].fields
}


def batches() -> st.SearchStrategy[Any]:
    """(proposer, sequence, requests as their kind and encoding)"""
    request = st.one_of(
        [st.tuples(st.just(kind), message(field.message_type).map(_encode)) for kind, field in _KINDS.items()]
    )
    number = st.integers(0, (1 << 64) - 1)
    return st.tuples(number, st.integers(0, (1 << 63) - 1), st.lists(request, max_size=5))


def _encode(made: Message) -> bytes:
    return made.SerializeToString(deterministic=True)


def check_batch(value: Any) -> None:
    """What is proposed is what the library would have encoded, and is decoded as it was."""
    proposer, sequence, requests = value
    proposals = Proposals(proposer, sequence, 5.0)
    expected = internal_pb2.RequestBatch(proposer=proposer, sequence=sequence)
    for kind, data in requests:
        made = getattr(internal_pb2.InternalRequest(), kind).FromString(data)
        promise: Promise[bytes] = Promise()
        proposals.add(kind, made, data, promise, 0.0)
        getattr(expected.requests.add(), kind).CopyFrom(made)
    for number, payload in proposals.take():
        assert internal_pb2.RequestBatch.FromString(payload) == expected
        assert decode(payload)[:2] == (proposer, number)
        assert [kind for kind, _ in decode(payload)[2]] == [kind for kind, _ in requests]


# Configuration changes in the log


_RAFTPB: Final = {
    "Single": (("type", "INT32"), ("node_id", "UINT64")),
    "One": (("id", "UINT64"), ("type", "INT32"), ("node_id", "UINT64"), ("context", "BYTES")),
    "Two": (("transition", "INT32"), ("changes", "MESSAGE"), ("context", "BYTES")),
}
"""ConfChangeSingle, ConfChange and ConfChangeV2 of raftpb; fields are numbered from 1."""


def _raft_type(name: str) -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(name="fuzz_raftpb.proto", package="fuzz_raftpb", syntax="proto3")
    for message_name, fields in _RAFTPB.items():
        made = file.message_type.add(name=message_name)
        for number, (field_name, kind) in enumerate(fields, 1):
            field = made.field.add(
                name=field_name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            )
            field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind}")
            if kind == "MESSAGE":
                field.type_name = ".fuzz_raftpb.Single"
                field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"fuzz_raftpb.{name}"))


_ONE: Final = _raft_type("One")
_TWO: Final = _raft_type("Two")


def conf_changes() -> st.SearchStrategy[Any]:
    """(transition, changes, context, id, what is done to the bytes)"""
    number = st.integers(0, (1 << 64) - 1)
    kind = st.sampled_from([int(each) for each in ConfChangeType])
    return st.tuples(
        st.sampled_from([int(each) for each in ConfChangeTransition]),
        st.lists(st.tuples(kind, number), max_size=3),
        st.binary(max_size=12),
        number,
        changes(3),
    )


def check_conf_change(value: Any) -> None:
    """Never more lenient than the library, and where both can read the bytes they read the same."""
    transition, singles, context, number, made = value
    parts = tuple(ConfChangeSingle(ConfChangeType(kind), node) for kind, node in singles)
    kind, node = singles[0] if singles else (0, 0)
    one = ConfChange(number, ConfChangeType(kind), node, context)
    two = ConfChangeV2(ConfChangeTransition(transition), parts, context)
    assert decode_conf_change(encode_conf_change(one)[1]) == one
    assert decode_conf_change_v2(encode_conf_change(two)[1]) == two
    _compare_one(spoil(encode_conf_change(one)[1], made))
    _compare_two(spoil(encode_conf_change(two)[1], made))


def _compare_one(data: bytes) -> None:
    try:
        ours = decode_conf_change(data)
    except CodecError:
        return
    theirs: Any = _ONE.FromString(data)
    assert (ours.id, ours.type, ours.node_id, ours.context) == (theirs.id, theirs.type, theirs.node_id, theirs.context)


def _compare_two(data: bytes) -> None:
    try:
        ours = decode_conf_change_v2(data)
    except CodecError:
        return
    theirs: Any = _TWO.FromString(data)
    assert (ours.transition, ours.context) == (theirs.transition, theirs.context)
    assert [(each.type, each.node_id) for each in ours.changes] == [
        (each.type, each.node_id) for each in theirs.changes
    ]


TARGETS: Final = (
    Target("key-versions", versions, by_itself(check_version), examples=120),
    Target("wire-numbers", numbers, by_itself(check_numbers), examples=120),
    Target("log-batches", batches, by_itself(check_batch), examples=50),
    Target("conf-changes", conf_changes, by_itself(check_conf_change), examples=200),
)
