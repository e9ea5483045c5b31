"""Who calls whom: the metadata that every call between members carries, made and checked.

A member of another cluster, a removed one, or one that takes us for somebody else is turned away before anything it
sends is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kvstore.rpc import RpcError, StatusCode

PROTOCOL_VERSIONS: Final = (1, 1)
"""Lowest and highest version of the peer protocol that this build speaks."""

_CLUSTER: Final = "kvstore-cluster-id"
_FROM: Final = "kvstore-from"
_TO: Final = "kvstore-to"
_VERSIONS: Final = "kvstore-peer-versions"


@dataclass(frozen=True, slots=True)
class Caller:
    """What a call says of its two ends. cluster_id and to are 0 where the caller does not know them yet."""

    cluster_id: int
    from_: int
    to: int
    versions: tuple[int, int] = PROTOCOL_VERSIONS

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As it is sent."""
        low, high = self.versions
        return (
            (_CLUSTER, f"{self.cluster_id:x}"),
            (_FROM, f"{self.from_:x}"),
            (_TO, f"{self.to:x}"),
            (_VERSIONS, f"{low}-{high}"),
        )

    @classmethod
    def parse(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """As it was received. Raises RpcError INVALID_ARGUMENT if anything is missing or malformed."""
        given = {key: value for key, value in metadata if isinstance(value, str)}
        try:
            low, _, high = given[_VERSIONS].partition("-")
            cluster, from_, to = (int(given[name], 16) for name in (_CLUSTER, _FROM, _TO))
            return cls(cluster, from_, to, (int(low), int(high)))
        except (KeyError, ValueError) as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "not a call from a member of a kvstore cluster") from error


def check(caller: Caller, cluster_id: int, member_id: int) -> None:
    """Raise RpcError unless the caller means this member of this cluster and speaks a common protocol version."""
    if caller.cluster_id not in (0, cluster_id):
        raise RpcError(StatusCode.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch")
    if caller.to not in (0, member_id):
        message = f"this is member {member_id:x}, not {caller.to:x}: check --initial-advertise-peer-urls"
        raise RpcError(StatusCode.FAILED_PRECONDITION, message)
    low, high = PROTOCOL_VERSIONS
    if caller.versions[0] > high or caller.versions[1] < low:
        theirs = "{} to {}".format(*caller.versions)
        message = f"no common peer protocol version: here {low} to {high}, there {theirs}"
        raise RpcError(StatusCode.FAILED_PRECONDITION, message)
