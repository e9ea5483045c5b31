"""Random requests, flushes, crashes and steps of compaction: every answer equals the naive model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.errors import DuplicateKey, KvstoreError
from kvstore.mvcc import validate
from kvstore.mvcc.puts import of_message
from kvstore.pb import rpc_pb2
from tests.mvcc.harness import Harness
from tests.mvcc.model import Model

LONG = b"k" * 480
MANY = [
    b"\0",
    b"a",
    b"a\0",
    b"a\0\0",
    b"ab",
    b"b",
    b"c",
    b"\xff",
    b"\xff\xff",
    LONG,
    LONG + b"\0",
    LONG + b"x",
    LONG * 3,
]
FEW = [b"a", LONG + b"x"]
"""So that the same keys change again and again around a compaction."""
KEYS = st.shared(st.sampled_from([FEW, MANY]), key="keys").flatmap(st.sampled_from)
ENDS = st.one_of(st.just(b""), st.just(b"\0"), st.just(b"\0"), KEYS)
VALUES = st.sampled_from([b"", b"1", b"2", b"x" * 200])
LEASES = st.sampled_from([0, 0, 0, 7, -5, 99])


def relative(draw: Any, revision: int) -> int:
    """A revision near the present, sometimes none, sometimes wrong."""
    chosen: int = draw(st.one_of(st.just(0), st.integers(max(-1, revision - 12), revision + 1)))
    return chosen


@st.composite
def puts(draw: Any) -> rpc_pb2.PutRequest:
    ignore_value = draw(st.integers(0, 9)) == 0
    ignore_lease = draw(st.integers(0, 9)) == 0
    return rpc_pb2.PutRequest(
        key=draw(KEYS),
        value=b"" if ignore_value else draw(VALUES),
        lease=0 if ignore_lease else draw(LEASES),
        prev_kv=draw(st.booleans()),
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
    )


@st.composite
def deletes(draw: Any) -> rpc_pb2.DeleteRangeRequest:
    return rpc_pb2.DeleteRangeRequest(key=draw(KEYS), range_end=draw(ENDS), prev_kv=draw(st.booleans()))


@st.composite
def ranges(draw: Any, revision: int) -> rpc_pb2.RangeRequest:
    near = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(1, max(2, revision)))
    return rpc_pb2.RangeRequest(
        key=draw(KEYS),
        range_end=draw(ENDS),
        limit=draw(st.sampled_from([0, 0, 1, 2, 5, -1])),
        revision=relative(draw, revision),
        sort_order=draw(st.sampled_from([0, 0, 1, 2])),
        sort_target=draw(st.sampled_from([0, 0, 1, 2, 3, 4])),
        keys_only=draw(st.booleans()),
        count_only=draw(st.integers(0, 5)) == 0,
        min_mod_revision=draw(near),
        max_mod_revision=draw(near),
        min_create_revision=draw(near),
        max_create_revision=draw(near),
    )


@st.composite
def compares(draw: Any, revision: int) -> rpc_pb2.Compare:
    compare = rpc_pb2.Compare(
        result=draw(st.integers(0, 3)), target=draw(st.integers(0, 4)), key=draw(KEYS), range_end=draw(ENDS)
    )
    match compare.target:
        case rpc_pb2.Compare.VERSION:
            compare.version = draw(st.integers(0, 3))
        case rpc_pb2.Compare.CREATE:
            compare.create_revision = draw(st.integers(0, revision))
        case rpc_pb2.Compare.MOD:
            compare.mod_revision = draw(st.integers(0, revision))
        case rpc_pb2.Compare.VALUE:
            compare.value = draw(VALUES)
        case rpc_pb2.Compare.LEASE:
            compare.lease = draw(LEASES)
    return compare


@st.composite
def txns(draw: Any, revision: int, depth: int = 2) -> rpc_pb2.TxnRequest:
    def operation() -> rpc_pb2.RequestOp:
        kind = draw(st.integers(0, 3 if depth else 2))
        if kind == 0:
            return rpc_pb2.RequestOp(request_put=draw(puts()))
        if kind == 1:
            return rpc_pb2.RequestOp(request_range=draw(ranges(revision)))
        if kind == 2:
            return rpc_pb2.RequestOp(request_delete_range=draw(deletes()))
        return rpc_pb2.RequestOp(request_txn=draw(txns(revision, depth - 1)))

    return rpc_pb2.TxnRequest(
        compare=[draw(compares(revision)) for _ in range(draw(st.integers(0, 2)))],
        success=[operation() for _ in range(draw(st.integers(0, 3)))],
        failure=[operation() for _ in range(draw(st.integers(0, 2)))],
    )


class Comparison:
    """The store and the model, given the same."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.model = Model()
        self.flushed = self.model.copy()
        self.flushes = harness.flushes

    def note_flushes(self) -> None:
        """Remember what a crash would leave, if something has been flushed since the last call."""
        if self.flushes != self.harness.flushes:
            self.flushes = self.harness.flushes
            self.flushed = self.model.copy()

    def both(self, apply: Callable[[], bytes], expect: Callable[[], Message | None], kind: type[Message]) -> None:
        actual: Message | type[KvstoreError]
        expected: Message | type[KvstoreError] | None
        try:
            actual = kind.FromString(apply())
        except KvstoreError as error:
            actual = type(error)
        self.model.begin()
        try:
            expected = expect() or kind()
        except KvstoreError as error:
            expected = type(error)
        self.model.end()
        assert actual == expected
        assert self.harness.store.revision == self.model.revision
        assert self.harness.store.keys == len(self.model.live)

    def put(self, request: rpc_pb2.PutRequest) -> None:
        self.both(
            lambda: self.harness.store.put(of_message(request)), lambda: self.model.put(request), rpc_pb2.PutResponse
        )

    def delete(self, request: rpc_pb2.DeleteRangeRequest) -> None:
        self.both(
            lambda: self.harness.store.delete_range(request),
            lambda: self.model.delete(request),
            rpc_pb2.DeleteRangeResponse,
        )

    def txn(self, request: rpc_pb2.TxnRequest) -> None:
        try:
            validate.check_txn(request, 128)
        except DuplicateKey:
            return
        self.both(lambda: self.harness.store.txn(request), lambda: self.model.txn(request), rpc_pb2.TxnResponse)

    def range(self, request: rpc_pb2.RangeRequest) -> None:
        self.both(lambda: self.harness.store.range(request), lambda: self.model.range(request), rpc_pb2.RangeResponse)

    def compact(self, revision: int) -> None:
        self.both(
            lambda: self.harness.store.compact(revision),
            lambda: self.model.compact(revision),
            rpc_pb2.CompactionResponse,
        )

    def grant(self, lease: int) -> None:
        if lease not in self.model.leases:
            self.harness.lessor.grant(rpc_pb2.LeaseGrantRequest(ID=lease, TTL=10), 0.0)
            self.model.leases.add(lease)

    def revoke(self, lease: int) -> None:
        self.both(
            lambda: self.harness.lessor.revoke(lease, self.harness.store.delete_keys),
            lambda: self.model.revoke(lease),
            rpc_pb2.LeaseRevokeResponse,
        )

    def flush(self, acknowledged: bool) -> None:
        self.harness.acknowledge()
        self.harness.hold_answers = not acknowledged
        self.harness.backend.flush()
        self.note_flushes()

    def crash(self) -> None:
        self.note_flushes()
        self.harness.crash()
        self.model = self.flushed.copy()
        self.flushes = self.harness.flushes

    def reopen(self) -> None:
        self.harness.close()
        self.harness.open()
        self.note_flushes()

    def check_everything(self) -> None:
        """Every revision that can be read, by every way of reading it."""
        for revision in range(max(1, self.model.compacted), self.model.revision + 1):
            request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
            self.range(request)
            request.limit = 2
            self.range(request)
            request.keys_only = True
            self.range(request)
            request.count_only = True
            self.range(request)
        for lease in self.model.leases:
            assert self.harness.lessor.keys(lease) == sorted(
                kv.key for kv in self.model.live.values() if kv.lease == lease
            )

    def check_space(self) -> None:
        """After physical compaction only what a read or a watch can still want is there."""
        compacted = self.model.compacted
        visible = self.model.states.get(compacted, {})
        wanted = {change.revision for change in self.model.changes if change.revision >= compacted}
        wanted |= {kv.mod for key, kv in visible.items() if self.model.live.get(key) != kv}
        history = self.harness.backend.table("history")
        assert {int.from_bytes(key[:8], "big") for key, _ in history.scan(b"", None)} <= wanted
        for key, values in self.harness.backend.dup_table("past").items(b"", None):
            for value in values:
                assert history.get(value[:12]) is not None, key


