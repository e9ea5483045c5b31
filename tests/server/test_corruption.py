"""Comparing what members hold: who differs, who cannot be compared, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvstore import errors
from kvstore.lease import lessor
from kvstore.mvcc.puts import of_message
from kvstore.mvcc.store import TABLES, Store
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise, RpcError, StatusCode
from kvstore.server import corruption
from kvstore.server.alarms import Alarms
from kvstore.server.bootstrap import BootstrapError
from kvstore.server.corruption import Comparison, CorruptionMonitor, check_before_start, compare
from kvstore.storage.backend import open_inline
from kvstore.storage.batch import TableSpec

REVISION = 9


def hashed(digest: int, compacted: int = 3) -> pb.HashKVResponse:
    return pb.HashKVResponse(hash=digest, compact_revision=compacted, hash_revision=REVISION)


@pytest.mark.parametrize(
    ("hashes", "members", "expected"),
    [
        ({1: (7, 3), 2: (7, 3), 3: (7, 3)}, 3, Comparison(3, frozenset(), False)),
        ({1: (7, 3), 2: (7, 3), 3: (8, 3)}, 3, Comparison(3, frozenset({3}), False)),
        # Whoever asks may be the one that is wrong.
        ({1: (8, 3), 2: (7, 3), 3: (7, 3)}, 3, Comparison(3, frozenset({1}), False)),
        ({1: (7, 3), 2: (7, 3), 3: (7, 3), 4: (8, 3), 5: (9, 3)}, 5, Comparison(5, frozenset({4, 5}), False)),
        # Compacted at another revision: another hash, and no less right.
        ({1: (7, 3), 2: (7, 3), 3: (8, 5)}, 3, Comparison(2, frozenset(), False)),
        ({1: (7, 3), 2: (8, 4), 3: (9, 5)}, 3, Comparison(0, frozenset(), False)),
        # Nobody can say who is wrong: there are only two, or the third does not answer or cannot be compared.
        ({1: (7, 3), 2: (8, 3)}, 2, Comparison(2, frozenset(), True)),
        ({1: (7, 3), 2: (8, 3)}, 3, Comparison(2, frozenset(), True)),
        ({1: (7, 3), 2: (8, 3), 3: (7, 5)}, 3, Comparison(2, frozenset(), True)),
        ({1: (7, 3), 2: (7, 3), 3: (8, 3), 4: (8, 3)}, 4, Comparison(4, frozenset(), True)),
        ({1: (7, 3)}, 1, Comparison(0, frozenset(), False)),
    ],
)
def test_who_differs_is_told_by_what_most_members_hold(
    hashes: dict[int, tuple[int, int]], members: int, expected: Comparison
) -> None:
    assert compare({member: hashed(*each) for member, each in hashes.items()}, members) == expected


class Cluster:
    """Members by what they answer when asked for their hash."""

    def __init__(self, *answers: pb.HashKVResponse | Exception) -> None:
        self.answers = dict(enumerate(answers, 1))
        self.asked: list[int] = []
        self.when_asked: Callable[[], None] = lambda: None

    async def ask(self, member: int, revision: int) -> pb.HashKVResponse:
        assert revision == REVISION
        self.asked.append(member)
        self.when_asked()
        answer = self.answers[member]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def start(self, own: int) -> None:
        """Compare before the start of a member."""
        await check_before_start(own, self.answers, REVISION, self.ask, lambda revision: self.ask(own, revision))


BEHIND = RpcError(StatusCode.ABORTED, "FutureRev")
COMPACTED = RpcError(StatusCode.ABORTED, "Compacted")
GONE = RpcError(StatusCode.UNAVAILABLE, "nobody listens")


@pytest.mark.parametrize(
    "others",
    [(hashed(7), hashed(7)), (BEHIND, GONE), (COMPACTED, hashed(8, 5)), (hashed(7), hashed(8)), (hashed(7), BEHIND)],
)
async def test_a_member_starts_unless_its_data_is_known_to_differ(others: tuple[Any, ...]) -> None:
    """Also if it is another one that differs from most: without this one there might be no quorum of right ones."""
    cluster = Cluster(hashed(7), *others)
    await cluster.start(1)
    assert sorted(cluster.asked) == [1, 2, 3]


@pytest.mark.parametrize("others", [(hashed(8), hashed(8)), (hashed(8), GONE), (hashed(8), hashed(9))])
async def test_a_member_whose_data_differs_does_not_start(others: tuple[Any, ...]) -> None:
    with pytest.raises(BootstrapError, match=r"this member \(1\) is not that of the others .* up to revision 9"):
        await Cluster(hashed(7), *others).start(1)


class Monitored:
    """A cluster whose member 1 compares, and what it proposes."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        self.backend = open_inline(directory, [*TABLES, TableSpec("alarms")])
        self.alarms = Alarms(self.backend.table("alarms"))
        self.proposed: list[tuple[int, int]] = []
        self.refusal: errors.KvstoreError | None = None
        self.monitor = CorruptionMonitor(
            1,
            60.0,
            is_leader=lambda: True,
            members=lambda: list(cluster.answers),
            revision=lambda: REVISION,
            ask=cluster.ask,
            alarms=self.alarms,
            proposer=self,
        )

    def propose(self, kind: str, request: Any, reign: int = 0) -> Promise[bytes]:
        assert (kind, request.action) == ("alarm", pb.AlarmRequest.ACTIVATE)
        self.proposed.append((request.memberID, request.alarm))
        if self.refusal is not None:
            return Promise.failed(self.refusal)
        self.alarms.apply(request)
        return Promise.resolved(b"")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruption, "RETRY_SECONDS", 0.0)


