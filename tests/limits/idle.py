"""Connections that are opened and then do nothing."""

from __future__ import annotations

from pathlib import Path

from kvstore.pb.rpc_pb2 import RangeRequest
from tests.cluster.harness import Member
from tests.cluster.harness.waiting import wait_until
from tests.limits import frames
from tests.limits.bystander import Bystander
from tests.limits.crowd import Crowd, Errand
from tests.limits.member import MIB, MemoryWatch, descriptors, one_member
from tests.limits.report import Report

SETTLE_SECONDS = 60.0


def idle(directory: Path, connections: int, processes: int = 2, *, one_call_each: bool = True) -> Report:
    """Open connections and hold them. one_call_each: each is used once before."""
    headers = frames.request_headers("/etcdserverpb.KV/Range")
    request = RangeRequest(key=b"k", serializable=True).SerializeToString()
    calls = ((headers.hex(), request.hex()),) if one_call_each else ()
    with one_member(directory) as member:
        return hold(member, Errand("127.0.0.1", member.client_port, connections, 1, calls=calls), processes)


def hold(member: Member, errand: Errand, processes: int) -> Report:
    """Send a crowd, and report what it did to the member."""
    report = Report(f"{errand.connections} idle connections")
    with Bystander(member.endpoint) as bystander:
        wait_until(lambda: bystander.served >= 10, "the bystander is served", 20)
        memory = MemoryWatch(member)
        open_before = descriptors(member)
        with Crowd(errand, processes) as crowd:
            report.standing = crowd.opened()
            seen = bystander.served
            wait_until(lambda: bystander.served >= seen + 10, "the bystander is served beside them", 60)
            report.during = memory.now()
            report.standing = crowd.ask()
            held = descriptors(member) - open_before
            crowd.close()
        wait_until(lambda: descriptors(member) <= open_before + 2, "the connections are gone", SETTLE_SECONDS)
        report.take(memory, bystander)
        memory.close()
    standing = report.standing
    report.notes += [
        ("connections", f"{standing.opened} opened, {standing.refused} refused, {standing.alive} alive at the end"),
        ("descriptors", f"{held} more while they were held"),
        ("per connection", f"{(report.during - report.before) / max(1, standing.alive) / 1024:.1f} KiB"),
    ]
    logged = [line for line in member.log.read_text().splitlines() if "connections" in line]
    report.notes += [("log", line[:200]) for line in logged[:3]]
    return report


__all__ = ["MIB", "hold", "idle"]
