"""Histories written down by hand, for tests: who called what, from when to when, and what came back."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.history.model import (
    Call,
    Event,
    History,
    KeyValue,
    Op,
    Outcome,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    Watch,
    WatchResponse,
)


def kv(key: bytes, value: bytes, mod: int, create: int = 0, version: int = 1, lease: int = 0) -> KeyValue:
    """A key; created by the write that made it, unless said otherwise."""
    return KeyValue(key, value, create or mod, mod, version, lease)


def shown(revision: int, *kvs: KeyValue) -> RangeResult:
    """The answer of a read."""
    return RangeResult(revision, kvs, len(kvs))


@dataclass(slots=True)
class Script:
    """Each method adds one call; times are small whole numbers."""

    history: History = field(default_factory=History)

    def answered(self, client: str, start: int, end: int, op: Op, result: Result) -> Call:
        return self._add(Call(len(self.history.calls), client, op, start, end, Outcome.ANSWERED, result))

    def unknown(self, client: str, start: int, end: int, op: Op) -> Call:
        return self._add(Call(len(self.history.calls), client, op, start, end, Outcome.UNKNOWN))

    def refused(self, client: str, start: int, end: int, op: Op, error: str) -> Call:
        return self._add(Call(len(self.history.calls), client, op, start, end, Outcome.REFUSED, error=error))

    def put(self, client: str, start: int, end: int, key: bytes, value: bytes, revision: int) -> Call:
        return self.answered(client, start, end, Put(key, value), PutResult(revision))

    def get(self, client: str, start: int, end: int, key: bytes, revision: int, *kvs: KeyValue) -> Call:
        return self.answered(client, start, end, Range(key), shown(revision, *kvs))

    def watch(self, *told: tuple[Event, ...], start: int = 1, prev_kv: bool = False, fragment: bool = False) -> Watch:
        """A watch of everything that was told these responses; an empty one is progress up to revision 100."""
        watch = Watch(
            len(self.history.watches), "watcher", b"\0", b"\0", start, prev_kv=prev_kv, fragment=fragment, at=0
        )
        for number, events in enumerate(told):
            revision = max((event.kv.mod_revision for event in events), default=100)
            watch.log.append(WatchResponse(1000 + number, revision, events, fragment=fragment))
        self.history.watches.append(watch)
        return watch

    def _add(self, call: Call) -> Call:
        self.history.calls.append(call)
        return call


def put_event(
    key: bytes, value: bytes, mod: int, prev: KeyValue | None = None, create: int = 0, version: int = 1
) -> Event:
    return Event(False, kv(key, value, mod, create, version), prev)


def delete_event(key: bytes, mod: int, prev: KeyValue | None = None) -> Event:
    return Event(True, KeyValue(key, mod_revision=mod), prev)
