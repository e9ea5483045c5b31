"""What fuzzing has found, each as small as it can be said."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.errors import TooManyOps
from kvstore.mvcc.validate import MAX_NESTING
from kvstore.pb import peer_pb2, rpc_pb2
from kvstore.peer.codec import MalformedMessage, decode_message
from kvstore.peer.identity import Caller
from kvstore.rpc import RpcError
from kvstore.wire import length_delimited, varint
from kvstored.configuration import ConfigFileError, read_file
from raft.confcodec import decode_conf_change
from raft.errors import CodecError
from raft.messages import ConfChange, MessageType
from tests.fuzz.replicas import replicate

GROUP = 100
"""A field that no message has."""


def nested(depth: int) -> bytes:
    """A put in so many transactions, each in the success branch of the next."""
    data = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"a"))]).SerializeToString()
    for _ in range(depth):
        data = length_delimited(2, length_delimited(4, data))
    return data


async def test_a_txn_nested_as_deep_as_a_request_can_be_is_refused_for_the_log_could_not_be_decoded() -> None:
    [[allowed, refused, deepest]] = await replicate(
        [[("txn", nested(MAX_NESTING)), ("txn", nested(MAX_NESTING + 1)), ("txn", nested(49))]]
    )
    assert isinstance(allowed, bytes)
    assert isinstance(refused, TooManyOps)
    assert isinstance(deepest, TooManyOps)


async def test_unknown_fields_nested_as_deep_as_a_request_can_be_stay_out_of_the_log() -> None:
    groups = varint(GROUP << 3 | 3) * 100 + varint(GROUP << 3 | 4) * 100
    put = rpc_pb2.PutRequest(key=b"a", value=b"v").SerializeToString()
    [[answer]] = await replicate([[("put", put + groups)]])
    assert isinstance(answer, bytes)
    assert rpc_pb2.PutResponse.FromString(answer).header.revision == 2


@pytest.mark.parametrize("kind", [3, 255, 256, -1])
async def test_an_alarm_of_a_kind_that_there_is_none_of_is_ignored(kind: int) -> None:
    raised = varint(1 << 3) + varint(rpc_pb2.AlarmRequest.ACTIVATE) + varint(3 << 3) + varint(kind)
    assert rpc_pb2.AlarmRequest.FromString(raised).alarm == kind
    [[answer]] = await replicate([[("alarm", raised)]])
    assert isinstance(answer, bytes)
    assert not rpc_pb2.AlarmResponse.FromString(answer).alarms


async def test_an_unknown_action_disarms_no_alarm() -> None:
    raised = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=1, alarm=rpc_pb2.NOSPACE)
    unknown = varint(1 << 3) + varint(9) + varint(2 << 3) + varint(1) + varint(3 << 3) + varint(rpc_pb2.NOSPACE)
    listed = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
    [_, _, [answer]] = await replicate(
        [[("alarm", raised.SerializeToString())], [("alarm", unknown)], [("alarm", listed.SerializeToString())]]
    )
    assert isinstance(answer, bytes)
    assert [each.memberID for each in rpc_pb2.AlarmResponse.FromString(answer).alarms] == [1]


@pytest.mark.parametrize("kind", [-1, -len(MessageType)])
def test_a_negative_message_type_is_not_counted_from_the_end(kind: int) -> None:
    with pytest.raises(MalformedMessage):
        decode_message(peer_pb2.RaftMessage(type=kind))
    with pytest.raises(MalformedMessage):
        decode_message(peer_pb2.RaftMessage(type=MessageType.APP, entries=[peer_pb2.Entry(type=-1)]))


@pytest.mark.parametrize("number", ["-1", "+1", " 1", "1_0", "0x1", "\u0661", "1" * 17, ""])
def test_a_callers_ids_are_hexadecimal_numbers_of_64_bits_and_nothing_else(number: str) -> None:
    right = dict(Caller(1, 2, 3).metadata())
    assert Caller.parse(right.items()) == Caller(1, 2, 3)
    for name in ("kvstore-cluster-id", "kvstore-from", "kvstore-to"):
        with pytest.raises(RpcError):
            Caller.parse((right | {name: number}).items())


@pytest.mark.parametrize("versions", ["1--1", "-1-1", "1", "1-\u0661", "1-" + "9" * 5000])
def test_a_callers_versions_are_two_plain_numbers(versions: str) -> None:
    right = dict(Caller(1, 2, 3).metadata())
    with pytest.raises(RpcError):
        Caller.parse((right | {"kvstore-peer-versions": versions}).items())


def test_a_field_number_above_29_bits_is_refused_as_protobuf_does() -> None:
    tag = varint((1 << 29) << 3)
    with pytest.raises(CodecError):
        decode_conf_change(tag + b"\x00")
    assert decode_conf_change(varint(((1 << 29) - 1) << 3) + b"\x00") == ConfChange()


@pytest.mark.parametrize(
    "text", ["max-learners: 2001-13-45", "name: !!timestamp x", "name: !!int x", "name: " + "[" * 400]
)
def test_a_configuration_file_with_a_value_that_there_is_none_of_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigFileError, match=r"config\.yaml"):
        read_file(path)
