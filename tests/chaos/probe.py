"""Is the service there? Writes at short intervals to every member; one of them answered means yes.

It shows how long a cluster answered no write at all, however many clients were waiting. Lives on a background loop.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from kvstore.client import rpcs
from kvstore.pb.rpc_pb2 import PutRequest
from kvstore.rpc import Channel, RpcError
from tests.chaos.session import Ledger, options
from tests.history import Recorder
from tests.history.convert import operation

INTERVAL_SECONDS = 0.02
CALL_SECONDS = 3.0
GONE_SECONDS = 0.1
"""How long no write is sent to a member after one that did not reach it: it will most likely still be gone."""

MOST_UNANSWERED = 100
"""Writes that wait at one member: then no more are sent to it until some have come back or been given up."""


class Probe:
    """Writes a key of its own at every member, and remembers when writes were sent and answered."""

    def __init__(self, endpoints: Sequence[str], recorder: Recorder) -> None:
        self.ledger = Ledger(recorder)
        self.answered: list[float] = []
        """When writes were answered (`time.monotonic`), in order."""
        self._sent: list[tuple[float, float]] = []
        self._endpoints = endpoints
        self._waiting: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, *self._waiting, return_exceptions=True)

    def first_answer(self, since: float) -> float | None:
        """When the first write that was sent after a moment was answered; None if none was yet."""
        answers = [answered for sent, answered in self._sent[self._after(since) :] if sent >= since]
        return min(answers, default=None)

    def longest_silence(self, since: float, until: float) -> float:
        """The longest time between two moments without any answer, in seconds."""
        inside = self.answered[bisect_left(self.answered, since) : bisect_left(self.answered, until)]
        moments = [since, *inside, until]
        return max(after - before for before, after in pairwise(moments))

    def _after(self, moment: float) -> int:
        return bisect_left(self._sent, moment, key=lambda pair: pair[1])

    async def _run(self) -> None:
        channels = [Channel(endpoint, options=options()) for endpoint in self._endpoints]
        unanswered = [0] * len(channels)
        gone_until = [0.0] * len(channels)
        number = 0
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            for at, channel in enumerate(channels):
                if unanswered[at] < MOST_UNANSWERED and time.monotonic() >= gone_until[at]:
                    number += 1
                    task = asyncio.create_task(self._write(channel, at, number, unanswered, gone_until))
                    self._waiting.add(task)
                    task.add_done_callback(self._waiting.discard)

    async def _write(
        self, channel: Channel, at: int, number: int, unanswered: list[int], gone_until: list[float]
    ) -> None:
        request = PutRequest(key=b"probe/%d" % at, value=b"probe-%d" % number)
        sent = time.monotonic()
        call = self.ledger.recorder.begin(f"probe-{at}", operation(request))
        unanswered[at] += 1
        try:
            data = await channel.unary(rpcs.PUT.path, request.SerializeToString(), timeout=CALL_SECONDS)
        except RpcError as error:
            self.ledger.failed(call, error.message)
            if not error.message.startswith("etcdserver"):
                gone_until[at] = time.monotonic() + GONE_SECONDS
        else:
            self.ledger.answered(call, rpcs.PUT.response.FromString(data))
            self.answered.append(time.monotonic())
            self._sent.append((sent, self.answered[-1]))
        finally:
            unanswered[at] -= 1
