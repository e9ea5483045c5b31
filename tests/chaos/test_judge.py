"""The nemesis can fail: what a faulty store would show to its clients is noticed."""

import asyncio
import copy
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.client import rpcs
from kvstore.pb.rpc_pb2 import PutRequest, RangeRequest
from kvstore.rpc import Channel
from tests.chaos.judge import judge
from tests.chaos.session import Ledger, Session, options
from tests.chaos.traffic import EVERYTHING, Traffic
from tests.chaos.verdict import Diverged, Verdict, compare_hashes, join
from tests.chaos.watching import Follower, Interest
from tests.cluster.harness import Binary, Cluster, Member, from_environment
from tests.history import Recorder
from tests.history.model import Call, History, Outcome, Range, RangeResult, WatchResponse
from tests.rpc.harness import eventually

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

CALLS = 400
ALL = RangeRequest(key=EVERYTHING[0], range_end=EVERYTHING[1])


@pytest.fixture(scope="module")
def binary() -> Binary:
    return from_environment()


@pytest.fixture(scope="module")
def witnessed(binary: Binary, tmp_path_factory: pytest.TempPathFactory) -> History:
    """What a client and a watch of everything saw of an honest store."""
    with Cluster(binary, tmp_path_factory.mktemp("honest"), 1) as cluster:
        return asyncio.run(witness(cluster.members[0]))


@pytest.fixture
def history(witnessed: History) -> History:
    """A copy of that, to be tampered with."""
    return copy.deepcopy(witnessed)


async def witness(member: Member) -> History:
    ledger, channel = Ledger(Recorder()), Channel(member.endpoint, options=options())
    session = Session("c", [channel], ledger, random.Random(1))
    everything = Interest(*EVERYTHING, start=1)
    follower = Follower("w", [channel], ledger.recorder, [everything], random.Random(1), roams=False)
    following = asyncio.create_task(follower.run())
    traffic = Traffic("c", random.Random(1))
    for _ in range(CALLS):
        rpc, request = traffic.next()
        response = await session.call(rpc, request)
        if response is not None:
            traffic.learn(request, response)
    last = await session.call(rpcs.RANGE, ALL)
    assert last is not None
    await eventually(lambda: follower.reached >= last.header.revision, 20)
    following.cancel()
    await channel.close()
    return ledger.recorder.history()


def found(history: History, directory: Path) -> list[str]:
    """What the judge says of a history."""
    verdict = Verdict()
    judge(history, verdict, directory, lambda line: None)
    assert not verdict.undecided
    return verdict.violations


def told(history: History) -> list[WatchResponse]:
    """The responses of the watch that have events."""
    return [entry for entry in history.watches[0].log if isinstance(entry, WatchResponse) and entry.events]


def put_back(history: History, old: WatchResponse, *new: WatchResponse) -> None:
    log = history.watches[0].log
    at = next(number for number, entry in enumerate(log) if entry is old)
    log[at : at + 1] = new


def last_read(history: History) -> Call:
    return next(call for call in reversed(history.calls) if isinstance(call.op, Range) and call.result is not None)


def test_an_honest_history_passes_and_leaves_nothing(history: History, tmp_path: Path) -> None:
    assert sum(call.outcome is Outcome.ANSWERED for call in history.calls) > CALLS * 0.8
    assert len(told(history)) > 50
    assert not found(history, tmp_path)


def test_an_event_that_a_watch_was_not_told_is_missed(history: History, tmp_path: Path) -> None:
    response = told(history)[20]
    put_back(history, response)
    assert found(history, tmp_path)
    assert {"history.jsonl", "minimal.jsonl", "minimal.html"} <= {path.name for path in tmp_path.iterdir()}


def test_an_event_that_a_watch_was_told_twice_is_noticed(history: History, tmp_path: Path) -> None:
    response = told(history)[20]
    put_back(history, response, response, response)
    assert found(history, tmp_path)


def test_a_read_of_a_value_that_nobody_wrote_is_noticed(history: History, tmp_path: Path) -> None:
    call = last_read(history)
    assert isinstance(call.result, RangeResult)
    first, *rest = call.result.kvs
    call.result = replace(call.result, kvs=(replace(first, value=b"a lie"), *rest))
    assert found(history, tmp_path)


def test_a_key_that_a_last_read_no_longer_shows_is_missed(history: History, tmp_path: Path) -> None:
    call = last_read(history)
    assert isinstance(call.result, RangeResult)
    call.result = replace(call.result, kvs=call.result.kvs[1:], count=call.result.count - 1)
    assert found(history, tmp_path)


def test_a_stale_read_is_noticed(history: History, tmp_path: Path) -> None:
    """An early answer, given again to the same question at the end."""
    early = next(call for call in history.calls if isinstance(call.op, Range) and isinstance(call.result, RangeResult))
    last = history.calls[-1]
    again = Call(len(history.calls), "d", early.op, last.end + 1, last.end + 2, Outcome.ANSWERED, early.result)
    history.calls.append(again)
    assert found(history, tmp_path)


class TestARealStoreThatIsMadeToLie:
    @pytest.fixture
    def one(self, binary: Binary, tmp_path: Path) -> Iterator[Cluster]:
        with Cluster(binary, tmp_path / "one", 1) as cluster:
            yield cluster

    def test_a_write_that_was_acknowledged_and_lost_is_missed(self, one: Cluster, tmp_path: Path) -> None:
        """The member is given back an old copy of its disk, as docs/operations.md forbids."""
        (member,) = one.members
        ledger = Ledger(Recorder())
        recorded(member, ledger, PutRequest(key=b"key", value=b"kept"))
        member.terminate()
        shutil.copytree(member.data, tmp_path / "copy")
        member.start()
        member.wait_ready()
        recorded(member, ledger, PutRequest(key=b"key", value=b"lost"))
        member.kill_group()
        member.wipe()
        shutil.copytree(tmp_path / "copy", member.data)
        member.start()
        member.wait_ready()
        recorded(member, ledger, ALL)
        assert found(ledger.recorder.history(), tmp_path)

    def test_members_with_different_contents_do_not_pass_for_alike(
        self, one: Cluster, binary: Binary, tmp_path: Path
    ) -> None:
        with Cluster(binary, tmp_path / "other", 1) as other:
            pair = [*one.members, *other.members]
            for member in pair:
                member.client.put(b"key", b"same")
            assert compare_hashes(pair) > 0
            for number, member in enumerate(pair):
                member.client.put(b"key", b"%d" % number)
            with pytest.raises(Diverged, match="differ at revision 3"):
                compare_hashes(pair)


def recorded(member: Member, ledger: Ledger, request: PutRequest | RangeRequest) -> None:
    """One call to a member from outside of any loop."""
    rpc = rpcs.PUT if isinstance(request, PutRequest) else rpcs.RANGE

    async def call() -> None:
        channel = Channel(member.endpoint, options=options())
        response = await Session("c", [channel], ledger, random.Random(1)).call(rpc, request)
        await channel.close()
        assert response is not None

    asyncio.run(call())


def test_histories_of_several_processes_become_one_in_the_order_of_time() -> None:
    parts = []
    for start in (20, 10):
        part = History()
        part.calls.append(Call(0, f"client-{start}", Range(b"a"), start))
        parts.append(part)
    whole = join(parts)
    assert [(call.id, call.start) for call in whole.calls] == [(0, 10), (1, 20)]
