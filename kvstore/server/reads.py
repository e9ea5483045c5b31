"""Linearizable reads: the ReadIndex rounds that confirm, for many reads at once, how far the log was committed.

A read waits for a round that began after the read arrived; a round under way may have fixed its index before a write
that the reader already knows of. Then it waits until this member has applied that index (dissertation, 6.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(slots=True)
class _Round:
    waiters: list[Waiter]
    deadline: float
    sent: float


class ReadRounds:
    """The reads of one member that wait for a quorum's word, or for the log to be applied.

    member_id, first: make contexts that no other member uses and this one never used, also before a restart.
    read_index: asks raft to confirm a context. timeout: seconds a read waits at most.
    """

    def __init__(self, member_id: int, first: int, read_index: Callable[[bytes], None], timeout: float) -> None:
        self._prefix = member_id.to_bytes(8, "big")
        self._next = first
        self._read_index = read_index
        self._timeout = timeout
        self._joining: list[Waiter] = []
        self._joining_since = 0.0
        self._rounds: dict[bytes, _Round] = {}
        # Index, deadline, and who waits for the index to be applied.
        self._confirmed: list[tuple[int, float, list[Waiter]]] = []
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
        self._send(_Round(waiters, self._joining_since + self._timeout, now))

    def confirmed(self, states: Sequence[ReadState], applied: int) -> None:
        """Take raft's answers. Reads whose index is applied are served at once."""
        for state in states:
            answered = self._rounds.pop(state.request_ctx, None)
            if answered is None:
                continue
            if state.index <= applied:
                for waiter in answered.waiters:
                    waiter(None)
            else:
                self._confirmed.append((state.index, answered.deadline, answered.waiters))

    def applied(self, index: int) -> None:
        """Serve the reads that waited for `index` to be applied."""
        if not self._confirmed:
            return
        ready = [waiters for needed, _, waiters in self._confirmed if needed <= index]
        if ready:
            self._confirmed = [row for row in self._confirmed if row[0] > index]
            for waiters in ready:
                for waiter in waiters:
                    waiter(None)

    def tick(self, now: float) -> None:
        """Begin rounds again that got no answer, and give up on those that waited too long."""
        for context, round_ in list(self._rounds.items()):
            if round_.deadline <= now:
                del self._rounds[context]
                self._fail(round_.waiters, errors.RequestTimeout())
            elif round_.sent + RETRY_SECONDS <= now:
                del self._rounds[context]
                self.slow_total += 1
                self._send(round_)
                round_.sent = now
        if self._joining and self._joining_since + self._timeout <= now:
            waiters, self._joining = self._joining, []
            self._fail(waiters, errors.RequestTimeout())
        if self._confirmed:
            late = [row for row in self._confirmed if row[1] <= now]
            self._confirmed = [row for row in self._confirmed if row[1] > now]
            for _, _, waiters in late:
                self._fail(waiters, errors.TimeoutWaitAppliedIndex())

    def restart(self, now: float) -> None:
        """Begin all rounds again: there is a new leader, the old one's answers will not come."""
        for context, round_ in list(self._rounds.items()):
            del self._rounds[context]
            round_.sent = now
            self._send(round_)

    def fail_all(self, error: errors.KvstoreError) -> None:
        """Fail everything: the member stops."""
        late = [self._joining, *(r.waiters for r in self._rounds.values()), *(w for _, _, w in self._confirmed)]
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
