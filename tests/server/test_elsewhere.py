"""Reads that are passed on: to whom, and what of their answers counts."""

from collections.abc import Callable

import pytest

from kvstore import errors
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import Promise, RpcError, StatusCode
from kvstore.server.elsewhere import Elsewhere


class Peers:
    """Calls to others, each answered when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, bytes]] = []
        self.answers: list[Promise[bytes]] = []

    def call(self, member: int, method: str, request: bytes, timeout: float) -> Promise[bytes]:
        assert timeout > 0
        self.calls.append((member, method, request))
        self.answers.append(Promise())
        return self.answers[-1]

    @property
    def asked(self) -> list[int]:
        return [member for member, _, _ in self.calls]


def aborted(kind: type[errors.KvstoreError]) -> RpcError:
    return RpcError(StatusCode.ABORTED, kind.__name__)


RANGE = pb.RangeRequest(key=b"k")


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
def elsewhere(peers: Peers) -> Elsewhere:
    return Elsewhere(lambda: [2, 3], peers)


def test_a_read_is_answered_by_the_first_that_can(elsewhere: Elsewhere, peers: Peers) -> None:
    answer = elsewhere.read(RANGE)
    assert peers.calls == [(2, "Range", RANGE.SerializeToString())]
    peers.answers[0].set_result(b"found")
    assert answer.result() == b"found"
    assert elsewhere.answered_total == 1


def test_a_transaction_goes_the_same_way(elsewhere: Elsewhere, peers: Peers) -> None:
    request = pb.TxnRequest(success=[pb.RequestOp(request_range=RANGE)])
    elsewhere.read(request)
    assert peers.calls == [(2, "Txn", request.SerializeToString())]


@pytest.mark.parametrize(
    "failure",
    [
        aborted(errors.NoRoomToCatchUp),
        aborted(errors.RequestTimeout),
        aborted(errors.Stopped),
        RpcError(StatusCode.UNAVAILABLE, "connection refused"),
        RpcError(StatusCode.DEADLINE_EXCEEDED, "too late"),
        RpcError(StatusCode.UNIMPLEMENTED, "an older build"),
    ],
    ids=str,
)
def test_the_next_is_asked_when_one_cannot(elsewhere: Elsewhere, peers: Peers, failure: RpcError) -> None:
    answer = elsewhere.read(RANGE)
    peers.answers[0].set_exception(failure)
    assert peers.asked == [2, 3]
    peers.answers[1].set_result(b"found")
    assert answer.result() == b"found"
    # The next read spares itself the way to the one that could not.
    elsewhere.read(RANGE)
    assert peers.asked == [2, 3, 3]


def test_an_error_of_the_request_is_an_answer(elsewhere: Elsewhere, peers: Peers) -> None:
    answer = elsewhere.read(RANGE)
    peers.answers[0].set_exception(aborted(errors.Compacted))
    assert peers.asked == [2]
    assert isinstance(answer.exception(), errors.Compacted)


def test_a_read_that_nobody_can_serve_fails(elsewhere: Elsewhere, peers: Peers) -> None:
    answer = elsewhere.read(RANGE)
    for number in range(2):
        peers.answers[number].set_exception(aborted(errors.NoRoomToCatchUp))
    assert isinstance(answer.exception(), errors.NoRoomToCatchUp)


def test_more_reads_than_can_wait_are_refused(
    elsewhere: Elsewhere, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvstore.server.elsewhere.MAX_PASSED_ON", 2)
    finish: list[Callable[[], None]] = []
    for _ in range(2):
        elsewhere.read(RANGE)
        finish.append(lambda answer=peers.answers[-1]: answer.set_result(b""))  # type: ignore[misc]
    assert isinstance(elsewhere.read(RANGE).exception(), errors.RequestTooManyRequests)
    finish[0]()
    assert not elsewhere.read(RANGE).done()