async def test_an_alarm_is_raised_once_for_each_member_that_differs(tmp_path: Path) -> None:
    monitored = Monitored(tmp_path, Cluster(hashed(8), hashed(7), hashed(7), hashed(7), hashed(9)))
    await monitored.monitor.check()
    await monitored.monitor.check()
    assert monitored.proposed == [(1, pb.AlarmType.CORRUPT), (5, pb.AlarmType.CORRUPT)]
    assert monitored.alarms.corrupt


async def test_an_alarm_that_could_not_be_raised_is_raised_the_next_time(tmp_path: Path) -> None:
    monitored = Monitored(tmp_path, Cluster(hashed(7), hashed(7), hashed(8)))
    monitored.refusal = errors.RequestTimeout()
    await monitored.monitor.check()
    assert not monitored.alarms.corrupt
    monitored.refusal = None
    await monitored.monitor.check()
    assert [alarm.memberID for alarm in monitored.alarms.raised()] == [3]


async def test_members_that_compact_at_different_times_raise_no_alarm(tmp_path: Path) -> None:
    cluster = Cluster(hashed(7, 3), hashed(8, 5), COMPACTED)
    monitored = Monitored(tmp_path, cluster)
    await monitored.monitor.check()
    assert not monitored.proposed
    assert sorted(cluster.asked) == [1, 2, 3]


async def test_a_difference_that_nobody_can_place_waits_for_the_one_who_can(tmp_path: Path) -> None:
    """A third member that is a moment behind will say who of the other two is right."""
    cluster = Cluster(hashed(7), hashed(8), BEHIND)
    monitored = Monitored(tmp_path, cluster)

    def comes_level() -> None:
        if cluster.asked.count(3) == 2:
            cluster.answers[3] = hashed(7)

    cluster.when_asked = comes_level
    await monitored.monitor.check()
    assert monitored.proposed == [(2, pb.AlarmType.CORRUPT)]


async def test_a_difference_that_nobody_can_place_is_an_alarm_for_nobody(tmp_path: Path) -> None:
    cluster = Cluster(hashed(7), hashed(8))
    monitored = Monitored(tmp_path, cluster)
    await monitored.monitor.check()
    assert monitored.proposed == [(0, pb.AlarmType.CORRUPT)]
    assert cluster.asked.count(2) == corruption.ATTEMPTS


async def test_hashes_are_those_that_other_builds_make(tmp_path: Path) -> None:
    """Members of two builds are compared with each other during an upgrade. If this hash has to change, comparing needs
    a version of the protocol between members, or every upgrade raises an alarm.
    """
    backend = open_inline(tmp_path, [*TABLES, *lessor.TABLES])
    store = Store(backend, lessor.Lessor(backend))
    for number in range(4):
        store.put(of_message(pb.PutRequest(key=b"k%d" % (number % 2), value=b"v%d" % number)))
    store.delete_range(pb.DeleteRangeRequest(key=b"k1"))
    store.compact(4)
    answer = await store.hash_kv(0)
    assert (answer.hash, answer.compact_revision, answer.hash_revision) == (301_377_609, 4, 6)
    await backend.close()
