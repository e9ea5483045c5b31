"""Taking down a history while it happens. Knows a clock and nothing of what is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.history.model import Call, Event, History, Op, Outcome, Result, Watch, WatchResponse, WatchResumed


class Recorder:
    """Collects the calls and watches of any number of clients of one event loop.

    clock: nanoseconds that never go back; a simulation gives its own. Several processes each have a recorder: their
    histories are joined when the files are loaded.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._calls: list[Call] = []
        self._watches: list[Watch] = []

    def begin(self, client: str, op: Op) -> Call:
        """Note that a call starts now; do it before anything is sent. Until it is ended below its outcome is unknown.

        A client's name is its lane in the picture. One client may have several calls under way.
        """
        call = Call(id=len(self._calls), client=client, op=op, start=self._clock())
        self._calls.append(call)
        return call

    def answered(self, call: Call, result: Result, member: int = 0) -> None:
        """The call came back with `result`; do it once all of the answer is there."""
        call.end = self._clock()
        call.outcome = Outcome.ANSWERED
        call.result = result
        call.member = member

    def refused(self, call: Call, error: str) -> None:
        """The call failed and has certainly had no effect, now or later. `error`: one of Refusal, or any text."""
        call.end = self._clock()
        call.outcome = Outcome.REFUSED
        call.error = error

    def unknown(self, call: Call, error: str = "") -> None:
        """The client gave the call up (deadline, lost connection, ...): it may have happened, or happen yet."""
        call.end = self._clock()
        call.error = error

    def watch(
        self,
        client: str,
        key: bytes,
        end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        fragment: bool = False,
    ) -> Watch:
        """Note that a watch is asked for. What it is told goes into it through the methods below."""
        watch = Watch(
            id=len(self._watches),
            client=client,
            key=key,
            end=end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            no_put=no_put,
            no_delete=no_delete,
            fragment=fragment,
            at=self._clock(),
        )
        self._watches.append(watch)
        return watch

    def created(self, watch: Watch, revision: int) -> None:
        """The `created` response; `revision` is its header's."""
        watch.log.append(WatchResponse(at=self._clock(), revision=revision, created=True))

    def events(self, watch: Watch, revision: int, events: tuple[Event, ...], fragment: bool = False) -> None:
        """A response with events, in the order they came in. `revision` is the header's."""
        watch.log.append(WatchResponse(at=self._clock(), revision=revision, events=events, fragment=fragment))

    def progress(self, watch: Watch, revision: int) -> None:
        """A progress notification: everything up to `revision` has been told.

        One with watch id -1, the answer to a request, is noted for every watch of its stream.
        """
        watch.log.append(WatchResponse(at=self._clock(), revision=revision))

    def canceled(self, watch: Watch, revision: int, compact_revision: int = 0) -> None:
        """The server ended the watch; `compact_revision` if that was why, after which it may be resumed from there."""
        watch.log.append(
            WatchResponse(at=self._clock(), revision=revision, canceled=True, compact_revision=compact_revision)
        )

    def resumed(self, watch: Watch, start_revision: int) -> None:
        """The watch was asked for again after its stream was lost (a library may do it silently)."""
        watch.log.append(WatchResumed(at=self._clock(), start_revision=start_revision))

    def history(self) -> History:
        """All that was recorded so far; calls under way are unknown ones."""
        return History(calls=list(self._calls), watches=list(self._watches))
