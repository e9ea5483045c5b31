"""A register that one thread writes and many read: the simplest check that no linearizable read is stale."""

import itertools
import threading
from collections.abc import Sequence

import grpc

from kvstore.pb.rpc_pb2 import Compare, PutRequest, RequestOp, TxnRequest
from tests.cluster.harness.client import Client
from tests.cluster.harness.waiting import wait_until

KEY = b"register"
CALL_SECONDS = 2.0


class Register:
    """Ever larger numbers written to one key, while readers ask every endpoint for it.

    A read must show at least the largest number whose write was acknowledged before the read began, and at least what
    any read that ended before it began has shown. stale: (endpoint, number shown, number it had to show at least).
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.stale: list[tuple[str, int, int]] = []
        self.reads = 0
        self.writes = 0
        self._floor = -1
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._endpoints = list(endpoints)
        self._threads = [threading.Thread(target=self._write, daemon=True)]
        self._threads += [threading.Thread(target=self._read, args=(endpoint,), daemon=True) for endpoint in endpoints]

    def __enter__(self) -> "Register":
        with Client(self._endpoints[0]) as client:
            client.put(KEY, _encode(-1))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS * 4)
            assert not thread.is_alive(), "a thread hangs past its call's deadline"

    def wait_for_progress(self, writes: int = 20, reads: int = 60) -> None:
        """Wait until so many more of each are answered."""
        goal = self.writes + writes, self.reads + reads
        wait_until(lambda: self.writes >= goal[0] and self.reads >= goal[1], "reads and writes are answered", 30)

    def _write(self) -> None:
        clients = itertools.cycle([Client(endpoint) for endpoint in self._endpoints])
        client = next(clients)
        for number in itertools.count():
            if self._stop.is_set():
                return
            # A write whose answer was lost may still happen, even after later ones: then it must not undo them.
            smaller = Compare(key=KEY, target=Compare.VALUE, result=Compare.LESS, value=_encode(number))
            put = RequestOp(request_put=PutRequest(key=KEY, value=_encode(number)))
            try:
                client.kv.Txn(TxnRequest(compare=[smaller], success=[put]), timeout=CALL_SECONDS)
            except grpc.RpcError:
                client = next(clients)
                self._stop.wait(0.02)
                continue
            with self._lock:
                self.writes += 1
                self._floor = max(self._floor, number)

    def _read(self, endpoint: str) -> None:
        with Client(endpoint) as client:
            while not self._stop.is_set():
                with self._lock:
                    floor = self._floor
                try:
                    kv = client.get(KEY, timeout=CALL_SECONDS)
                except grpc.RpcError:
                    self._stop.wait(0.02)
                    continue
                shown = _decode(kv.value) if kv is not None else -2
                with self._lock:
                    self.reads += 1
                    if shown < floor:
                        self.stale.append((endpoint, shown, floor))
                    self._floor = max(self._floor, shown)


def _encode(number: int) -> bytes:
    """A number as bytes that compare as numbers do."""
    return b"%012d" % (number + 1)


def _decode(value: bytes) -> int:
    return int(value) - 1
