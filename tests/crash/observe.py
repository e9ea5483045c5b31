"""Looking at a member through its client API: does it hold what a history says, no more and no less?"""

from __future__ import annotations

import grpc

from kvstore.pb import rpc_pb2 as pb
from tests.cluster.harness.client import Client
from tests.crash.history import TTL, Contents, Row

EVERYTHING = (b"\0", b"\0")


class Lost(AssertionError):
    """A member does not hold what it has acknowledged, or holds what nobody gave it."""


def observe(client: Client, wanted: Contents, or_else: Contents | None) -> Contents:
    """Which of the two a member holds: what was acknowledged, or that and the step under way at the crash.

    Looks at the keys, at the leases with theirs, and at every revision that can still be read. Raises Lost.
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


def difference(client: Client, contents: Contents) -> str | None:
    """In what a member differs from `contents`; None if it does not."""
    answer = client.range(*EVERYTHING)
    if answer.header.revision != contents.revision:
        return f"it is at revision {answer.header.revision}, not at {contents.revision}"
    if (problem := _in_rows(answer, contents.keys)) is not None:
        return f"now, {problem}"
    for revision, keys in contents.past.items():
        if not revision:
            continue
        try:
            problem = _in_rows(client.range(*EVERYTHING, revision=revision), keys)
        except grpc.RpcError as error:
            problem = f"it cannot be read: {error.details()}"
        if problem is not None:
            return f"at revision {revision}, {problem}"
    if contents.compacted and _readable(client, contents.compacted - 1):
        return f"revision {contents.compacted - 1} can be read though {contents.compacted} was compacted"
    return _in_leases(client, contents)


def hash_of_history(client: Client) -> tuple[int, int]:
    """HashKV at the newest revision, and the compacted revision it starts from."""
    answer = client.maintenance.HashKV(pb.HashKVRequest(revision=0))
    return answer.hash, answer.compact_revision


def _in_rows(answer: pb.RangeResponse, wanted: dict[bytes, Row] | object) -> str | None:
    found = {kv.key: Row(kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease) for kv in answer.kvs}
    assert isinstance(wanted, dict)
    if found == wanted:
        return None
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            return f"{key[:60]!r} is {_short(found.get(key))}, not {_short(wanted.get(key))}"
    return None


def _in_leases(client: Client, contents: Contents) -> str | None:
    found = {lease.ID for lease in client.lease.LeaseLeases(pb.LeaseLeasesRequest()).leases}
    if found != contents.leases:
        return f"it has the leases {sorted(found)}, not {sorted(contents.leases)}"
    for lease in sorted(found):
        answer = client.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True))
        keys = sorted(key for key, row in contents.keys.items() if row.lease == lease)
        if sorted(answer.keys) != keys or answer.grantedTTL != TTL or not 0 < answer.TTL <= TTL:
            return f"lease {lease} has {answer.keys}, {answer.TTL} s of {answer.grantedTTL}; not {keys} and {TTL} s"
    return None


def _readable(client: Client, revision: int) -> bool:
    try:
        client.range(b"none", revision=revision)
    except grpc.RpcError as error:
        return "compacted" not in (error.details() or "")
    return True


def _short(row: Row | None) -> str:
    return "missing" if row is None else f"{row.value[:20]!r} {row.created} {row.modified} {row.version} {row.lease}"
