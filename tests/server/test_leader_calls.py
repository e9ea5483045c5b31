"""Questions to the leader, and what becomes of them when another leads."""

from __future__ import annotations

from kvstore import errors
from kvstore.rpc import Promise, RpcError, StatusCode
from kvstore.server.leader_calls import LeaderCalls
from kvstore.server.ready_loop import Leadership


class Peers:
    """Members that answer when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Promise[bytes]]] = []

    def call(self, member: int, method: str, request: bytes, timeout: float) -> Promise[bytes]:
        promise: Promise[bytes] = Promise()
        self.asked.append((member, promise))
        return promise


class Asking:
    """LeaderCalls of a member that knows a leader."""

    def __init__(self) -> None:
        self.leader = 2
        self.peers = Peers()
        self.calls = LeaderCalls(lambda: Leadership(self.leader, False), self.peers, 5.0)

    def lead(self, leader: int) -> None:
        self.leader = leader
        self.calls.leadership_changed()


def test_what_a_former_leader_was_asked_fails_as_soon_as_there_is_another() -> None:
    asking = Asking()
    answer = asking.calls.ask("M", b"")
    asking.lead(0)
    assert not answer.done()
    asking.lead(3)
    assert isinstance(answer.exception(), errors.LeaderChanged)
    # Its answer comes too late for anybody.
    asking.peers.asked[0][1].set_result(b"late")
    assert isinstance(answer.exception(), errors.LeaderChanged)


def test_what_the_present_leader_was_asked_goes_on() -> None:
    asking = Asking()
    answer = asking.calls.ask("M", b"")
    asking.lead(0)
    asking.lead(2)
    asking.peers.asked[0][1].set_result(b"answer")
    assert answer.result() == b"answer"
    refused = asking.calls.ask("M", b"")
    asking.peers.asked[1][1].set_exception(RpcError(StatusCode.ABORTED, "LeaseNotFound"))
    assert isinstance(refused.exception(), errors.LeaseNotFound)
    asking.lead(3)
    assert isinstance(refused.exception(), errors.LeaseNotFound)
