"""Is the service there? Writes at short intervals to every member; one of them answered means yes.

It shows how long a cluster answered no write at all, however many clients were waiting. Lives on a background loop.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Coroutine, Sequence
from itertools import count, pairwise
from typing import Any

from kvstore.client import rpcs
from kvstore.client.rpcs import Rpc
from kvstore.pb.rpc_pb2 import PutRequest, RangeRequest
from kvstore.rpc import Channel, RpcError
from tests.chaos.session import Ledger, options
from tests.chaos.traffic import hot
from tests.history import Recorder
from tests.history.convert import operation

INTERVAL_SECONDS = 0.02
CALL_SECONDS = 3.0
GONE_SECONDS = 0.1
"""How long nothing is sent to a member after one that did not reach it: it will most likely still be gone."""

MOST_UNANSWERED = 200
"""Calls that wait at one member: then no more are sent to it until some have come back or been given up."""


class _Target:
    """One member as the probe sees it. gone_until: nothing is sent to it before."""

    __slots__ = ("channel", "gone_until", "key", "name", "unanswered")

    def __init__(self, number: int, endpoint: str) -> None:
        self.name = f"probe-{number}"
        self.key = b"probe/%d" % number
        self.channel = Channel(endpoint, options=options())
        self.unanswered = 0
        self.gone_until = 0.0


class Probe:
    """Writes a key of its own at every member and reads one that many write, and remembers when writes were answered.

    The reads are linearizable and wait at members that are paused or cut off: what these answer when they are back is
    in the history.
    """

    def __init__(self, endpoints: Sequence[str], recorder: Recorder) -> None:
        self.ledger = Ledger(recorder)
        self.answered: list[float] = []
        """When writes were answered (`time.monotonic`), in order."""
        self._endpoints = endpoints
        self._waiting: set[asyncio.Task[object]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, *self._waiting, return_exceptions=True)

    def longest_silence(self, since: float, until: float) -> float:
        """The longest time between two moments without any answer to a write, in seconds."""
        inside = self.answered[bisect_left(self.answered, since) : bisect_left(self.answered, until)]
        return max(after - before for before, after in pairwise([since, *inside, until]))

    async def _run(self) -> None:
        targets = [_Target(number, endpoint) for number, endpoint in enumerate(self._endpoints)]
        for number in count():
            await asyncio.sleep(INTERVAL_SECONDS)
            for target in targets:
                if target.unanswered < MOST_UNANSWERED and time.monotonic() >= target.gone_until:
                    self._spawn(self._write(target, number))
                    self._spawn(self._ask(target, rpcs.RANGE, RangeRequest(key=hot(0))))

    def _spawn(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.ensure_future(work)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _write(self, target: _Target, number: int) -> None:
        value = b"%s-%d" % (target.name.encode(), number)
        if await self._ask(target, rpcs.PUT, PutRequest(key=target.key, value=value)):
            self.answered.append(time.monotonic())

    async def _ask(self, target: _Target, rpc: Rpc[Any, Any], request: Any) -> bool:
        """Make a call and record it: whether it was answered."""
        call = self.ledger.recorder.begin(target.name, operation(request))
        target.unanswered += 1
        try:
            data = await target.channel.unary(rpc.path, request.SerializeToString(), timeout=CALL_SECONDS)
        except RpcError as error:
            self.ledger.failed(call, error.message)
            if not error.message.startswith("etcdserver"):
                target.gone_until = time.monotonic() + GONE_SECONDS
            return False
        finally:
            target.unanswered -= 1
        self.ledger.answered(call, rpc.response.FromString(data))
        return True
