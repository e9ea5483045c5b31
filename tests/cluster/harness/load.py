"""Writers that keep writing while a cluster is mistreated, and remember exactly what they were promised."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from tests.cluster.harness.client import Client
from tests.cluster.harness.waiting import wait_until

CALL_SECONDS = 3.0


@dataclass(slots=True)
class Record:
    """What writers saw. acknowledged: key -> (value, revision). refused: statuses of failed writes."""

    acknowledged: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    refused: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)


class Load:
    """Threads that each put keys of their own, one after the other, on whichever endpoint answers.

    A write that fails is not repeated: the next one has a new key, so every key is written at most once and its
    acknowledgement can be checked without guessing.
    """

    def __init__(self, endpoints: Sequence[str], prefix: bytes, writers: int = 4, size: int = 64) -> None:
        self.prefix = prefix
        self.record = Record()
        self._endpoints = list(endpoints)
        self._size = size
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(writers)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.wait_for_progress()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Record:
        """Let every writer finish its call; then the record no longer changes."""
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS * 4)
            assert not thread.is_alive(), "a writer hangs past its call's deadline"
        return self.record

    @property
    def acknowledged(self) -> int:
        with self._lock:
            return len(self.record.acknowledged)

    def wait_for_progress(self, writes: int = 50, timeout: float = 30.0) -> None:
        """Wait until so many more writes are acknowledged."""
        goal = self.acknowledged + writes
        wait_until(lambda: self.acknowledged >= goal, f"{writes} more writes are acknowledged", timeout)

    def _write(self, number: int) -> None:
        clients = [Client(endpoint) for endpoint in self._endpoints]
        try:
            target = number
            for sequence in itertools.count():
                if self._stop.is_set():
                    return
                key = b"%s%d/%06d" % (self.prefix, number, sequence)
                value = (b"%d-%d-" % (number, sequence)).ljust(self._size, b"x")
                if not self._put(clients[target % len(clients)], key, value):
                    target += 1
        finally:
            for client in clients:
                client.close()

    def _put(self, client: Client, key: bytes, value: bytes) -> bool:
        try:
            response = client.put(key, value, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            with self._lock:
                self.record.refused.append((error.code(), error.details() or ""))
            # An endpoint that is gone refuses at once: without a pause its writer would spin.
            self._stop.wait(0.02)
            return False
        with self._lock:
            self.record.acknowledged[key] = (value, response.header.revision)
        return True


def assert_all_there(record: Record, client: Client, prefix: bytes) -> None:
    """Every acknowledged key is there with its value, written at the revision that was acknowledged."""
    found = {kv.key: (kv.value, kv.mod_revision) for kv in client.prefix(prefix).kvs}
    lost = [key for key, promised in record.acknowledged.items() if found.get(key) != promised]
    assert not lost, f"{len(lost)} of {len(record.acknowledged)} acknowledged writes are gone or changed: {lost[:5]}"
