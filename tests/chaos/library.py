"""Clients that use kvstore's own client library, over grpcio: its choice of members, its repetitions, its watcher."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from kvstore.client import Client, Event, EventType, KeyRange, KeyValue, errors
from kvstore.client.endpoint import ChannelConfig
from kvstore.client.rpcs import Rpc
from kvstore.client.transport import Transport
from tests.chaos.session import CALL_SECONDS, PAUSE_SECONDS, Ledger
from tests.history import Recorder, model
from tests.history.convert import operation
from tests.history.model import Watch

DIAL_SECONDS = 2.0


class LibrarySession:
    """One client of the library; what it does is recorded as a Session's calls are."""

    def __init__(self, name: str, endpoints: Sequence[str], ledger: Ledger) -> None:
        self.name = name
        self.ledger = ledger
        config = ChannelConfig(None, DIAL_SECONDS, 2.0, 3.0)
        self._transport = Transport(endpoints, config, CALL_SECONDS, "", "")

    async def call(self, rpc: Rpc[Any, Any], request: Any) -> Any | None:
        """Make a call and record it: its response, or None if it failed."""
        call = self.ledger.recorder.begin(self.name, operation(request))
        try:
            response = await self._transport.unary(rpc, request)
        except errors.ClientError as error:
            self.ledger.failed(call, error.text if isinstance(error, errors.ServerError) else type(error).__name__)
            await asyncio.sleep(PAUSE_SECONDS)
            return None
        self.ledger.answered(call, response)
        return response

    async def close(self) -> None:
        await self._transport.close()


class LibraryFollower:
    """A watch that the library keeps up by itself."""

    def __init__(self, name: str, endpoints: Sequence[str], recorder: Recorder, key: bytes, end: bytes) -> None:
        self.name = name
        self.reached = 0
        self._endpoints = endpoints
        self._recorder = recorder
        self._range = KeyRange(key, end)
        self._watch: Watch = recorder.watch(name, key, end, start_revision=1, prev_kv=True)

    def can_finish(self, endpoints: Collection[str]) -> bool:
        """Whether it will hear of everything when only these members are left."""
        return any(endpoint in endpoints for endpoint in self._endpoints)

    async def run(self) -> None:
        """Follow, until cancelled."""
        start = 1
        async with Client(self._endpoints, keepalive_time=2.0, keepalive_timeout=3.0) as client:
            while True:
                try:
                    async with client.watch(self._range, start_revision=start, prev_kv=True) as watcher:
                        asking = asyncio.create_task(_ask(watcher))
                        try:
                            async for response in watcher:
                                self._take(response.header.revision, response.events)
                        finally:
                            asking.cancel()
                except errors.Compacted as error:
                    start = max(self.reached + 1, error.compact_revision)
                    self._recorder.canceled(self._watch, 0, error.compact_revision)
                    self._recorder.resumed(self._watch, start)

    def _take(self, revision: int, events: Sequence[Event]) -> None:
        if events:
            self._recorder.events(self._watch, revision, tuple(map(_event, events)))
            self.reached = events[-1].kv.mod_revision
        else:
            self._recorder.progress(self._watch, revision)
            self.reached = max(self.reached, revision)


async def _ask(watcher: Any) -> None:
    while True:
        await asyncio.sleep(1.0)
        await watcher.request_progress()


def _event(event: Event) -> model.Event:
    previous = _key_value(event.prev_kv) if event.prev_kv is not None else None
    return model.Event(deleted=event.type is EventType.DELETE, kv=_key_value(event.kv), prev_kv=previous)


def _key_value(kv: KeyValue) -> model.KeyValue:
    return model.KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
