"""No room on any disk, and the leader dies: the others still have room for a vote, and reads go on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from kvstore.storage import journal
from tests.cluster.harness import ClusterFactory, Member, wait_until
from tests.faultfs import FaultFs, NoCompiler

VALUE = b"x" * (64 << 10)
SLOW_SECONDS = 0.02
"""For a write of the journal: what follows goes past it, and finds no room."""


def refuses(member: Member) -> bool:
    """Whether a write is refused because there is no room."""
    try:
        member.client.put(b"large", VALUE, timeout=1.0)
    except grpc.RpcError as error:
        return error.details() == "etcdserver: mvcc: database space exceeded"
    return False


def test_a_leader_is_elected_although_no_member_has_room_for_its_log(
    make_cluster: ClusterFactory, tmp_path: Path
) -> None:
    if not journal.SUPPORTED:
        pytest.skip("there is no journal")
    cluster = make_cluster.prepare(3)
    layers = []
    with ExitStack() as stack:
        for member in cluster.members:
            try:
                faults = FaultFs(member.data, tmp_path / f"{member.name}-faults", beside=False)
            except NoCompiler as reason:
                pytest.skip(str(reason))
            layers.append(stack.enter_context(faults))
            member.environment = {**member.environment, **faults.environment}
        cluster.start()
        cluster.leader().client.put(b"k", b"before")
        for layer in layers:
            layer.only_below("/wal/")
            layer.delay_syncs(SLOW_SECONDS)
            layer.leave_space(0)
        for member in cluster.members:
            wait_until(lambda member=member: refuses(member), f"{member.name} finds no room", 30.0)  # type: ignore[misc]
        for layer in layers:
            layer.delay_syncs(0.0)
        dead = cluster.leader()
        dead.kill_group()
        alive = [member for member in cluster.members if member is not dead]
        assert cluster.leader(20.0) in alive
        for member in alive:
            for serializable in (False, True):
                kv = member.client.get(b"k", serializable=serializable)
                assert kv is not None
                assert kv.value == b"before"
        for layer in layers:
            layer.heal()
        dead.start()
        for member in cluster.members:
            wait_until(lambda member=member: not refuses(member), f"{member.name} has room", 30.0)  # type: ignore[misc]
        cluster.wait_agreed()
