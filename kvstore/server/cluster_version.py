"""The version of the protocol between members that a whole cluster uses: agreed on through the log, never lowered.

Every member says what it speaks when it connects to another. When the leader is connected to all members, learners too,
and all speak more than the cluster uses, it puts the new version into the log. Whoever applies that entry may count on
everybody from then on, and turns away whoever speaks less.

Knows which versions there are; not what each of them brought.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Final, Protocol

import structlog

from kvstore.pb import internal_pb2
from kvstore.peer.versions import LOWEST, Versions
from kvstore.rpc import Promise
from kvstore.server.membership import Membership
from kvstore.server.proposals import Proposer
from kvstore.storage.errors import ProtocolTooOld
from kvstore.storage.meta import MetaReader

CLUSTER_VERSION: Final = "cluster_version"
"""Name of the version's row in the state's meta table; not there: the lowest."""


def encode_version(version: int) -> bytes:
    """The row's value."""
    return version.to_bytes(4, "big")


class ClusterVersion:
    """The version that the cluster uses, as far as this member has applied the log.

    meta: the state's meta table. highest: the highest version that this member speaks.
    """

    def __init__(self, meta: MutableMapping[str, bytes], highest: int) -> None:
        self._meta = meta
        self.highest = highest
        self.current = LOWEST
        self._log = structlog.get_logger("kvstore.member")
        self.reload()

    @property
    def spoken(self) -> Versions:
        """What this member speaks with others."""
        return self.current, self.highest

    def reload(self) -> None:
        """Read it again: the state was replaced. Raises ProtocolTooOld."""
        row = self._meta.get(CLUSTER_VERSION)
        current = int.from_bytes(row, "big") if row else LOWEST
        self._check(current)
        self.current = current

    def apply(self, request: internal_pb2.ClusterVersion) -> None:
        """Use what the leader has decided. Raises ProtocolTooOld: a member that cannot must stop."""
        self._check(request.version)
        # One leader may repeat what another has decided.
        if request.version > self.current:
            self.current = request.version
            self._meta[CLUSTER_VERSION] = encode_version(request.version)
            self._log.info("the cluster speaks a newer protocol between members", version=request.version)

    def _check(self, version: int) -> None:
        if version > self.highest:
            raise ProtocolTooOld(
                f"the cluster has gone on to version {version} of the protocol between members, and this member speaks "
                f"only up to {self.highest}; {_WAY_OUT}"
            )


_WAY_OUT: Final = (
    "install the version of kvstore that the other members run, or raise --max-protocol-version. To go back to an "
    "older version of kvstore, restore a snapshot as a new cluster"
)


def check_stored(meta: MetaReader, highest: int, path: object) -> None:
    """Raise ProtocolTooOld if a state counts on a version that this member does not speak. path: for the message."""
    row = meta.get(CLUSTER_VERSION.encode())
    version = int.from_bytes(row, "big") if row else LOWEST
    if version > highest:
        raise ProtocolTooOld(
            f"{path}: belongs to a cluster that speaks version {version} of the protocol between members, and this "
            f"member speaks only up to {highest}; {_WAY_OUT}"
        )


class Connections(Protocol):
    """Who can be reached."""

    def active_since(self, member: int) -> float | None:
        """Since when a member has been heard without a break; None if it is not heard now."""


class VersionKeeper:
    """Raises the cluster's version, as its leader, once all members speak a higher one.

    is_leader: whether this member leads now.
    """

    def __init__(
        self,
        member_id: int,
        version: ClusterVersion,
        membership: Membership,
        connections: Connections,
        proposer: Proposer,
        is_leader: Callable[[], bool],
    ) -> None:
        self._id = member_id
        self._version = version
        self._membership = membership
        self._connections = connections
        self._proposer = proposer
        self._is_leader = is_leader
        self._spoken: dict[int, int] = {}
        self._proposed = False

    def speaks(self, member: int, versions: Versions) -> None:
        """A member has connected and said what it speaks."""
        self._spoken[member] = versions[1]

    def tick(self) -> None:
        """Look whether the version can be raised; to be called from time to time."""
        version = self._version
        if self._proposed or version.current == version.highest or not self._is_leader():
            return
        possible = self._possible([member.ID for member in self._membership.all()])
        if possible <= version.current:
            return
        self._proposed = True
        self._proposer.propose("cluster_version", internal_pb2.ClusterVersion(version=possible)).then(self._answered)

    def _possible(self, members: Iterable[int]) -> int:
        """The highest version that all members speak; 0 while that is not known of all of them."""
        others = [member for member in members if self._id != member]
        # What an unconnected member has said last may not be what it says when it is back.
        if any(self._connections.active_since(member) is None for member in others):
            return 0
        return min([self._version.highest, *(self._spoken.get(member, 0) for member in others)])

    def _answered(self, answer: Promise[bytes]) -> None:
        # Whatever has come of it: the next tick sees whether it has to be done again.
        self._proposed = False
