"""The cluster under test as the faults see it: members behind proxies, and who may be mistreated now.

Everything here blocks; the proxies and whoever measures live on a loop of their own.
"""

import random
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from kvstore.pb.rpc_pb2 import AlarmRequest, AlarmType, PutRequest
from tests.chaos.background import Background
from tests.chaos.network import Condition, Network
from tests.chaos.partitions import Pairs
from tests.chaos.session import Ledger
from tests.cluster.harness import Binary, Cluster, Member, wait_until
from tests.cluster.harness.waiting import ConditionNotMet
from tests.faultfs import FaultFs, NoCompiler
from tests.history import Recorder
from tests.history.convert import operation
from tests.history.model import History

HEAL_SECONDS = 60.0
"""How long a cluster may take to serve again on every member once nothing is done to it any more."""

JOIN_RESTARTS = 10
"""How often a member that joins is started again; each time it asks for about five seconds."""

JOIN_REFUSED = (
    b"no member of the cluster could be asked who belongs to it",
    b"has no member with the peer URL",
)
"""With what a member that joins gives up, as documented, while those that know it are down."""


NO_SPACE = AlarmRequest(action=AlarmRequest.GET, alarm=AlarmType.NOSPACE)


class NotNow(Exception):
    """A fault cannot strike, by default because all members are in other hands already."""

    def __init__(self, reason: str = "nobody to strike") -> None:
        super().__init__(reason)


class Fallen(AssertionError):
    """A member ended by itself, and nothing that was done to it excuses that."""


@dataclass(slots=True)
class Joining:
    """A member that has not joined yet. restarts: how many it has left. log_start: where its process's log begins."""

    restarts: int
    log_start: int


class ProxiedCluster(Cluster):
    """A cluster whose members reach each other through the proxies of a network."""

    def __init__(
        self,
        binary: Binary,
        directory: Path,
        size: int,
        flags: dict[str, str],
        background: Background,
        network: Network,
    ) -> None:
        self._background = background
        self._network = network
        # The defaults of the program itself, not the short ones of most tests.
        self.layers: dict[str, FaultFs] = {}
        super().__init__(binary, directory, size, {"heartbeat-interval": "100", "election-timeout": "1000", **flags})

    def make_member(self, name: str) -> Member:
        member = super().make_member(name)
        port = self._background.run(self._network.listen(name, member.peer_port))
        member.advertised_peer_url = f"http://127.0.0.1:{port}"
        with suppress(NoCompiler):
            layer = FaultFs(member.data, member.directory / "faults")
            self.layers[name] = layer
            member.environment.update(layer.environment)
        return member

    def close(self) -> None:
        super().close()
        for layer in self.layers.values():
            layer.close()

    def introduce(self) -> None:
        """Tell the network who is who, as far as the members know it themselves."""
        for member in self.members:
            status = member.status()
            if status is not None:
                self._background.call(self._network.know, {status.header.member_id: member.name})


