"""A member of three that is behind, or new, is killed while it catches up by a snapshot, and comes back.

The other two go on undisturbed. Each time it must end up holding what they hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

# grpcio warns on every fork beside its threads, and servers are started all the time here.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from kvstore.pb import rpc_pb2 as pb
from tests.cluster.harness import Cluster, Member
from tests.cluster.harness.binary import kvstored
from tests.cluster.harness.waiting import wait_until
from tests.crash.observe import Lost, View
from tests.crash.victim import FLAGS, PATIENCE
from tests.faultfs import FaultFs


def difference_from_a_beginning(view: View) -> str | None:
    """In what a member that may be behind differs from any state that the writes of a Straggler have gone through."""
    answer = view.range(pb.RangeRequest(key=b"\0", range_end=b"\0", serializable=True))
    found = [(kv.key, kv.mod_revision) for kv in answer.kvs]
    wanted = [(b"%06d" % number, number + 1) for number in range(1, answer.header.revision)]
    return None if found == wanted else f"at revision {answer.header.revision} it has {found}"


def members_of(member: Member) -> list[bytes]:
    """Everybody in the cluster, as a member knows it."""
    return sorted(each.SerializeToString(deterministic=True) for each in member.client.members())


_WRITES = 30
"""More than the log keeps, so that whoever missed them needs a snapshot."""


class Straggler:
    """Three members; the third is under the layer, and is the one that is left behind. Use it in a `with` statement."""

    def __init__(self, directory: Path, *, trace: bool = False) -> None:
        """Starts all three. Raises NoCompiler."""
        directory.mkdir(parents=True, exist_ok=True)
        self._cluster = Cluster(kvstored(), directory, 3, flags=dict(FLAGS))
        self.member: Member = self._cluster.members[2]
        self.faults = FaultFs(self.member.data, directory / "faults", trace=trace)
        self.faults.skip_syncs()
        self.member.environment = {**self.member.environment, **self.faults.environment}
        self._others = self._cluster.members[:2]
        self._written = 0
        try:
            self._cluster.start()
            self.write()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Straggler:
        """Nothing but the straggler itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No process is left."""
        self.close()

    def close(self) -> None:
        """End all members."""
        self._cluster.close()
        self.faults.close()

    def write(self) -> None:
        """Write so much that the log is cut. Key n is written with revision n + 1, and once only."""
        for _ in range(_WRITES):
            self._written += 1
            self._others[0].client.put(b"%06d" % self._written, b"v" * 200)

    def fall_behind(self) -> None:
        """The straggler dies, and the others go on."""
        self.member.kill_group()
        # It may have led. No write may fail: each is made once only.
        wait_until(lambda: self._others[0].client.range(b"k") is not None, "the others answer reads", PATIENCE)
        self.write()

    def begin_anew(self) -> None:
        """The straggler dies with its disk, is taken out of the cluster, and comes as a new member."""
        number = self.member.id
        self.member.kill_group()
        self._cluster.remove(self.member, number)
        self.member.wipe()
        self.member.data.mkdir()
        self._cluster.add_again(self.member)

    def come_back(self) -> None:
        """Start, and catch up."""
        self.member.start()
        self._caught_up()

    def peers(self) -> dict[str, str]:
        """The peer URLs of the others by name."""
        return {member.name: member.advertised_peer_url for member in self._others}

    def operations_to_catch_up(self, prepare: Callable[[], None]) -> int:
        """How many operations it takes to come back after `prepare`, undisturbed."""
        prepare()
        before = self.faults.operations
        self.come_back()
        return self.faults.operations - before

    def killed_on_its_way(
        self, prepare: Callable[[], None], operation: int, *, after: bool = False, everyone: bool = True
    ) -> bool:
        """After `prepare` it comes back, is killed at an operation, and comes back again. Whether it was killed at all.

        Raises Lost if it does not hold what the others hold then.
        """
        prepare()
        self.faults.kill_at(self.faults.operations + operation, after=after, everyone=everyone)
        self.member.start()
        wait_until(lambda: not self.member.running or self._level(), "it is killed, or has caught up", PATIENCE)
        killed = self.faults.disarm()
        if killed:
            wait_until(lambda: not self.member.running, "the rest of it ends, too", PATIENCE)
        if not self.member.running:
            self.member.start()
        try:
            self._caught_up()
        except AssertionError as error:
            text = f"killed at operation {operation} of coming back: {error}\nits log:\n{self.member.log_tail()}"
            raise Lost(text) from error
        return killed

    def _caught_up(self) -> None:
        def level_or_gone() -> bool:
            return not self.member.running or self._level()

        wait_until(level_or_gone, "it holds what the others hold", PATIENCE)
        assert self.member.running, "it ended by itself"
        first = self._others[0]
        own = wait_until(lambda: self._hash(self.member), "it gives a hash", PATIENCE)
        if own != wait_until(lambda: self._hash(first), "so do the others", PATIENCE):
            raise AssertionError("its history has another hash than that of the others")
        # Its name, which it publishes once it is level, arrives here and there at different times.
        wait_until(lambda: members_of(self.member) == members_of(first), "both know the same members", PATIENCE)

    def _level(self) -> bool:
        try:
            request = pb.RangeRequest(key=b"%06d" % self._written, serializable=True)
            return bool(self.member.client.kv.Range(request, timeout=1.0).count)
        except grpc.RpcError:
            return False

    def _hash(self, member: Member) -> int | None:
        try:
            request = pb.HashKVRequest(revision=self._written + 1)
            answer: pb.HashKVResponse = member.client.maintenance.HashKV(request)
        except grpc.RpcError:
            # A client that found nobody before the start may not have tried again yet.
            return None
        return answer.hash
