"""Who calls whom: the metadata that every call between members carries, made and checked.

A member of another cluster, a removed one, or one that takes us for somebody else is turned away before anything it
sends is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kvstore.peer.versions import LOWEST, NEWEST, Versions
from kvstore.rpc import RpcError, StatusCode

_CLUSTER: Final = "kvstore-cluster-id"
_FROM: Final = "kvstore-from"
_TO: Final = "kvstore-to"
_VERSIONS: Final = "kvstore-peer-versions"
_URLS: Final = "kvstore-peer-urls"

_ID: Final = re.compile("[0-9a-f]{1,16}")
_RANGE: Final = re.compile("[0-9]{1,9}-[0-9]{1,9}")
_URL: Final = re.compile(r"https?://[!-+\--~]{1,255}:[0-9]{1,5}")
_MAX_URLS: Final = 16


@dataclass(frozen=True, slots=True)
class Caller:
    """What a call says of its two ends. cluster_id and to are 0 where the caller does not know them yet.

    urls: where the caller is reached, for a member that was away when it was added.
    """

    cluster_id: int
    from_: int
    to: int
    versions: Versions = (LOWEST, NEWEST)
    urls: tuple[str, ...] = ()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """As it is sent."""
        low, high = self.versions
        urls = ((_URLS, ",".join(self.urls)),) if self.urls else ()
        return (
            (_CLUSTER, f"{self.cluster_id:x}"),
            (_FROM, f"{self.from_:x}"),
            (_TO, f"{self.to:x}"),
            (_VERSIONS, f"{low}-{high}"),
            *urls,
        )

    @classmethod
    def parse(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """As it was received. Raises RpcError INVALID_ARGUMENT if anything is missing or malformed."""
        given = {key: value for key, value in metadata if isinstance(value, str)}
        try:
            if not _RANGE.fullmatch(given[_VERSIONS]) or not all(
                _ID.fullmatch(given[key]) for key in (_CLUSTER, _FROM, _TO)
            ):
                # int() would take signs, blanks, underscores and the digits of every script.
                raise ValueError("not as metadata() writes it")
            low, _, high = given[_VERSIONS].partition("-")
            cluster, from_, to = (int(given[name], 16) for name in (_CLUSTER, _FROM, _TO))
            # A URL that is none is not worth refusing a member for.
            urls = tuple(url for url in given.get(_URLS, "").split(",")[:_MAX_URLS] if _URL.fullmatch(url))
            return cls(cluster, from_, to, (int(low), int(high)), urls)
        except (KeyError, ValueError) as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "not a call from a member of a kvstore cluster") from error


def check(caller: Caller, cluster_id: int, member_id: int, spoken: Versions) -> None:
    """Raise RpcError unless the caller means this member of this cluster and speaks a common protocol version."""
    if caller.cluster_id not in (0, cluster_id):
        raise RpcError(StatusCode.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch")
    if caller.to not in (0, member_id):
        message = f"this is member {member_id:x}, not {caller.to:x}: check --initial-advertise-peer-urls"
        raise RpcError(StatusCode.FAILED_PRECONDITION, message)
    check_versions(caller.versions, spoken)


def check_versions(theirs: Versions, spoken: Versions) -> None:
    """Raise RpcError, saying who has to be upgraded, unless there is a version that both sides speak."""
    low, high = spoken
    if theirs[1] < low:
        message = (
            f"the cluster speaks version {low} of the protocol between members, and the caller only up to {theirs[1]}; "
            "install the version of kvstore that the other members run, or raise --max-protocol-version"
        )
        raise RpcError(StatusCode.FAILED_PRECONDITION, message)
    if theirs[0] > high:
        message = (
            f"the caller's cluster speaks version {theirs[0]} of the protocol between members, and this member only up "
            f"to {high}; install the version of kvstore that the other members run, or raise --max-protocol-version"
        )
        raise RpcError(StatusCode.FAILED_PRECONDITION, message)


def versions_of(metadata: Iterable[tuple[str, str | bytes]]) -> Versions:
    """What a caller that is no member yet says it speaks. Raises RpcError INVALID_ARGUMENT for what cannot be read."""
    metadata = list(metadata)
    if all(key != _VERSIONS for key, _ in metadata):
        # The first version said nothing when it asked who belongs to a cluster.
        return LOWEST, LOWEST
    return Caller.parse(metadata).versions
