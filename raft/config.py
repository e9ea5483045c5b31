"""What a member is given when it starts: identity, limits, switches, and the sources of everything not deterministic.

Validated once, here; the rest of the library trusts it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Protocol

from raft.errors import ConfigError
from raft.messages import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NO_LIMIT, NONE, ReadOnlyOption
from raft.storage import Storage


class Logger(Protocol):
    """Where the library tells what happens. Messages are complete lines without a level or a time."""

    def debug(self, message: str) -> None:
        """What is of use only to who follows each message."""

    def info(self, message: str) -> None:
        """What changes a member's role or its view of its peers."""

    def warning(self, message: str) -> None:
        """What should not happen often."""

    def error(self, message: str) -> None:
        """What should not happen."""


class SilentLogger:
    """The default: says nothing."""

    def debug(self, message: str) -> None:
        """Discard."""

    def info(self, message: str) -> None:
        """Discard."""

    def warning(self, message: str) -> None:
        """Discard."""

    def error(self, message: str) -> None:
        """Discard."""


class RandomSource(Protocol):
    """What election timeouts are drawn from; random.Random(seed) is one."""

    def randrange(self, stop: int, /) -> int:
        """A number 0 <= n < stop."""


class TraceSink(Protocol):
    """Takes one JSON object a line for every transition, as the TLA+ trace checker reads them."""

    def __call__(self, line: str, /) -> None:
        """Keep the line; it has no line end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a member needs. Sizes are bytes, times are ticks; a limit of 0 or NO_LIMIT never limits.

    id: this member, not NONE and not one of the two thread ids.
    election_tick: ticks without a leader before campaigning (randomised up to twice that); above heartbeat_tick.
    heartbeat_tick: ticks between a leader's heartbeats.
    storage: the stable log, read when the member starts and whenever older entries are needed.
    applied: the last index the state machine has applied, so that a restart does not hand it out again. Not above
    the commit index that the storage holds.
    async_storage_writes: storage work comes as messages to two threads, and advance() is not used.
    max_size_per_msg: encoded entries in one append; at least one entry is sent. 0 means one entry a message.
    max_committed_size_per_ready: encoded entries in one Ready to apply; 0 takes max_size_per_msg.
    max_uncommitted_entries_size: payload a leader's log may hold uncommitted before proposals are dropped.
    max_inflight_msgs: appends that may be unacknowledged by a peer.
    max_inflight_bytes: payload that may be unacknowledged by a peer; at least max_size_per_msg.
    check_quorum: a leader steps down if it does not hear from a quorum for an election timeout.
    pre_vote: ask whether an election could be won before disturbing the term (dissertation, 9.6).
    read_only_option: LEASE_BASED needs check_quorum and clocks with bounded drift.
    disable_proposal_forwarding: a follower drops proposals instead of sending them to the leader.
    disable_conf_change_validation: the owner makes sure itself that no two changes are under way.
    step_down_on_removal: a leader steps down once it is removed or demoted, instead of going on without a vote.
    random_source: drawn from at every change of role or term; seed it for a reproducible run.
    logger: silent by default. trace: nothing is computed while it is None.
    """

    id: int
    election_tick: int
    heartbeat_tick: int
    storage: Storage
    applied: int = 0
    async_storage_writes: bool = False
    max_size_per_msg: int = NO_LIMIT
    max_committed_size_per_ready: int = 0
    max_uncommitted_entries_size: int = 0
    max_inflight_msgs: int = 256
    max_inflight_bytes: int = 0
    check_quorum: bool = False
    pre_vote: bool = False
    read_only_option: ReadOnlyOption = ReadOnlyOption.SAFE
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    step_down_on_removal: bool = False
    random_source: RandomSource = field(default_factory=random.SystemRandom)
    logger: Logger = field(default_factory=SilentLogger)
    trace: TraceSink | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot work."""
        if self.id == NONE:
            raise ConfigError("id: 0 stands for no member and cannot be one's id")
        if self.id in (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD):
            raise ConfigError("id: the two highest ids stand for the storage threads")
        if self.heartbeat_tick <= 0:
            raise ConfigError("heartbeat_tick: must be greater than 0")
        if self.election_tick <= self.heartbeat_tick:
            raise ConfigError("election_tick: must be greater than heartbeat_tick")
        if self.max_inflight_msgs <= 0:
            raise ConfigError("max_inflight_msgs: must be greater than 0")
        if self.max_inflight_bytes and self.max_inflight_bytes < self.max_size_per_msg:
            raise ConfigError("max_inflight_bytes: must be at least max_size_per_msg")
        if self.read_only_option is ReadOnlyOption.LEASE_BASED and not self.check_quorum:
            raise ConfigError("read_only_option: LEASE_BASED needs check_quorum")

    @property
    def committed_size_limit(self) -> int:
        """Bytes of entries to apply in one Ready. As with messages, the smallest limit means one entry at a time."""
        return self.max_committed_size_per_ready or self.max_size_per_msg or 1

    @property
    def uncommitted_size_limit(self) -> int:
        """Bytes of uncommitted payload on a leader."""
        return self.max_uncommitted_entries_size or NO_LIMIT

    @property
    def inflight_bytes_limit(self) -> int:
        """Bytes of unacknowledged payload to a peer."""
        return self.max_inflight_bytes or NO_LIMIT
