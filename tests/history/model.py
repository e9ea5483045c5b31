"""What a history is made of: calls with their times and outcomes, watches with all that they were told.

Plain values, so that any client can be recorded: real ones over a network, simulated ones, other languages' from a
file. Knows nothing of what is right or wrong (the checkers), nor of gRPC (convert.py).

Times are integer nanoseconds of one clock that never goes back (`time.monotonic_ns`, or a simulation's); clients on one
machine may be recorded by several processes, since that clock is the machine's. A call happens at some moment between
its start and its end, both included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


@dataclass(slots=True, frozen=True)
class KeyValue:
    """A key as a client saw it. `lease` 0 is none; `version` counts the puts since `create_revision`."""

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


# --- what was asked -------------------------------------------------------------------------------------------------
# `end` is as in the API: empty for one key, b"\0" for "from key on", otherwise the first key that is not meant.


@dataclass(slots=True, frozen=True)
class Put:
    key: bytes
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


@dataclass(slots=True, frozen=True)
class Range:
    """`revision` 0 reads the newest; keys come in ascending order (other orders are the recorder's to undo)."""

    key: bytes
    end: bytes = b""
    limit: int = 0
    revision: int = 0
    serializable: bool = False
    count_only: bool = False
    keys_only: bool = False


@dataclass(slots=True, frozen=True)
class Delete:
    key: bytes
    end: bytes = b""
    prev_kv: bool = False


@dataclass(slots=True, frozen=True)
class Compare:
    """`target` is version, create, mod, value or lease; `relation` is =, !=, > or <; `operand` bytes for a value."""

    key: bytes
    target: str
    relation: str
    operand: bytes | int
    end: bytes = b""


@dataclass(slots=True, frozen=True)
class Txn:
    """All of `then` if every compare holds, else all of `otherwise`, at one revision. Transactions nest."""

    compares: tuple[Compare, ...] = ()
    then: tuple[TxnOp, ...] = ()
    otherwise: tuple[TxnOp, ...] = ()


@dataclass(slots=True, frozen=True)
class Compact:
    revision: int


@dataclass(slots=True, frozen=True)
class Grant:
    """`ttl` in seconds; `lease` 0 lets the server choose the id."""

    ttl: int
    lease: int = 0


@dataclass(slots=True, frozen=True)
class Revoke:
    lease: int


@dataclass(slots=True, frozen=True)
class KeepAlive:
    """One message of a keepalive stream and its answer."""

    lease: int


@dataclass(slots=True, frozen=True)
class TimeToLive:
    lease: int
    keys: bool = False


TxnOp = Put | Range | Delete | Txn
Op = TxnOp | Compact | Grant | Revoke | KeepAlive | TimeToLive

# --- what was answered ----------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class PutResult:
    """`revision`, here and below, is the header's.

    Of a Put, Range, Delete or Txn it is the store's at the very moment of the call, and a call that changed something
    is the one that made this revision. Of all other calls it is some revision that was current during the call.
    """

    revision: int
    prev_kv: KeyValue | None = None


@dataclass(slots=True, frozen=True)
class RangeResult:
    revision: int
    kvs: tuple[KeyValue, ...] = ()
    count: int = 0
    more: bool = False


@dataclass(slots=True, frozen=True)
class DeleteResult:
    revision: int
    deleted: int = 0
    prev_kvs: tuple[KeyValue, ...] = ()


@dataclass(slots=True, frozen=True)
class TxnResult:
    """`results` has one for each operation of the branch taken; their own `revision` may be 0, which is not checked."""

    revision: int
    succeeded: bool
    results: tuple[TxnOpResult, ...] = ()


@dataclass(slots=True, frozen=True)
class CompactResult:
    revision: int


@dataclass(slots=True, frozen=True)
class GrantResult:
    revision: int
    lease: int
    ttl: int


@dataclass(slots=True, frozen=True)
class RevokeResult:
    revision: int


@dataclass(slots=True, frozen=True)
class KeepAliveResult:
    """`ttl` 0: there is no such lease."""

    revision: int
    lease: int
    ttl: int


@dataclass(slots=True, frozen=True)
class TimeToLiveResult:
    """`granted` 0 (and `ttl` -1): there is no such lease. `keys` is None if they were not asked for."""

    revision: int
    lease: int
    ttl: int
    granted: int
    keys: tuple[bytes, ...] | None = None


TxnOpResult = PutResult | RangeResult | DeleteResult | TxnResult
Result = TxnOpResult | CompactResult | GrantResult | RevokeResult | KeepAliveResult | TimeToLiveResult


class Refusal:
    """Names of refusals that tell something of the state, and are therefore checked. Any other text may stand too."""

    LEASE_NOT_FOUND = "LeaseNotFound"
    KEY_NOT_FOUND = "KeyNotFound"
    COMPACTED = "Compacted"
    FUTURE_REV = "FutureRev"


class Outcome(Enum):
    """ANSWERED: `result` is what came back. REFUSED: it did not happen, for sure. UNKNOWN: it may or may not happen, at
    any time after its start, even long after the client has given up."""

    ANSWERED = "answered"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Call:
    """One call of one client. `end` of an UNKNOWN call is when the client gave up, 0 if it never did."""

    id: int
    client: str
    op: Op
    start: int
    end: int = 0
    outcome: Outcome = Outcome.UNKNOWN
    result: Result | None = None
    error: str = ""
    member: int = 0
    """The member that answered, where it is known; for people only."""


# --- watches --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Event:
    """A change. Of a deletion `kv` has only the key and the deletion's `mod_revision`."""

    deleted: bool
    kv: KeyValue
    prev_kv: KeyValue | None = None


@dataclass(slots=True, frozen=True)
class WatchResponse:
    """Something a watch was told. No events, not created and not canceled: a progress notification."""

    at: int
    revision: int
    events: tuple[Event, ...] = ()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    fragment: bool = False
    """More events of the last revision follow in the next response."""


@dataclass(slots=True, frozen=True)
class WatchResumed:
    """The stream was lost and the client asked again from `start_revision` on. It is still the same watch."""

    at: int
    start_revision: int


@dataclass(slots=True)
class Watch:
    """One logical watch: from its creation through all reconnections to its end.

    `start_revision` 0 is from now on: from the revision after that of the `created` response. A watch without one
    starts wherever its first event says, and nothing is missed before it.
    """

    id: int
    client: str
    key: bytes
    end: bytes = b""
    start_revision: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    fragment: bool = False
    at: int = 0
    log: list[WatchResponse | WatchResumed] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """Everything that was recorded of one store, from its empty beginning at revision 1.

    `unrecorded`: revisions, as (first, last) pairs, that something else wrote, so that nothing is known of what they
    changed. A history cut down to what shows a fault has many; a whole one has none. `elsewhere`: likewise, but nothing
    that any recorded call asks about.
    """

    calls: list[Call] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    unrecorded: tuple[tuple[int, int], ...] = ()
    elsewhere: tuple[tuple[int, int], ...] = ()
