"""Rows that are built by hand are what protobuf would have built."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.mvcc import encoding
from kvstore.pb import kv_pb2, rpc_pb2
from kvstore.wire import length_prefixed

NUMBERS = st.one_of(st.integers(1, 300), st.sampled_from([127, 128, 16383, 16384, 2**28 - 1, 2**28, 2**35, 2**63 - 1]))
SIZES = st.sampled_from([1, 2, 127, 128, 300, 16383, 16384, 40000])
INT64 = st.one_of(st.just(0), NUMBERS, st.integers(-(2**63), -1))


def framed(message: kv_pb2.KeyValue) -> bytes:
    return length_prefixed(b"\x12", message.SerializeToString())


@given(SIZES, st.one_of(st.just(0), SIZES), NUMBERS, NUMBERS, NUMBERS, INT64, st.integers(0, 2**32 - 1))
def test_a_version(size: int, value_size: int, create: int, mod: int, version: int, lease: int, sub: int) -> None:
    key, value = b"\x12k"[:size].ljust(size, b"\0"), b"*" * value_size
    message = kv_pb2.KeyValue(
        key=key, value=value, create_revision=create, mod_revision=mod, version=version, lease=lease
    )
    bare, row = encoding.encode_version(key, value, create, mod, version, lease, sub)
    assert bare == framed(message)
    assert row[: -encoding.TRAILER_SIZE] == bare
    assert encoding.version_of(row)[:5] == (create, mod, version, lease, sub)
    assert encoding.value_of(row) == value
    history = bytes([encoding.PUT]) + bare
    assert encoding.key_of_history(history) == key
    assert encoding.current_row_of_history(history, sub) == row
    message.ClearField("value")
    assert encoding.without_value(row) == framed(message)
    assert encoding.without_values([(key, row), (key, row)]) == 2 * framed(message)


VERSIONS = st.builds(
    kv_pb2.KeyValue,
    key=st.binary(min_size=1, max_size=3) | SIZES.map(bytes),
    value=st.binary(max_size=3) | SIZES.map(bytes),
    create_revision=NUMBERS,
    mod_revision=NUMBERS,
    version=NUMBERS,
    lease=st.just(0) | INT64,
)


@given(st.lists(st.tuples(VERSIONS, st.integers(0, 2), st.integers(1, 3)), max_size=8))
def test_many_versions_without_their_values(versions: list[tuple[kv_pb2.KeyValue, int, int]]) -> None:
    rows, expected = [], rpc_pb2.RangeResponse()
    for kv, sub, times in versions:
        _, row = encoding.encode_version(
            kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease, sub
        )
        rows += times * [(kv.key, row)]
        for _ in range(times):
            expected.kvs.add().CopyFrom(kv)
            expected.kvs[-1].ClearField("value")
    assert encoding.without_values(rows) == expected.SerializeToString()


@given(st.lists(SIZES, min_size=1, max_size=4), NUMBERS)
def test_deletions(sizes: list[int], revision: int) -> None:
    keys = [b"%d" % number + b"k" * size for number, size in enumerate(sizes)]
    for key, row in zip(keys, encoding.encode_deletions(keys, revision), strict=True):
        assert row[0] == encoding.DELETE
        assert row[1:] == framed(kv_pb2.KeyValue(key=key, mod_revision=revision))
        assert encoding.key_of_history(row) == key
