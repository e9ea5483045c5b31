"""A cluster of the older build becomes one of the newer, one member at a time, under load."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.cluster.harness import ClusterFactory, Load, Member, assert_all_there
from tests.cluster.harness.register import Register
from tests.cluster.harness.waiting import wait_until
from tests.versions.builds import (
    OLD,
    STOP_SECONDS,
    WAIT_SECONDS,
    become_new,
    become_old,
    protocol,
    replace,
    wait_protocol,
)

LONGEST_GAP_SECONDS = 10.0
"""Between two acknowledged writes, while a member is restarted. An election takes about one second on a quiet
machine, an open call that has lost its member three."""


class Gaps:
    """The longest time that a load went without an acknowledged write, looked at again and again."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._count = load.acknowledged
        self._since = time.monotonic()
        self.longest = 0.0

    def look(self) -> None:
        count, now = self._load.acknowledged, time.monotonic()
        self.longest = max(self.longest, now - self._since)
        if count > self._count:
            self._count, self._since = count, now


def _serves(member: Member, gaps: Gaps) -> bool:
    gaps.look()
    return member.serves()


def test_three_members_are_upgraded_one_by_one_while_traffic_goes_on(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(flags=OLD)
    wait_protocol(cluster, 1)
    endpoints = [member.endpoint for member in cluster.members]
    with Load(endpoints, b"roll/") as load, Register(endpoints) as register:
        order = [*cluster.followers(), cluster.leader()]
        for upgraded, member in enumerate(order, start=1):
            become_new(member)
            member.terminate(STOP_SECONDS)
            gaps = Gaps(load)
            member.start()
            wait_until(partial(_serves, member, gaps), "the member serves", WAIT_SECONDS)
            assert gaps.longest < LONGEST_GAP_SECONDS, f"no write for {gaps.longest:.1f} s"
            load.wait_for_progress()
            register.wait_for_progress(writes=5, reads=15)
            if upgraded < len(order):
                assert [protocol(each) for each in cluster.members] == [1, 1, 1]
        wait_protocol(cluster, 2)
        load.wait_for_progress()
        register.wait_for_progress(writes=5, reads=15)

    assert register.stale == []
    cluster.wait_agreed()
    for member in cluster.members:
        assert_all_there(load.record, member.client, b"roll/")


def test_until_the_last_is_upgraded_every_member_may_go_back(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(flags=OLD)
    first, second, third = cluster.members
    first.client.put(b"k", b"from the older build")
    for member in (first, second):
        become_new(member)
        replace(member)
    for member in (first, second):
        become_old(member)
        replace(member)
    assert [protocol(member) for member in cluster.members] == [1, 1, 1]
    kv = third.client.get(b"k")
    assert kv is not None
    assert kv.value == b"from the older build"


def test_the_version_outlives_a_restart_of_all_members(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster()
    wait_protocol(cluster, 2)
    for member in cluster.members:
        member.kill_group()
    cluster.start()
    # Decided once, it is known from the first moment on, without all members being there.
    assert {protocol(member) for member in cluster.members} == {2}


@pytest.mark.parametrize("older", ["leader", "follower"])
def test_two_builds_serve_together_for_as_long_as_one_wants(make_cluster: ClusterFactory, older: str) -> None:
    cluster = make_cluster(flags=OLD)
    keeps = cluster.leader() if older == "leader" else cluster.followers()[0]
    for member in cluster.members:
        if member is not keeps:
            become_new(member)
            replace(member)
    with Load([member.endpoint for member in cluster.members], b"mixed/", writers=2) as load:
        load.wait_for_progress()
    cluster.wait_agreed()
    for member in cluster.members:
        assert_all_there(load.record, member.client, b"mixed/")
    assert [protocol(member) for member in cluster.members] == [1, 1, 1]


def test_a_member_that_is_away_holds_the_version_until_it_is_removed(make_cluster: ClusterFactory) -> None:
    cluster = make_cluster(flags=OLD)
    away = cluster.followers()[0]
    away_id = away.id
    away.kill_group()
    here = [member for member in cluster.members if member is not away]
    for member in here:
        become_new(member)
        replace(member)
        wait_until(lambda: sum(each.is_leader for each in here) == 1, "there is a leader", WAIT_SECONDS)
    here[0].client.put(b"k", b"v")
    assert [protocol(member) for member in here] == [1, 1]
    cluster.remove(away, away_id)
    wait_protocol(cluster, 2)
