"""More requests than a member can do: what it refuses, what it still does, and whether it recovers."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.harness import Member
from tests.cluster.harness.register import Register
from tests.cluster.harness.waiting import wait_until
from tests.limits import flood
from tests.limits.bystander import Bystander
from tests.limits.flood import Flood, Outcome
from tests.limits.member import MemoryWatch, one_member
from tests.limits.report import Report


def overload(directory: Path, factor: float, seconds: float = 10.0) -> Report:
    """Find out what a new member can do, then send so many times that."""
    with one_member(directory) as member:
        report, _ = overload_member(member, factor, seconds)
        return report


def overload_member(member: Member, factor: float, seconds: float) -> tuple[Report, Outcome]:
    """As overload, of a member that is there; the flood's outcome as well."""
    possible = flood.run(Flood(member.client_port, 0, min(3.0, seconds)))
    rate = factor * possible.answered / possible.seconds
    report = Report(f"requests at {factor:g} times what is possible")
    with Bystander(member.endpoint) as bystander, Register([member.endpoint]) as register:
        wait_until(lambda: bystander.served >= 10, "the bystander is served", 60)
        memory = MemoryWatch(member)
        before = bystander.served
        outcome = flood.run(Flood(member.client_port, rate, seconds))
        served = bystander.served - before
        report.during = memory.now()
        after = bystander.served
        wait_until(lambda: bystander.served >= after + 20, "the bystander is served afterwards", 120)
        recovered = sorted(bystander.latencies[-20:])[10]
        report.take(memory, bystander)
        memory.close()
    report.wrong += len(register.stale)
    p50, p99, longest = outcome.latencies
    report.notes += [
        ("possible", f"{possible.answered / possible.seconds:.0f} a second"),
        (
            "offered",
            f"{outcome.offered / outcome.seconds:.0f} a second, {outcome.sent} sent, {outcome.not_sent} not sent",
        ),
        ("answered", f"{outcome.answered / outcome.seconds:.0f} a second, {outcome.unanswered} without any answer"),
        ("latency of those", f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, longest {longest * 1e3:.0f} ms"),
        ("refused", ", ".join(f"{count} x {what}" for what, count in outcome.refused.items()) or "none"),
        ("beside it", f"the bystander was served {served} times, and every {recovered * 1e3:.1f} ms a call afterwards"),
        ("register", f"{register.reads} reads, {register.writes} writes, {len(register.stale)} stale"),
    ]
    return report, outcome