def run(data: st.DataObject, harness: Harness, steps: int) -> None:
    comparison = Comparison(harness)
    for _ in range(steps):
        revision = comparison.model.revision
        match data.draw(st.integers(0, 19), label="step"):
            case 0 | 1 | 2 | 3 | 4:
                comparison.put(data.draw(puts()))
            case 5 | 6:
                comparison.delete(data.draw(deletes()))
            case 7 | 8 | 9:
                comparison.txn(data.draw(txns(revision)))
            case 10 | 11 | 12:
                comparison.range(data.draw(ranges(revision)))
            case 13:
                comparison.compact(relative(data.draw, revision))
                comparison.compact(max(1, revision - data.draw(st.integers(0, 3))))
            case 14:
                comparison.flush(acknowledged=data.draw(st.booleans()))
            case 15 | 16:
                harness.work()
                comparison.note_flushes()
            case 17:
                comparison.grant(data.draw(st.sampled_from([7, -5])))
            case 18:
                comparison.revoke(data.draw(st.sampled_from([7, -5])))
            case _:
                data.draw(st.sampled_from([comparison.crash, comparison.reopen, harness.acknowledge]))()
                comparison.note_flushes()
    comparison.check_everything()
    harness.settle()
    assert harness.store.compactor.finished == comparison.model.compacted
    comparison.check_space()
    comparison.check_everything()
    comparison.reopen()
    comparison.check_everything()


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_equals_the_models(data: st.DataObject) -> None:
    harness = Harness(batch_limit=data.draw(st.sampled_from([1, 2, 1000])))
    try:
        run(data, harness, data.draw(st.integers(1, 60)))
    finally:
        harness.destroy()
