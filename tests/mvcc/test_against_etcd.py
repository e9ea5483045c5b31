"""The same random requests to the store and to an etcd, where one is installed: the same answers."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kvstore.api.errors import STATUS
from kvstore.errors import DuplicateKey, KvstoreError
from kvstore.mvcc import validate
from kvstore.mvcc.puts import of_message
from kvstore.pb import rpc_pb2, rpc_pb2_grpc
from tests.mvcc.harness import Harness
from tests.mvcc.test_store_model import deletes, puts, ranges, relative, txns

DRAWN = 40
ETCD = shutil.which("etcd")

pytestmark = pytest.mark.skipif(ETCD is None, reason="etcd is not installed")


@dataclass
class Pair:
    """A store and an etcd that have seen the same requests."""

    harness: Harness
    kv: rpc_pb2_grpc.KVStub

    def compare(self, ours: Callable[[], bytes], theirs: Callable[[], Message]) -> None:
        answer: Message | str
        expected: Message | str
        try:
            expected = theirs()
        except grpc.RpcError as error:
            expected = str(error.details())
        kind = type(expected)
        try:
            body = ours()
        except KvstoreError as error:
            answer = STATUS[type(error)][1]
        else:
            assert issubclass(kind, Message), expected
            answer = kind.FromString(body)
            assert expected.header.revision == self.harness.store.revision  # type: ignore[union-attr]
            expected.ClearField("header")  # type: ignore[union-attr]
        assert in_order(answer) == in_order(expected)


def in_order(message: Message | str) -> Message | str:
    """Rows that were sorted by something that can be equal come in no certain order from etcd."""
    if isinstance(message, rpc_pb2.RangeResponse):
        message.kvs.sort(key=lambda kv: kv.key)
    return message


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    path: Path = tmp_path_factory.mktemp("etcd")
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    assert ETCD is not None
    process = subprocess.Popen(
        [
            ETCD,
            f"--data-dir={path}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    harness = Harness()
    try:
        with grpc.insecure_channel(client.removeprefix("http://")) as channel:
            grpc.channel_ready_future(channel).result(20)
            lease = rpc_pb2_grpc.LeaseStub(channel)  # type: ignore[no-untyped-call]
            for lease_id in (7, -5):
                request = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=1000)
                lease.LeaseGrant(request)
                harness.lessor.grant(request, 0.0)
            yield Pair(harness, rpc_pb2_grpc.KVStub(channel))  # type: ignore[no-untyped-call]
    finally:
        process.terminate()
        process.wait()
        harness.destroy()


@given(st.data())
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_equal_etcds(pair: Pair, data: st.DataObject) -> None:
    store, kv = pair.harness.store, pair.kv
    for _ in range(10):
        # What is drawn must not depend on what came before, so it is about revisions near DRAWN, and moved to now.
        moved = store.revision - DRAWN
        match data.draw(st.integers(0, 9), label="step"):
            case 0 | 1 | 2:
                put = data.draw(puts())
                pair.compare(partial(store.put, of_message(put)), partial(kv.Put, put))
            case 3:
                delete = data.draw(deletes())
                pair.compare(partial(store.delete_range, delete), partial(kv.DeleteRange, delete))
            case 4 | 5:
                compare_txn(pair, move_txn(data.draw(txns(DRAWN)), moved))
            case 6:
                revision = relative(data.draw, DRAWN) + moved
                compaction = rpc_pb2.CompactionRequest(revision=revision)
                pair.compare(partial(store.compact, revision), partial(kv.Compact, compaction))
                pair.harness.work()
            case _:
                request = move_range(data.draw(ranges(DRAWN)), moved)
                if request.sort_target:
                    request.limit = 0
                pair.compare(partial(store.range, request), partial(kv.Range, request))


def compare_txn(pair: Pair, txn: rpc_pb2.TxnRequest) -> None:
    if any(sorts(operation) for operation in (*txn.success, *txn.failure)):
        return
    try:
        validate.check_txn(txn, 128)
    except DuplicateKey:
        with pytest.raises(grpc.RpcError) as refused:
            pair.kv.Txn(txn)
        assert refused.value.details() == STATUS[DuplicateKey][1]
    else:
        pair.compare(partial(pair.harness.store.txn, txn), partial(pair.kv.Txn, txn))


def move_range(request: rpc_pb2.RangeRequest, by: int) -> rpc_pb2.RangeRequest:
    for name in ("revision", "min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
        value = getattr(request, name)
        if value > 0:
            setattr(request, name, value + by)
    return request


def move_txn(txn: rpc_pb2.TxnRequest, by: int) -> rpc_pb2.TxnRequest:
    for compare in txn.compare:
        if compare.create_revision:
            compare.create_revision += by
        if compare.mod_revision:
            compare.mod_revision += by
    for operation in (*txn.success, *txn.failure):
        if operation.HasField("request_range"):
            move_range(operation.request_range, by)
        elif operation.HasField("request_txn"):
            move_txn(operation.request_txn, by)
    return txn


def sorts(operation: rpc_pb2.RequestOp) -> bool:
    """Whether an operation, or one that it nests, has an answer in no certain order."""
    nested = (*operation.request_txn.success, *operation.request_txn.failure)
    return operation.request_range.sort_target != rpc_pb2.RangeRequest.KEY or any(sorts(each) for each in nested)
