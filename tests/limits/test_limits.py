"""The measurements of this package, small: they hold what the large ones show."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.pb.rpc_pb2 import SnapshotRequest
from kvstore.server.maintenance import MAX_COPIES
from tests.cluster.harness import Client, Member
from tests.limits import frames, idle, overload, stalled
from tests.limits.crowd import Errand
from tests.limits.member import MIB, one_member
from tests.limits.report import Report

IDLE_KIB = 40
"""Most that an idle connection may cost; measured are 15 to 16."""


def assert_served(report: Report) -> None:
    """The light client was served all along, and rightly."""
    assert report.wrong == 0
    assert not report.bystander_refused


def test_a_thousand_idle_connections_cost_little_and_disturb_nobody(tmp_path: Path) -> None:
    report = idle.idle(tmp_path, 1_000)
    assert (report.standing.opened, report.standing.alive) == (1_000, 1_000)
    assert report.during - report.before < 1_000 * IDLE_KIB * 1024
    assert_served(report)


def test_connections_beyond_the_descriptors_are_refused_and_those_there_go_on(tmp_path: Path) -> None:
    with one_member(tmp_path) as member:
        assert member.process is not None
        _limit_descriptors(member, 400)
        report = idle.hold(member, Errand("127.0.0.1", member.client_port, 500, 1), 2)
        assert 100 < report.standing.opened < 300
        assert report.standing.refused == 500 - report.standing.opened
        assert report.standing.alive == report.standing.opened
        assert_served(report)
        assert "too many connections: refused one" in member.log.read_text()
        # The descriptors are free again.
        with Client(member.endpoint) as client:
            client.put(b"k", b"v")


def _limit_descriptors(member: Member, limit: int) -> None:
    """Start a member again that may have so many descriptors."""
    member.kill_group()
    start = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh"]
    member.binary = type(member.binary)(member.binary.name, (*start, *member.binary.command), member.binary.environment)
    member.start()
    member.wait_ready()


@pytest.mark.parametrize("window", ["open", "closed"])
def test_clients_that_never_read_take_bounded_memory_and_disturb_nobody(tmp_path: Path, window: str) -> None:
    # Fifty clients that ask for 10 times 2 MiB each: 1,000 MiB if all were made for them. As streams, three times that
    # was kept, as long as nobody read it.
    with one_member(tmp_path) as member:
        with Client(member.endpoint) as client:
            stalled.fill(client, 2_000)
        kinds = {"range": stalled.ranges(10), "stream": stalled.streams(10), "watch": stalled.watches(3)}
        reports = [
            stalled.never_reading(member, 50, window, {name: kind}, held_seconds=0.5) for name, kind in kinds.items()
        ]
    for report in reports:
        # Answers that wait are bounded at 96 MiB; what is just being made, and what the allocator keeps, come on top.
        assert report.peak - reports[0].before < 400 * MIB
        assert_served(report)


def test_snapshots_that_nobody_reads_are_few_and_the_others_refused(tmp_path: Path) -> None:
    with one_member(tmp_path) as member:
        with Client(member.endpoint) as client:
            stalled.fill(client, 2_000)
        report = stalled.never_reading(member, 20, "closed", {"snapshot": stalled.snapshots(1)}, held_seconds=1.0)
        with Client(member.endpoint) as client:
            assert sum(len(chunk.blob) for chunk in client.maintenance.Snapshot(SnapshotRequest())) > 1_000
    assert report.processes == MAX_COPIES
    assert_served(report)


def test_a_flood_whose_answers_nobody_reads_is_closed(tmp_path: Path) -> None:
    with one_member(tmp_path) as member:
        report = stalled.never_reading(member, 10, "closed", {"put": stalled.puts(10)}, held_seconds=4.0)
        logged = member.log.read_text()
    # Each answer is a few bytes, and holds a stream of 1,500: without counting these nobody was ever closed. On a slow
    # machine nobody has to be; what was put is then in memory, too.
    assert report.standing.alive < 10 or report.peak - report.before < 200 * MIB, logged
    assert_served(report)


def test_requests_that_never_become_whole_take_bounded_memory(tmp_path: Path) -> None:
    # 60 clients that have sent the most of 10 requests of 600 KB: 330 MiB if all were kept.
    with one_member(tmp_path) as member:
        report = stalled.never_reading(member, 60, "closed", {"unfinished": stalled.unfinished(10)}, held_seconds=0.2)
    assert report.standing.alive == 60
    assert report.peak - report.before < 250 * MIB
    assert_served(report)


def test_ten_times_what_is_possible_is_refused_in_good_order(tmp_path: Path) -> None:
    with one_member(tmp_path) as member:
        report, outcome = overload.overload_member(member, 10.0, 3.0)
    assert outcome.answered > 0
    # Every call that was sent got an answer, in time: done, refused, or past its deadline.
    assert outcome.unanswered == 0
    assert set(outcome.refused) <= {"8 etcdserver: too many requests", "4 context deadline exceeded"}
    assert outcome.refused.get("8 etcdserver: too many requests", 0) > 0
    assert report.peak - report.before < 300 * MIB
    assert_served(report)


def test_frames_are_cut_wherever_the_bytes_are() -> None:
    said = frames.opening()[len(frames.PREFACE) :] + frames.frame(frames.PING, frames.ACK, 0, b"12345678")
    reader = frames.FrameReader()
    found = [each for byte in said for each in reader.feed(bytes((byte,)))]
    assert [(kind, flags) for kind, flags, _, _ in found] == [(frames.SETTINGS, 0), (frames.PING, frames.ACK)]
    assert found[1][3] == b"12345678"
