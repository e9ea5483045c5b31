"""A cluster of real processes on loopback, with the hands of an operator: start, kill, pause, wipe, add, remove."""

import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc

from kvstore.pb.rpc_pb2 import MemberAddRequest, MemberRemoveRequest, StatusResponse
from tests.cluster.harness.binary import Binary
from tests.cluster.harness.client import Client
from tests.cluster.harness.ports import PortReservation
from tests.cluster.harness.process import ManagedProcess, tail
from tests.cluster.harness.waiting import wait_until

READY_SECONDS = 30.0
PROBE_SECONDS = 1.0
FAST_ELECTIONS = {"heartbeat-interval": "50", "election-timeout": "500"}

# A member that has just come up is not counted as connected for some seconds.
_NOT_YET = ("etcdserver: unhealthy cluster", "etcdserver: re-configuration failed due to not enough started members")


class Member:
    """One member: its ports and directory, which it keeps through restarts, and its process while it has one.

    advertised_peer_url: where the other members find it; a test that stands between them puts its own address there.
    environment: variables of its process, over the binary's.
    """

    def __init__(self, binary: Binary, name: str, directory: Path, ports: PortReservation) -> None:
        self.binary = binary
        self.name = name
        self.directory = directory / name
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.directory.mkdir(parents=True)
        self.peer_port = ports.take()
        self.client_port = ports.take()
        self.advertised_peer_url = self.peer_url
        self.flags: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.process: ManagedProcess | None = None
        self._client: Client | None = None

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    @property
    def client_url(self) -> str:
        return f"http://127.0.0.1:{self.client_port}"

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def client(self) -> Client:
        """A client of this member alone, kept through its restarts."""
        if self._client is None:
            self._client = Client(self.endpoint)
        return self._client

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.running

    def command(self, **changed: str) -> list[str]:
        """How this member is started; changed: flags to set otherwise, with underscores for dashes."""
        flags = {
            "name": self.name,
            "data-dir": str(self.data),
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.advertised_peer_url,
            "listen-client-urls": self.client_url,
            "advertise-client-urls": self.client_url,
            "log-level": "info",
            **FAST_ELECTIONS,
            **self.flags,
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        return [*self.binary.command, *self.binary.flags(flags)]

    def start(self, **changed: str) -> None:
        """Start the process. Says nothing of whether it serves."""
        assert not self.running, f"{self.name} runs already"
        environment = {**self.binary.environment, **self.environment}
        self.process = ManagedProcess(self.command(**changed), environment, self.log, self.directory)

    def run_to_end(self, timeout: float = READY_SECONDS, **changed: str) -> tuple[int, str]:
        """Start a process that is expected to give up by itself: its exit status and what it wrote."""
        log = self.directory / "refused.log"
        log.unlink(missing_ok=True)
        process = ManagedProcess(self.command(**changed), self.binary.environment, log, self.directory)
        try:
            return process.wait(timeout), tail(log)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s; it wrote:\n{tail(log)}") from None
        finally:
            process.kill_group()

    def _running_process(self) -> ManagedProcess:
        assert self.process is not None, f"{self.name} was never started"
        return self.process

    def kill(self) -> None:
        """SIGKILL to the member's own process."""
        self._running_process().send(signal.SIGKILL)
        self._running_process().wait(READY_SECONDS)

    def kill_group(self) -> None:
        """SIGKILL to the member and all that it started, as when a container is killed. None of them is left then."""
        self._running_process().kill_group()

    def terminate(self, timeout: float = 10.0) -> None:
        """SIGTERM; the member must end with the status of a clean exit."""
        process = self._running_process()
        process.send(signal.SIGTERM)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} runs {timeout:g} s after SIGTERM; its log:\n{self.log_tail()}") from None

        assert status == self.binary.clean_exit, f"exit status {status}; its log:\n{self.log_tail()}"

    def request_stop(self) -> None:
        """SIGTERM, without waiting for what comes of it."""
        self._running_process().send(signal.SIGTERM)

    def wait_ended(self, timeout: float) -> int:
        """Wait for its end: the exit status. Raises subprocess.TimeoutExpired."""
        return self._running_process().wait(timeout)

    def pause(self) -> None:
        self._running_process().send(signal.SIGSTOP)

    def resume(self) -> None:
        self._running_process().send(signal.SIGCONT)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the member and all that it started, and go on at once."""
        self._running_process().send_group(number)

    def wipe(self) -> None:
        """Delete its data, as if its disk had been replaced, once nothing that it started writes there any more."""
        assert not self.running, f"{self.name} runs"
        if self.process is not None:
            self.process.wait_alone()
        if self.data.exists():
            shutil.rmtree(self.data)

    def status(self) -> StatusResponse | None:
        """Its status, or None if it does not answer at once."""
        try:
            return self.client.status(timeout=PROBE_SECONDS)
        except grpc.RpcError:
            return None

    @property
    def is_leader(self) -> bool:
        status = self.status() if self.running else None
        return status is not None and status.leader != 0 and status.leader == status.header.member_id

    @property
    def id(self) -> int:
        """Its member id, asked of itself."""
        member_id: int = self.client.status().header.member_id
        return member_id

    def serves(self) -> bool:
        """Whether a linearizable read through it is answered."""
        try:
            self.client.range(b"\0", limit=1, keys_only=True, timeout=PROBE_SECONDS)
        except grpc.RpcError:
            return False
        return True

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait until a linearizable read through it is answered; fail at once if its process is gone."""

        def ready_or_gone() -> bool:
            return not self.running or self.serves()

        try:
            wait_until(ready_or_gone, f"{self.name} serves", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; its log:\n{self.log_tail()}") from None
        assert self.running, f"{self.name} ended by itself; its log:\n{self.log_tail()}"

    def http(self, path: str, timeout: float = 5.0) -> tuple[int, dict[str, str], str]:
        """GET a path over HTTP/1.1: status, headers with names in lower case, body."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.client_url + path, timeout=timeout) as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status, headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            headers = {name.lower(): value for name, value in error.headers.items()}
            return error.code, headers, error.read().decode()

    def log_tail(self) -> str:
        return tail(self.log)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.process is not None:
            self.process.kill_group()


class Cluster:
    """Members that know each other. A context manager: whatever happens, no process is left."""

    def __init__(
        self,
        binary: Binary,
        directory: Path,
        size: int = 3,
        flags: dict[str, str] | None = None,
        token: str = "test",
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.token = token
        self.flags = dict(flags or {})
        self.ports = PortReservation()
        self.members: list[Member] = []
        self._prepared: list[Member] = []
        for number in range(1, size + 1):
            self.members.append(self.make_member(f"m{number}"))
        for member in self.members:
            member.flags = self._bootstrap_flags(self.members, "new")

    def make_member(self, name: str) -> Member:
        """A member of this cluster, not started; to be overridden by clusters whose members are special."""
        return Member(self.binary, name, self.directory, self.ports)

    def _bootstrap_flags(self, members: Iterable[Member], state: str) -> dict[str, str]:
        return {
            "initial-cluster": ",".join(f"{member.name}={member.advertised_peer_url}" for member in members),
            "initial-cluster-state": state,
            "initial-cluster-token": self.token,
            **self.flags,
        }

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def heal(self) -> None:
        """Whatever was done to its members: let all run and serve."""
        for member in self.members:
            if member.running:
                member.resume()
        self.start()

    def start(self) -> None:
        """Start every member that is not running, and wait until each serves."""
        for member in self.members:
            if not member.running:
                member.start()
        for member in self.members:
            wait_until(lambda asked=member: self._fallen() or asked.serves(), f"{member.name} serves", READY_SECONDS)  # type: ignore[misc]
        fallen = self._fallen()
        assert not fallen, "\n".join(f"{each.name} ended by itself; its log:\n{each.log_tail()}" for each in fallen)

    def _fallen(self) -> list[Member]:
        return [member for member in self.members if not member.running]

    def close(self) -> None:
        for member in [*self.members, *self._prepared]:
            member.close()
        self.ports.close()

    def leader(self, timeout: float = READY_SECONDS) -> Member:
        """The running member that says it leads, and that a majority of all members follow."""

        def find() -> Member | None:
            told: dict[int, int] = {}
            by_id: dict[int, Member] = {}
            for member in self.members:
                status = member.status() if member.running else None
                if status is not None:
                    by_id[status.header.member_id] = member
                    told[status.leader] = told.get(status.leader, 0) + 1
            for leader, count in told.items():
                if leader in by_id and count * 2 > len(self.members):
                    return by_id[leader]
            return None

        return wait_until(find, "the members follow one leader", timeout)

    def followers(self) -> list[Member]:
        """The running members save the leader."""
        leader = self.leader()
        return [member for member in self.members if member is not leader and member.running]

    def prepare_member(self, name: str) -> Member:
        """A member that nobody knows of yet."""
        member = self.make_member(name)
        self._prepared.append(member)
        return member

    def joined(self, member: Member) -> None:
        """A member has been added to the cluster: let it know all others when it starts."""
        self.members.append(member)
        member.flags = self._bootstrap_flags(self.members, "existing")

    def add(self, name: str, *, learner: bool = False) -> Member:
        """Make a new member part of the cluster without starting it."""
        return self.add_again(self.prepare_member(name), learner=learner)

    def add_again(self, member: Member, *, learner: bool = False) -> Member:
        """Add a member that was removed and wiped, with the ports and the directory it had."""
        request = MemberAddRequest(peerURLs=[member.advertised_peer_url], isLearner=learner)
        self._reconfigure(lambda leader: leader.cluster.MemberAdd(request))
        self.joined(member)
        return member

    def remove(self, member: Member, member_id: int) -> None:
        """Take a member out of the cluster; its process is left to end by itself, and the caller's to close."""
        self._reconfigure(lambda leader: leader.cluster.MemberRemove(MemberRemoveRequest(ID=member_id)))
        self.members.remove(member)

    def _reconfigure(self, change: Callable[[Client], object]) -> None:
        """Make a change through the leader, as soon as it says that the cluster is healthy enough for one."""

        def attempt() -> bool:
            try:
                change(self.leader().client)
            except grpc.RpcError as error:
                if error.details() in _NOT_YET:
                    return False
                refusal.append(error)
            return True

        refusal: list[grpc.RpcError] = []
        wait_until(attempt, "the cluster takes the change of its membership", READY_SECONDS)
        if refusal:
            raise refusal[0]

    def log_tails(self) -> str:
        """What every member wrote last, for a failure's report."""
        return "\n".join(f"--- {member.name} ---\n{member.log_tail()}" for member in self.members)

    def wait_agreed(self, timeout: float = READY_SECONDS) -> None:
        """Wait until every running member has applied as far as the others, and has the same revision."""

        def agreed() -> bool:
            statuses = [member.status() for member in self.members if member.running]
            known = [status for status in statuses if status is not None]
            return len(known) == len(statuses) and len({status.header.revision for status in known}) == 1

        wait_until(agreed, "all members have the same revision", timeout)
