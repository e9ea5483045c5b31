"""A light client that only wants to be served: a few puts and reads a second, and how they went."""

from __future__ import annotations

import threading
import time
from collections import Counter

import grpc

from tests.cluster.harness import Client

PAUSE_SECONDS = 0.02
CALL_SECONDS = 10.0


class Bystander:
    """Puts a number and reads it back, over and over, on a connection of its own.

    served: pairs of a put and a read that were answered. latencies: seconds of each call that was answered. refused:
    by status. wrong: reads that did not show what was put before, which nothing excuses.
    """

    def __init__(self, endpoint: str, key: bytes = b"bystander") -> None:
        self.served = 0
        self.latencies: list[float] = []
        self.refused: Counter[str] = Counter()
        self.wrong = 0
        self._key = key
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Finish the call under way."""
        self._stop.set()
        self._thread.join(4 * CALL_SECONDS)
        assert not self._thread.is_alive(), "a call hangs past its deadline"

    def latency(self, share: float) -> float:
        """The latency that this share of calls did not exceed; infinite if none was answered."""
        found = sorted(self.latencies)
        return found[min(len(found) - 1, int(share * len(found)))] if found else float("inf")

    def _run(self) -> None:
        with Client(self._endpoint) as client:
            number = 0
            while not self._stop.wait(PAUSE_SECONDS):
                number += 1
                try:
                    began = time.monotonic()
                    client.put(self._key, b"%d" % number, timeout=CALL_SECONDS)
                    between = time.monotonic()
                    kv = client.get(self._key, timeout=CALL_SECONDS)
                    ended = time.monotonic()
                except grpc.RpcError as error:
                    self.refused[f"{error.code().name}: {error.details()}"] += 1
                    continue
                self.latencies += (between - began, ended - between)
                self.served += 1
                self.wrong += kv is None or kv.value != b"%d" % number
