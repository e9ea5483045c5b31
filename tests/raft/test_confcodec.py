"""The encoding of configuration changes: protobuf's, byte for byte."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft import (
    CodecError,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    Entry,
    EntryType,
    decode_conf_change,
    decode_conf_change_v2,
    decode_entry,
    encode_conf_change,
)

_IDS = st.integers(0, (1 << 64) - 1)
_TYPES = st.sampled_from(ConfChangeType)
_V1 = st.builds(ConfChange, _IDS, _TYPES, _IDS, st.binary(max_size=300))
_SINGLES = st.lists(st.builds(ConfChangeSingle, _TYPES, _IDS), max_size=5).map(tuple)
_V2 = st.builds(ConfChangeV2, st.sampled_from(ConfChangeTransition), _SINGLES, st.binary(max_size=300))


@given(_V1)
def test_a_change_comes_back_as_it_was(change: ConfChange) -> None:
    kind, data = encode_conf_change(change)
    assert kind == EntryType.CONF_CHANGE
    assert decode_conf_change(data) == change


@given(_V2)
def test_a_change_of_several_comes_back_as_it_was(change: ConfChangeV2) -> None:
    kind, data = encode_conf_change(change)
    assert kind == EntryType.CONF_CHANGE_V2
    assert decode_conf_change_v2(data) == change


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_raise_a_codec_error(data: bytes) -> None:
    for decode in (decode_conf_change, decode_conf_change_v2):
        decoded: object = None
        with suppress(CodecError):
            decoded = decode(data)
        assert decoded is not None or data


def test_the_bytes_are_those_of_the_protobuf_encoding() -> None:
    change = ConfChange(7, ConfChangeType.REMOVE_NODE, 300, b"ctx")
    assert encode_conf_change(change)[1] == bytes.fromhex("0807 1001 18ac02 2203 637478")
    several = ConfChangeV2(
        ConfChangeTransition.JOINT_EXPLICIT,
        (ConfChangeSingle(ConfChangeType.ADD_NODE, 1), ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 2)),
        b"c",
    )
    assert encode_conf_change(several)[1] == bytes.fromhex("0802 1204 0800 1001 1204 0803 1002 1a01 63")


def test_absent_and_unknown_fields_are_accepted() -> None:
    assert decode_conf_change(bytes.fromhex("1805")) == ConfChange(node_id=5)
    # A 64-bit field 9, a 32-bit field 10, a length-delimited field 11, then the member.
    data = bytes.fromhex("49 0000000000000000 55 00000000 5a01ff 1805")
    assert decode_conf_change(data) == ConfChange(node_id=5)


def test_no_bytes_are_the_change_that_leaves_a_joint_configuration() -> None:
    assert decode_conf_change_v2(b"") == ConfChangeV2()
    assert decode_entry(Entry(type=EntryType.CONF_CHANGE_V2)) == ConfChangeV2()


@pytest.mark.parametrize(
    "data",
    ["10", "1004", "18ffffffffffffffffffff01", "2205 61", "0a0100", "07", "0003", "2001", "18ffffffffffffffffff7f"],
)
def test_broken_bytes_are_refused(data: str) -> None:
    with pytest.raises(CodecError):
        decode_conf_change(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["0803", "1202 0804", "1001", "0a00"])
def test_broken_bytes_of_several_are_refused(data: str) -> None:
    with pytest.raises(CodecError):
        decode_conf_change_v2(bytes.fromhex(data))


def test_a_normal_entry_holds_no_change() -> None:
    with pytest.raises(CodecError, match="entry 3"):
        decode_entry(Entry(1, 3))
