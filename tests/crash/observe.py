"""Looking at a member through its client API: does it hold what a history says, no more and no less?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import grpc

from kvstore.errors import Compacted
from kvstore.pb import rpc_pb2 as pb
from tests.cluster.harness.client import Client
from tests.crash.history import TTL, Contents, Row


class Lost(AssertionError):
    """A member does not hold what it has acknowledged, or holds what nobody gave it."""


class View(Protocol):
    """How a member is looked at. A revision that was compacted raises Compacted."""

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """A linearizable range."""

    def leases(self) -> pb.LeaseLeasesResponse:
        """All leases."""

    def time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        """What is left of a lease."""

    def members(self) -> Sequence[pb.Member]:
        """Everybody in the cluster."""


class ClientView:
    """Through a connection."""

    def __init__(self, client: Client) -> None:
        """Of the member that the client is connected to."""
        self._client = client

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """As View.range."""
        try:
            answer: pb.RangeResponse = self._client.kv.Range(request)
        except grpc.RpcError as error:
            if "required revision has been compacted" in (error.details() or ""):
                raise Compacted from error
            raise
        return answer

    def leases(self) -> pb.LeaseLeasesResponse:
        """As View.leases."""
        answer: pb.LeaseLeasesResponse = self._client.lease.LeaseLeases(pb.LeaseLeasesRequest())
        return answer

    def time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        """As View.time_to_live."""
        answer: pb.LeaseTimeToLiveResponse = self._client.lease.LeaseTimeToLive(request)
        return answer

    def members(self) -> Sequence[pb.Member]:
        """As View.members."""
        return self._client.members()


def observe(client: View, wanted: Contents, or_else: Contents | None) -> Contents:
    """Which of the two a member holds: what was acknowledged, or that and the step under way at the crash.

    Looks at the keys, at the leases with theirs, at every revision that can still be read, and at who belongs to the
    cluster. Raises Lost.
    """
    problems = []
    for contents in [wanted, or_else]:
        if contents is None:
            continue
        found = difference(client, contents)
        if found is None:
            return contents
        problems.append(found)
    raise Lost("; with the step under way at the crash: ".join(problems))


def difference(client: View, contents: Contents) -> str | None:
    """In what a member differs from `contents`; None if it does not."""
    answer = client.range(pb.RangeRequest(key=b"\0", range_end=b"\0"))
    if answer.header.revision != contents.revision:
        return f"it is at revision {answer.header.revision}, not at {contents.revision}"
    if (problem := _in_rows(answer, contents.keys)) is not None:
        return f"now, {problem}"
    for revision, keys in contents.past.items():
        if not revision:
            continue
        try:
            answer = client.range(pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
            problem = _in_rows(answer, keys)
        except Compacted:
            problem = "it cannot be read: it is said to have been compacted"
        if problem is not None:
            return f"at revision {revision}, {problem}"
    if contents.compacted and _readable(client, contents.compacted - 1):
        return f"revision {contents.compacted - 1} can be read though {contents.compacted} was compacted"
    learners = {url for member in client.members() if member.isLearner for url in member.peerURLs}
    if learners != contents.learners:
        return f"it has the learners {sorted(learners)}, not {sorted(contents.learners)}"
    return _in_leases(client, contents)


def hash_of_history(client: Client) -> tuple[int, int]:
    """HashKV at the newest revision, and the compacted revision it starts from."""
    answer = client.maintenance.HashKV(pb.HashKVRequest(revision=0))
    return answer.hash, answer.compact_revision


def _in_rows(answer: pb.RangeResponse, wanted: Mapping[bytes, Row]) -> str | None:
    found = {kv.key: Row(kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease) for kv in answer.kvs}
    if found == wanted:
        return None
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            return f"{key[:60]!r} is {_short(found.get(key))}, not {_short(wanted.get(key))}"
    return None


def _in_leases(client: View, contents: Contents) -> str | None:
    found = {lease.ID for lease in client.leases().leases}
    if found != contents.leases:
        return f"it has the leases {sorted(found)}, not {sorted(contents.leases)}"
    for lease in sorted(found):
        answer = client.time_to_live(pb.LeaseTimeToLiveRequest(ID=lease, keys=True))
        keys = sorted(key for key, row in contents.keys.items() if row.lease == lease)
        if sorted(answer.keys) != keys or answer.grantedTTL != TTL or not 0 < answer.TTL <= TTL:
            return f"lease {lease} has {answer.keys}, {answer.TTL} s of {answer.grantedTTL}; not {keys} and {TTL} s"
    return None


def _readable(client: View, revision: int) -> bool:
    try:
        client.range(pb.RangeRequest(key=b"none", revision=revision))
    except Compacted:
        return False
    return True


def _short(row: Row | None) -> str:
    return "missing" if row is None else f"{row.value[:20]!r} {row.created} {row.modified} {row.version} {row.lease}"