class Arena:
    """What faults act upon."""

    def __init__(self, cluster: ProxiedCluster, background: Background, network: Network) -> None:
        self.cluster = cluster
        self.background = background
        self.network = network
        self._occupied: set[str] = set()
        self._excused: set[str] = set()
        self._joining: dict[str, Joining] = {}
        self._added = 0
        self._room_expected = False
        self._rooms = 0
        self._ledger = Ledger(Recorder())

    @property
    def history(self) -> History:
        """What the operator has asked of the store."""
        return self._ledger.recorder.history()

    def recorded(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        """Ask something of the store in the operator's name. Raises grpc.RpcError."""
        call = self._ledger.recorder.begin("operator", operation(request))
        try:
            response = method(request, timeout=timeout)
        except grpc.RpcError as error:
            self._ledger.failed(call, error.details() or "")
            raise
        self._ledger.answered(call, response)
        return response

    @property
    def names(self) -> list[str]:
        """The members' names, in order."""
        return sorted(member.name for member in self.cluster.members)

    def free(self) -> list[Member]:
        """The running members that no fault has taken, in the order of their names."""
        members = [each for each in self.cluster.members if each.running and each.name not in self._occupied]
        return sorted(members, key=lambda member: member.name)

    @contextmanager
    def taken(self, *members: Member) -> Iterator[None]:
        """Keep other faults away from these members."""
        names = {member.name for member in members}
        self._occupied |= names
        try:
            yield
        finally:
            self._occupied -= names

    def any_member(self, chance: random.Random) -> Member:
        """One of the members that are free. Raises NotNow."""
        free = self.free()
        if not free:
            raise NotNow
        return chance.choice(free)

    def leader(self) -> Member:
        """The leader, as soon as there is one. Raises NotNow if it is in other hands or cannot be found."""
        try:
            leader = self.cluster.leader(5.0)
        except AssertionError as error:
            raise NotNow from error
        if leader.name in self._occupied:
            raise NotNow
        return leader

    def excuse(self, member: Member) -> None:
        """What is done to this member may end it, at once or when it comes to feel it: it is started again."""
        self._excused.add(member.name)

    def layer(self, member: Member) -> FaultFs:
        """What stands between a member and its machine. Raises NotNow where that cannot be built."""
        layer = self.cluster.layers.get(member.name)
        if layer is None:
            raise NotNow("there is no fault layer on this machine")
        return layer

    def expect_room(self) -> None:
        """What was done may have raised alarms for space: all of them are to go once there is room again."""
        self._room_expected = True

    def set_links(self, pairs: Pairs | Iterable[tuple[str, str]], condition: Condition) -> None:
        self.background.call(self.network.set, list(pairs), condition)

    def next_name(self) -> str:
        """A name that no member has had yet."""
        self._added += 1
        return f"x{self._added}"

    def join(self, member: Member, restarts: int = JOIN_RESTARTS) -> None:
        """Start a member that has been added, and have it started again if it ends before it could join."""
        self._joining[member.name] = Joining(restarts, _size(member.log))
        member.start()

    def keep_running(self, member: Member) -> None:
        """Start a member that has ended and had an excuse, as its service manager would. Raises Fallen otherwise."""
        if member.running:
            if member.name in self._joining and member.status() is not None:
                del self._joining[member.name]
        elif member.name in self._excused or self._may_join_yet(member):
            member.start()
        else:
            raise Fallen(f"{member.name} ended by itself; its log:\n{member.log_tail()}")

    def _may_join_yet(self, member: Member) -> bool:
        """Whether it could not join as nobody who knows it was there, and may ask once more."""
        joining = self._joining.get(member.name)
        if joining is None or joining.restarts == 0:
            return False
        said = member.log.read_bytes()[joining.log_start :]
        joining.restarts -= 1
        joining.log_start += len(said)
        return any(reason in said for reason in JOIN_REFUSED)

    def wait_for(self, member: Member, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait for a condition of a member that is kept running. Raises ConditionNotMet, or Fallen at once."""
        fallen: list[Fallen] = []

        def holds_or_is_lost() -> bool:
            try:
                self.keep_running(member)
            except Fallen as error:
                fallen.append(error)
                return True
            return condition()

        wait_until(holds_or_is_lost, what, timeout)
        if fallen:
            raise fallen[0]

    def make_good(self) -> None:
        """End all that may still be done to the members after a strike that was not made good by itself."""
        self.background.call(self.network.heal)
        for layer in self.cluster.layers.values():
            layer.heal()
        for member in self.cluster.members:
            self.excuse(member)
            if member.running:
                member.signal_group(signal.SIGCONT)

    def settle(self, timeout: float = HEAL_SECONDS) -> None:
        """Wait until every member serves. Raises AssertionError with their logs if one does not."""
        # Twice: one that served still may just then have come to feel what was done to it.
        for member in (*self.cluster.members, *self.cluster.members):
            self._wait_served(member, timeout)
        self._excused.clear()
        self.cluster.introduce()
        if self._room_expected:
            self._wait_room(timeout)
            self._room_expected = False

    def _wait_room(self, timeout: float) -> None:
        """Wait until writes go through everywhere: by itself, as docs/operations.md says. Nobody disarms anything."""

        def has_room() -> bool:
            for member in self.cluster.members:
                self._rooms += 1
                room = PutRequest(key=b"room", value=f"{member.name}-{self._rooms}".encode())
                self.recorded(member.client.kv.Put, room, 5.0)
            alarms = [member.client.maintenance.Alarm(NO_SPACE, timeout=5.0).alarms for member in self.cluster.members]
            return not any(alarms)

        wait_until(has_room, "all members take writes once there is room, and no alarm says otherwise", timeout)

    def _wait_served(self, member: Member, timeout: float) -> None:
        try:
            self.wait_for(member, member.serves, f"{member.name} serves again", timeout)
        except ConditionNotMet as error:
            raise AssertionError(f"{error}\n{self.cluster.log_tails()}") from None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
