"""Clients that ask for much and never read the answers."""

from __future__ import annotations

import time
from pathlib import Path

from kvstore.pb.rpc_pb2 import PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest
from tests.cluster.harness import Client, Member
from tests.cluster.harness.client import prefix_end
from tests.cluster.harness.waiting import wait_until
from tests.limits import frames
from tests.limits.bystander import Bystander
from tests.limits.crowd import Crowd, Errand
from tests.limits.idle import SETTLE_SECONDS
from tests.limits.member import MemoryWatch, descriptors, one_member
from tests.limits.report import Report

PREFIX = b"large/"
VALUE = b"v" * 1024
OPERATIONS = 100

WINDOWS = {"open": frames.LARGEST_WINDOW, "default": frames.DEFAULT_WINDOW, "closed": 0}
"""Flow control credit that the clients give: all there is, the little that HTTP/2 begins with, or none."""


def fill(client: Client, keys: int) -> None:
    """Put so many large values below the prefix."""
    for first in range(0, keys, OPERATIONS):
        puts = [
            PutRequest(key=PREFIX + b"%08d" % number, value=VALUE)
            for number in range(first, min(keys, first + OPERATIONS))
        ]
        client.kv.Txn(TxnRequest(success=[RequestOp(request_put=put) for put in puts]))


def ranges(count: int) -> tuple[tuple[str, str], ...]:
    """Calls that read everything below the prefix, so many at once."""
    headers = frames.request_headers("/etcdserverpb.KV/Range").hex()
    request = RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX)).SerializeToString().hex()
    return ((headers, request),) * count


def watches(count: int) -> tuple[tuple[str, str], ...]:
    """Streams that watch everything below the prefix, from the beginning of history."""
    headers = frames.request_headers("/etcdserverpb.Watch/Watch").hex()
    create = WatchCreateRequest(key=PREFIX, range_end=prefix_end(PREFIX), start_revision=1)
    return ((headers, WatchRequest(create_request=create).SerializeToString().hex()),) * count


def stalled(directory: Path, clients: int, *, window: str, keys: int = 2_000, calls: int = 10) -> list[Report]:
    """One run with clients that range, one with clients that watch, both against the same member."""
    with one_member(directory) as member:
        with Client(member.endpoint) as client:
            fill(client, keys)
        return [
            never_reading(member, clients, window, "range", ranges(calls), half_close=True),
            never_reading(member, clients, window, "watch", watches(calls), half_close=False),
        ]


def never_reading(
    member: Member, clients: int, window: str, kind: str, calls: tuple[tuple[str, str], ...], *, half_close: bool
) -> Report:
    """Send a crowd that does not read, write below the prefix beside it, and report."""
    errand = Errand(
        "127.0.0.1", member.client_port, clients, 1, WINDOWS[window], calls, half_close=half_close, reads=False
    )
    report = Report(f"{clients} clients that never read, {len(calls)} {kind} calls each, window {window}")
    with Bystander(member.endpoint, PREFIX + b"bystander") as bystander:
        wait_until(lambda: bystander.served >= 10, "the bystander is served", 20)
        memory = MemoryWatch(member)
        open_before = descriptors(member)
        began = time.monotonic()
        with Crowd(errand, 2) as crowd:
            report.standing = crowd.opened()
            seen = bystander.served
            wait_until(lambda: bystander.served >= seen + 20, "the bystander is served beside them", 120)
            report.during = memory.now()
            report.standing = crowd.ask()
            crowd.close()
        wait_until(lambda: descriptors(member) <= open_before + 2, "the connections are gone", SETTLE_SECONDS)
        report.notes.append(("seconds", f"{time.monotonic() - began:.1f}"))
        report.take(memory, bystander)
        memory.close()
    standing = report.standing
    report.notes += [
        ("connections", f"{standing.opened} opened, {standing.refused} refused, {standing.alive} alive at the end")
    ]
    return report
