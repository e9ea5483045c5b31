"""Clients that ask for much and never read the answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from kvstore.pb.rpc_pb2 import (
    PutRequest,
    RangeRequest,
    RequestOp,
    SnapshotRequest,
    TxnRequest,
    WatchCreateRequest,
    WatchRequest,
)
from tests.cluster.harness import Client, Member
from tests.cluster.harness.client import prefix_end
from tests.cluster.harness.waiting import wait_until
from tests.limits import frames
from tests.limits.bystander import Bystander
from tests.limits.crowd import Crowd, Errand
from tests.limits.idle import SETTLE_SECONDS
from tests.limits.member import MemoryWatch, descriptors, one_member, processes_of
from tests.limits.report import Report

PREFIX = b"large/"
VALUE = b"v" * 1024
OPERATIONS = 100

WINDOWS = {"open": frames.LARGEST_WINDOW, "default": frames.DEFAULT_WINDOW, "closed": 0}
"""Flow control credit that the clients give: all there is, the little that HTTP/2 begins with, or none."""

BUSY_VALUE = b"w" * 20_000
BUSY_SECONDS = 0.02

UNFINISHED_BYTES = 600_000
"""Of a request that never becomes whole: what a stream may send that is not acknowledged."""

FLOOD_CALLS = 50
"""Calls that a client of a flood makes in one go, before it tries to make as many again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What clients that never read, or never finish, ask for, as of Errand.

    busy: whether what they watch is written all the while.
    """

    calls: tuple[tuple[str, str], ...] = ()
    half_close: bool = True
    floods: bool = False
    raw: str = ""
    busy: bool = False


def fill(client: Client, keys: int) -> None:
    """Put so many large values below the prefix."""
    for first in range(0, keys, OPERATIONS):
        puts = [
            PutRequest(key=PREFIX + b"%08d" % number, value=VALUE)
            for number in range(first, min(keys, first + OPERATIONS))
        ]
        client.kv.Txn(TxnRequest(success=[RequestOp(request_put=put) for put in puts]))


def ranges(count: int) -> Kind:
    """Read everything below the prefix, so many times at once."""
    return Kind(_calls("KV/Range", RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX)), count))


def transactions(count: int) -> Kind:
    """The same in transactions that only read."""
    everything = RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX))
    return Kind(_calls("KV/Txn", TxnRequest(success=[RequestOp(request_range=everything)]), count))


def streams(count: int) -> Kind:
    """The same as streams."""
    return Kind(_calls("KV/RangeStream", RangeRequest(key=PREFIX, range_end=prefix_end(PREFIX)), count))


def watches(count: int) -> Kind:
    """Streams that watch everything below the prefix, from the beginning of history."""
    create = WatchCreateRequest(key=PREFIX, range_end=prefix_end(PREFIX), start_revision=1)
    return Kind(_calls("Watch/Watch", WatchRequest(create_request=create), count), half_close=False)


def busy_watches(count: int) -> Kind:
    """Streams that watch everything below the prefix from now on, while large values are put there."""
    create = WatchCreateRequest(key=PREFIX, range_end=prefix_end(PREFIX))
    return Kind(_calls("Watch/Watch", WatchRequest(create_request=create), count), half_close=False, busy=True)


def snapshots(count: int) -> Kind:
    """Copies of the whole state."""
    return Kind(_calls("Maintenance/Snapshot", SnapshotRequest(), count))


def puts(count: int) -> Kind:
    """Puts that return what was there, as fast as they are taken."""
    put = PutRequest(key=b"flood", value=b"x" * 256, prev_kv=True)
    return Kind(_calls("KV/Put", put, count * FLOOD_CALLS // 10), floods=True)


def pages(count: int) -> Kind:
    """Requests for the metrics over HTTP/1.1, as fast as they are taken."""
    request = b"GET /metrics HTTP/1.1\r\nHost: limits\r\n\r\n" * count
    return Kind(raw=request.hex(), floods=True)


def unfinished(count: int) -> Kind:
    """Puts of which a part comes and no more."""
    headers = frames.request_headers("/etcdserverpb.KV/Put")
    said = frames.opening() + frames.SETTINGS_ACK
    for number in range(count):
        stream = 1 + 2 * number
        said += frames.frame(frames.HEADERS, frames.END_HEADERS, stream, headers)
        said += frames.frame(frames.DATA, 0, stream, frames.message(bytes(UNFINISHED_BYTES))[: frames.LARGEST_FRAME])
        piece = frames.frame(frames.DATA, 0, stream, bytes(frames.LARGEST_FRAME))
        said += piece * (UNFINISHED_BYTES // frames.LARGEST_FRAME - 2)
    return Kind(raw=said.hex())


KINDS = {
    "range": ranges,
    "txn": transactions,
    "stream": streams,
    "watch": watches,
    "busy-watch": busy_watches,
    "snapshot": snapshots,
    "put": puts,
    "http": pages,
    "unfinished": unfinished,
}


def _calls(method: str, request: object, count: int) -> tuple[tuple[str, str], ...]:
    headers = frames.request_headers(f"/etcdserverpb.{method}").hex()
    return ((headers, request.SerializeToString().hex()),) * count  # type: ignore[attr-defined]


def stalled(
    directory: Path, clients: int, *, window: str, runs: list[list[str]], keys: int = 2_000, calls: int = 10
) -> Iterator[Report]:
    """Runs, each with clients of the kinds that it names, one after the other against the same member."""
    with one_member(directory) as member:
        with Client(member.endpoint) as client:
            fill(client, keys)
        for names in runs:
            yield never_reading(member, clients, window, {name: KINDS[name](calls) for name in names})


def never_reading(
    member: Member, clients: int, window: str, kinds: dict[str, Kind], *, held_seconds: float = 5.0
) -> Report:
    """Send a crowd that does not read, each kind a share of it, look after it for a while, and report."""
    share = clients // len(kinds)
    errand = Errand("127.0.0.1", member.client_port, share, 1, WINDOWS[window], reads=False)
    report = Report(f"{share * len(kinds)} clients that never read, {', '.join(kinds)}, window {window}")
    with Bystander(member.endpoint, PREFIX + b"bystander") as bystander, ExitStack() as stack:
        wait_until(lambda: bystander.served >= 10, "the bystander is served", 60)
        if any(kind.busy for kind in kinds.values()):
            stack.enter_context(busy(member))
        alone = len(bystander.latencies)
        memory = MemoryWatch(member)
        open_before, processes_before = descriptors(member), len(processes_of(member))
        began = time.monotonic()
        crowds = [stack.enter_context(Crowd(_errand(errand, kind), 2)) for kind in kinds.values()]
        standing = report.standing
        for crowd in crowds:
            opened = crowd.opened()
            standing.opened += opened.opened
            standing.refused += opened.refused
        seen, until = bystander.served, time.monotonic() + held_seconds
        wait_until(
            lambda: bystander.served >= seen + 20 and time.monotonic() > until,
            "the bystander is served beside them",
            300,
        )
        report.during = memory.now()
        standing.alive = sum(crowd.ask().alive for crowd in crowds)
        report.processes = len(processes_of(member)) - processes_before
        beside = bystander.latencies[alone:]
        for crowd in crowds:
            crowd.close()
        wait_until(lambda: descriptors(member) <= open_before + 2, "the connections are gone", SETTLE_SECONDS)
        report.take(memory, bystander)
        memory.close()
    report.notes += [
        ("seconds", f"{time.monotonic() - began:.1f}"),
        ("longest beside", f"{max(beside, default=0.0) * 1e3:.0f} ms of {len(beside)} calls"),
        ("connections", f"{standing.opened} opened, {standing.refused} refused, {standing.alive} alive at the end"),
        ("processes", f"{report.processes} more at the end"),
    ]
    return report


def _errand(errand: Errand, kind: Kind) -> Errand:
    return replace(errand, calls=kind.calls, half_close=kind.half_close, floods=kind.floods, raw=kind.raw)


@contextmanager
def busy(member: Member) -> Iterator[None]:
    """Put large values below the prefix all the while."""
    stop = threading.Event()

    def work() -> None:
        with Client(member.endpoint) as client:
            while not stop.wait(BUSY_SECONDS):
                with suppress(grpc.RpcError):
                    client.put(PREFIX + b"00000000", BUSY_VALUE, timeout=10)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
