"""Calls of one client, each recorded with what came of it. Goes to another member when one does not serve it."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kvstore.client.rpcs import Rpc
from kvstore.rpc import Channel, ChannelOptions, RpcError, StatusCode
from tests.history import Recorder
from tests.history.convert import operation, result
from tests.history.model import Call, Refusal, TimeToLive, TimeToLiveResult

CALL_SECONDS = 3.0
PAUSE_SECONDS = 0.05
MOST_PAUSE_SECONDS = 0.8
"""After failures, each pause twice the last: who is gone refuses at once, and its clients would spin."""

_REFUSALS = {
    "etcdserver: requested lease not found": Refusal.LEASE_NOT_FOUND,
    "etcdserver: key not found": Refusal.KEY_NOT_FOUND,
    "etcdserver: mvcc: required revision has been compacted": Refusal.COMPACTED,
    "etcdserver: mvcc: required revision is a future revision": Refusal.FUTURE_REV,
    "etcdserver: mvcc: database space exceeded": "NoSpace",
    "etcdserver: too many requests": "TooManyRequests",
}
"""What a member says when it has certainly done nothing. All else leaves doubt."""


@dataclass(slots=True)
class Tally:
    """How many calls came to what. errors: the texts of those that came to no answer."""

    answered: int = 0
    refused: int = 0
    unknown: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def options() -> ChannelOptions:
    """Channels that find out soon that a member is gone, and that it is back."""
    return ChannelOptions(
        connect_timeout=2.0, backoff_initial=0.1, backoff_max=0.5, keepalive_interval=2.0, keepalive_timeout=3.0
    )


class Ledger:
    """Where the outcome of every call goes: the recorder and the tally of one process."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.tally = Tally()

    def answered(self, call: Call, response: Any) -> None:
        told = result(response)
        if isinstance(told, TimeToLiveResult) and isinstance(call.op, TimeToLive) and not call.op.keys:
            told = TimeToLiveResult(told.revision, told.lease, told.ttl, told.granted)
        self.recorder.answered(call, told, response.header.member_id)
        self.tally.answered += 1

    def failed(self, call: Call, text: str) -> None:
        """The call came to an error, whose message is `text`."""
        refusal = _REFUSALS.get(text)
        if refusal is not None:
            self.recorder.refused(call, refusal)
            self.tally.refused += 1
        else:
            self.recorder.unknown(call, text)
            self.tally.unknown += 1
            self.tally.errors[text] += 1


class Session:
    """One client: its calls go to one member until that fails it, then to the next."""

    def __init__(self, name: str, channels: Sequence[Channel], ledger: Ledger, chance: random.Random) -> None:
        self.name = name
        self.ledger = ledger
        self._channels = channels
        self._at = chance.randrange(len(channels))
        self._pause = PAUSE_SECONDS

    @property
    def channel(self) -> Channel:
        return self._channels[self._at]

    def move_on(self) -> None:
        """Take the next member from now on."""
        self._at = (self._at + 1) % len(self._channels)

    async def call(self, rpc: Rpc[Any, Any], request: Any) -> Any | None:
        """Make a call and record it: its response, or None if it failed."""
        call = self.ledger.recorder.begin(self.name, operation(request))
        try:
            data = await self.channel.unary(rpc.path, request.SerializeToString(), timeout=CALL_SECONDS)
        except RpcError as error:
            self.ledger.failed(call, error.message)
            if error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED):
                self.move_on()
                await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 2, MOST_PAUSE_SECONDS)
            return None
        self._pause = PAUSE_SECONDS
        response = rpc.response.FromString(data)
        self.ledger.answered(call, response)
        return response
