"""What must hold in the end: the members hash alike, the history is possible, every watch was told everything."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc

from kvstore.pb.rpc_pb2 import HashKVRequest, HashKVResponse
from tests.cluster.harness import Member, wait_until
from tests.history.model import History

HASH_SECONDS = 30.0
HASHED_REVISIONS = 6
"""Of those that all members have: the first, the last, and so many at most between them."""


class Diverged(AssertionError):
    """Two members have different contents at one revision."""


@dataclass(slots=True)
class Verdict:
    """What came out. violations: in words; none means that everything held. undecided: what could not be checked."""

    violations: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violations and not self.undecided


def join(histories: Iterable[History]) -> History:
    """One history of the parts that several processes recorded."""
    whole = History()
    for part in histories:
        whole.calls += part.calls
        whole.watches += part.watches
        whole.unrecorded += part.unrecorded
    whole.calls.sort(key=lambda call: call.start)
    for number, call in enumerate(whole.calls):
        call.id = number
    for number, watch in enumerate(whole.watches):
        watch.id = number
    return whole


def compare_hashes(members: Sequence[Member], samples: int = HASHED_REVISIONS) -> int:
    """Compare all members at revisions that all of them have, while they may be written to: how many revisions.

    A hash is of all history between the last compaction and its revision, so each stands for those below it.
    Raises Diverged.
    """
    newest = min(member.client.status().header.revision for member in members)
    oldest = max(1, *(answer.compact_revision for answer in _hashes(members, newest)))
    step = max(1, (newest - oldest) // (samples + 1))
    return sum(_compare_at(members, revision) for revision in range(newest, oldest - 1, -step))


def _compare_at(members: Sequence[Member], revision: int) -> bool:
    """Compare at one revision; False if it has been compacted meanwhile. Raises Diverged."""
    answers: list[HashKVResponse] = []

    def decided() -> bool:
        """Whether there are answers that can be compared, or none can be had any more."""
        answers.clear()
        try:
            answers.extend(_hashes(members, revision))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                return True
            raise
        # Between two answers there may have been a compaction: then they say nothing of each other.
        return len({answer.compact_revision for answer in answers}) == 1

    wait_until(decided, f"all members can be compared at revision {revision}", HASH_SECONDS)
    if len({answer.hash for answer in answers}) > 1:
        told = ", ".join(f"{member.name} {answer.hash:08x}" for member, answer in zip(members, answers, strict=True))
        raise Diverged(f"the members differ at revision {revision} (compacted {answers[0].compact_revision}): {told}")
    return bool(answers)


def _hashes(members: Sequence[Member], revision: int) -> list[HashKVResponse]:
    """What each member answers. They are asked at once: it costs each a process of its own. Raises grpc.RpcError."""
    request = HashKVRequest(revision=revision)

    def ask(member: Member) -> HashKVResponse:
        answer: HashKVResponse = member.client.maintenance.HashKV(request, timeout=HASH_SECONDS)
        return answer

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(ask, members))
