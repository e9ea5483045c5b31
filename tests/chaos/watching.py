"""Watches that are kept up over everything, each recorded with all that it was told.

A stream carries several watches. When it is lost, all of them go on from where they were, on the same member or on the
next one; when a watch has fallen behind a compaction it goes on from there.
"""

import asyncio
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from kvstore.client import rpcs
from kvstore.pb.rpc_pb2 import WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse
from kvstore.rpc import EOF, Channel, ClientStream, RpcError
from tests.chaos.session import PAUSE_SECONDS
from tests.history import Recorder
from tests.history.convert import events
from tests.history.model import Watch

PROGRESS_SECONDS = 1.0
CREATE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Interest:
    """What one watch is to show. start: its first revision, 0 is from now on."""

    key: bytes
    end: bytes = b""
    start: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    fragment: bool = False


class Followed:
    """One watch: what it wants next, and how far it was told everything. next: 0 until a watch from now on began."""

    def __init__(self, recorder: Recorder, name: str, interest: Interest) -> None:
        self.interest = interest
        self.next = interest.start
        self.reached = 0
        self._recorder = recorder
        self._watch: Watch = recorder.watch(
            name,
            interest.key,
            interest.end,
            start_revision=interest.start,
            prev_kv=interest.prev_kv,
            no_put=interest.no_put,
            no_delete=interest.no_delete,
            fragment=interest.fragment,
        )
        self._begun = False

    def request(self, watch_id: int) -> WatchRequest:
        """Ask for it, or for its continuation."""
        if self._begun:
            self._recorder.resumed(self._watch, self.next)
        filters = [WatchCreateRequest.NOPUT] * self.interest.no_put + [WatchCreateRequest.NODELETE] * (
            self.interest.no_delete
        )
        create = WatchCreateRequest(
            key=self.interest.key,
            range_end=self.interest.end,
            start_revision=self.next,
            prev_kv=self.interest.prev_kv,
            fragment=self.interest.fragment,
            filters=filters,
            watch_id=watch_id,
        )
        return WatchRequest(create_request=create)

    def take(self, response: WatchResponse) -> bool:
        """Note a response. False if the watch has ended and must be asked for anew."""
        revision = response.header.revision
        if response.canceled:
            self._recorder.canceled(self._watch, revision, response.compact_revision)
            self.next = max(self.next, response.compact_revision)
            return False
        if response.created:
            if not self._begun:
                self._recorder.created(self._watch, revision)
                self.next = self.next or revision + 1
            self._begun = True
        elif response.events:
            self._recorder.events(self._watch, revision, events(response), response.fragment)
            if not response.fragment:
                self._reach(response.events[-1].kv.mod_revision)
        else:
            self.take_progress(revision)
        return True

    def take_progress(self, revision: int) -> None:
        self._recorder.progress(self._watch, revision)
        self._reach(revision)

    def _reach(self, revision: int) -> None:
        self.reached = max(self.reached, revision)
        self.next = max(self.next, revision + 1)


class Follower:
    """Keeps some watches up on one stream. roams: whether it goes to the next member when it loses one."""

    def __init__(
        self,
        name: str,
        channels: Sequence[Channel],
        recorder: Recorder,
        interests: Sequence[Interest],
        chance: random.Random,
        *,
        roams: bool,
    ) -> None:
        self.name = name
        self._channels = channels
        self._at = chance.randrange(len(channels))
        self._roams = roams
        self._chance = chance
        self._watches = [Followed(recorder, f"{name}.{number}", each) for number, each in enumerate(interests)]

    def can_finish(self, endpoints: Collection[str]) -> bool:
        """Whether it will hear of everything when only these members are left."""
        return any(channel.target in endpoints for channel in self._channels)

    @property
    def reached(self) -> int:
        """Up to which revision all of its watches were told everything."""
        return min(watch.reached for watch in self._watches)

    async def run(self) -> None:
        """Follow, until cancelled."""
        while True:
            stream = self._channels[self._at].stream(rpcs.WATCH.path)
            try:
                async with asyncio.TaskGroup() as tasks:
                    asking = tasks.create_task(self._ask(stream))
                    try:
                        await self._follow(stream)
                    finally:
                        asking.cancel()
            except* RpcError:
                pass  # The member is gone, or does not want us: the watches go on elsewhere.
            finally:
                stream.cancel()
            if self._roams:
                self._at = (self._at + 1) % len(self._channels)
            await asyncio.sleep(PAUSE_SECONDS * 2)

    async def _follow(self, stream: ClientStream) -> None:
        """Read one stream until it ends, or a watch on it does."""
        for number, watch in enumerate(self._watches, 1):
            stream.write(watch.request(number).SerializeToString())
        while True:
            data: Any = await stream.read()
            if data is EOF:
                return
            response = WatchResponse.FromString(data)
            if response.watch_id < 1:
                for watch in self._watches:
                    watch.take_progress(response.header.revision)
            elif not self._watches[response.watch_id - 1].take(response):
                return

    async def _ask(self, stream: ClientStream) -> None:
        """Ask how far it is, again and again; and leave a member at times without being made to."""
        ask = WatchRequest(progress_request=WatchProgressRequest()).SerializeToString()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS * self._chance.uniform(0.5, 1.5))
            stream.write(ask)
            if self._roams and self._chance.random() < 0.05:
                stream.cancel()
