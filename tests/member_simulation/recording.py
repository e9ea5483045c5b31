"""Takes down a world's history as `tests/history` wants it: what every client asked and was told, in the world's time.

The checks of clients.py know the log; these know only what clients saw, as the nemesis does with real processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import Message

from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import RpcError
from tests.history import Recorder
from tests.history.convert import NotRecordable, events, operation, result
from tests.history.model import Call, Compact, History, Refusal, TimeToLive, TimeToLiveResult, Watch
from tests.history.plan import SECOND

_REFUSALS: Final = {
    "etcdserver: requested lease not found": Refusal.LEASE_NOT_FOUND,
    "etcdserver: key not found": Refusal.KEY_NOT_FOUND,
    "etcdserver: mvcc: required revision has been compacted": Refusal.COMPACTED,
    "etcdserver: mvcc: required revision is a future revision": Refusal.FUTURE_REV,
}
"""Refusals that tell something of the state; the checker knows no other by name."""


class Scribe:
    """Writes one history. now: the world's clock, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._recorder = Recorder(lambda: round(now() * SECOND))

    @property
    def history(self) -> History:
        """All that was taken down so far."""
        return self._recorder.history()

    # Calls.

    def asked(self, client: str, request: Message) -> Call | None:
        """A call begins; None for one that says nothing of the store."""
        try:
            return self._recorder.begin(client, operation(request))
        except NotRecordable:
            return None

    def answered(self, call: Call | None, response: Message) -> None:
        """It was answered."""
        if call is None:
            return
        told = result(response)
        if isinstance(call.op, TimeToLive) and not call.op.keys and isinstance(told, TimeToLiveResult):
            # The message does not tell keys that were not asked for from none.
            told = TimeToLiveResult(told.revision, told.lease, told.ttl, told.granted)
        self._recorder.answered(call, told)

    def failed(self, call: Call | None, error: RpcError, refused: bool) -> None:
        """It failed. refused: it has no effect, now or later."""
        if call is None:
            return
        if refused:
            self._recorder.refused(call, _REFUSALS.get(error.message, error.message))
        else:
            self._recorder.unknown(call, error.message)

    def compacted(self, revision: int) -> None:
        """A member compacted by itself, as it is told to from time to time."""
        self._recorder.unknown(self._recorder.begin("compactor", Compact(revision)), "nobody waits for it")

    # Watches.

    def watch(self, client: str, create: pb.WatchCreateRequest, revision: int) -> Watch:
        """A watch from now on was created, by a response of this revision."""
        watch = self._recorder.watch(
            client,
            create.key,
            create.range_end,
            prev_kv=create.prev_kv,
            no_put=pb.WatchCreateRequest.NOPUT in create.filters,
            no_delete=pb.WatchCreateRequest.NODELETE in create.filters,
            fragment=create.fragment,
        )
        self._recorder.created(watch, revision)
        return watch

    def resumed(self, watch: Watch, start_revision: int) -> None:
        """It is asked for again, somewhere."""
        self._recorder.resumed(watch, start_revision)

    def told(self, watch: Watch, response: pb.WatchResponse) -> None:
        """It was told something."""
        revision = response.header.revision
        if response.canceled:
            self._recorder.canceled(watch, revision, response.compact_revision)
        elif response.events:
            self._recorder.events(watch, revision, events(response), response.fragment)
        elif not response.created:
            self._recorder.progress(watch, revision)
