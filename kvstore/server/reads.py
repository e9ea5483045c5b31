"""Linearizable reads: the ReadIndex rounds that confirm, for many reads at once, how far the log was committed.

A read waits for a round that began after the read arrived; a round under way may have fixed its index before a write
that the reader already knows of. Then it waits until this member has applied that index (dissertation, 6.4). A member
whose disk is full may not apply anything for as long as it is: there a read does not wait long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from kvstore import errors
from raft.messages import ReadState

Waiter = Callable[[errors.KvstoreError | None], None]
"""Called once: with None when the read may be served, else with the reason why not."""

MAX_JOINING: Final = 20_000
"""Reads that may wait for the next round; more are refused."""

MAX_ROUNDS: Final = 4
"""Rounds under way at once; more would only add heartbeats."""

RETRY_SECONDS: Final = 0.5
"""After this long a round is begun again: its messages, or the leader they went to, may be gone."""

FULL_SECONDS: Final = 0.2
"""How long a read waits for what is to be applied while the disk is full."""


@dataclass(slots=True)
class _Round:
    waiters: list[Waiter]
    since: float
    sent: float


@dataclass(slots=True)
class _Confirmed:
    """Reads that wait for an index to be applied: since when in all, and since when the disk has been found full."""

    index: int
    since: float
    waiters: list[Waiter]
    full_since: float | None = None


def _never() -> bool:
    return False


class ReadRounds:
    """The reads of one member that wait for a quorum's word, or for the log to be applied.

    member_id, first: make contexts that no other member uses and this one never used, also before a restart.
    read_index: asks raft to confirm a context. timeout: seconds a read waits at most. disk_full: whether it is now;
    reads that would have to wait for it fail with NoRoomToCatchUp. measure: times the reads that are served within.
    """

    def __init__(
        self,
        member_id: int,
        first: int,
        read_index: Callable[[bytes], None],
        timeout: float,
        disk_full: Callable[[], bool] = _never,
        *,
        measure: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._prefix = member_id.to_bytes(8, "big")
        self._next = first
        self._read_index = read_index
        self._timeout = timeout
        self._disk_full = disk_full
        self._measure = measure
        self._joining: list[Waiter] = []
        self._joining_since = 0.0
        self._rounds: dict[bytes, _Round] = {}
        self._confirmed: list[_Confirmed] = []
        # What was applied last when reads found it to be too little and the disk full.
        self._stuck_at = -1
        self._applied = 0
        self.failed_total = 0
        self.slow_total = 0

    def join(self, waiter: Waiter, now: float) -> None:
        """Let a read wait for the next round. With too many there already, it is called back with that at once."""
        if not self._joining:
            self._joining_since = now
        elif len(self._joining) >= MAX_JOINING:
            waiter(errors.RequestTooManyRequests())
            return
        self._joining.append(waiter)

    @property
    def joining(self) -> int:
        """Reads that wait for the next round."""
        return len(self._joining)

    @property
    def wants_round(self) -> bool:
        """Whether a round should begin now."""
        return bool(self._joining) and len(self._rounds) < MAX_ROUNDS

    def begin(self, now: float) -> None:
        """Begin a round for all that joined."""
        waiters, self._joining = self._joining, []
        self._send(_Round(waiters, self._joining_since, now))

    def confirmed(self, states: Sequence[ReadState], applied: int) -> None:
        """Take raft's answers. Reads whose index is applied are served at once."""
        self._applied = applied
        with self._measure():
            for state in states:
                answered = self._rounds.pop(state.request_ctx, None)
                if answered is None:
                    continue
                if state.index <= applied:
                    for waiter in answered.waiters:
                        waiter(None)
                elif applied == self._stuck_at and self._disk_full():
                    self._fail(answered.waiters, errors.NoRoomToCatchUp())
                else:
                    self._confirmed.append(_Confirmed(state.index, answered.since, answered.waiters))

    def applied(self, index: int) -> None:
        """Serve the reads that waited for `index` to be applied."""
        self._applied = index
        if not self._confirmed:
            return
        ready = [row for row in self._confirmed if row.index <= index]
        if ready:
            self._confirmed = [row for row in self._confirmed if row.index > index]
            with self._measure():
                for row in ready:
                    for waiter in row.waiters:
                        waiter(None)

    def tick(self, now: float) -> None:
        """Begin rounds again that got no answer, and give up on those that waited too long."""
        for context, round_ in list(self._rounds.items()):
            if round_.since + self._timeout <= now:
                del self._rounds[context]
                self._fail(round_.waiters, errors.RequestTimeout())
            elif round_.sent + RETRY_SECONDS <= now:
                del self._rounds[context]
                self.slow_total += 1
                self._send(round_)
                round_.sent = now
        if self._joining and self._joining_since + self._timeout <= now:
            self._fail_joining(errors.RequestTimeout())
        # No round was begun although one might have been: the state is being replaced, and waits for room.
        elif self.wants_round and self._joining_since + FULL_SECONDS <= now and self._disk_full():
            self._fail_joining(errors.NoRoomToCatchUp())
        if self._confirmed:
            self._give_up_confirmed(now)

    def _fail_joining(self, error: errors.KvstoreError) -> None:
        waiters, self._joining = self._joining, []
        self._fail(waiters, error)

    def _give_up_confirmed(self, now: float) -> None:
        disk_full = self._disk_full()
        late: list[_Confirmed] = []
        waiting: list[_Confirmed] = []
        for row in self._confirmed:
            if not disk_full:
                row.full_since = None
                until = row.since + self._timeout
            else:
                # Not since it came: the round may have taken long, and what it confirmed be about to be applied.
                if row.full_since is None:
                    row.full_since = now
                until = row.full_since + FULL_SECONDS
            (late if until <= now else waiting).append(row)
        if not late:
            return
        self._confirmed = waiting
        if disk_full:
            self._stuck_at = self._applied
        error = errors.NoRoomToCatchUp() if disk_full else errors.TimeoutWaitAppliedIndex()
        for row in late:
            self._fail(row.waiters, error)

    def restart(self, now: float) -> None:
        """Begin all rounds again: there is a new leader, the old one's answers will not come."""
        for context, round_ in list(self._rounds.items()):
            del self._rounds[context]
            round_.sent = now
            self._send(round_)

    def fail_all(self, error: errors.KvstoreError) -> None:
        """Fail everything: the member stops."""
        late = [self._joining, *(r.waiters for r in self._rounds.values()), *(r.waiters for r in self._confirmed)]
        self._joining, self._confirmed = [], []
        self._rounds.clear()
        for waiters in late:
            self._fail(waiters, error)

    def _send(self, round_: _Round) -> None:
        context = self._prefix + self._next.to_bytes(8, "big")
        self._next += 1
        self._rounds[context] = round_
        self._read_index(context)

    def _fail(self, waiters: list[Waiter], error: errors.KvstoreError) -> None:
        self.failed_total += len(waiters)
        for waiter in waiters:
            waiter(error)
