"""The keepalive stream: many renewals at once, answers in order."""

from __future__ import annotations

from kvstore import errors
from kvstore.api.errors import STATUS
from kvstore.api.lease import MAX_RENEWALS
from kvstore.pb import rpc_pb2 as pb
from kvstore.rpc import StatusCode
from tests.api.harness import Api, FakeMember, status_of, until


async def test_a_known_lease_answers_its_ttl_and_an_unknown_one_zero(api: Api, member: FakeMember) -> None:
    member.bodies["lease_renew"] = {7: 60}
    requests = iter([pb.LeaseKeepAliveRequest(ID=7), pb.LeaseKeepAliveRequest(ID=8), pb.LeaseKeepAliveRequest(ID=-1)])
    answers = [answer async for answer in api.lease.LeaseKeepAlive(requests)]
    assert [(answer.ID, answer.TTL) for answer in answers] == [(7, 60), (8, 0), (-1, 0)]
    assert answers[0].header == member.header_message()


async def test_renewals_are_on_their_way_together_and_answered_in_order(api: Api, member: FakeMember) -> None:
    member.held = []
    call = api.lease.LeaseKeepAlive()
    for number in (1, 2, 3):
        await call.write(pb.LeaseKeepAliveRequest(ID=number))
    await until(lambda: member.held is not None and len(member.held) == 3)
    for number in (3, 1, 2):
        member.held[number - 1].set_result(10 * number)
    answers = [await call.read() for _ in range(3)]
    assert [(answer.ID, answer.TTL) for answer in answers] == [(1, 10), (2, 20), (3, 30)]
    await call.done_writing()
    assert await status_of(call) == (StatusCode.OK, "")


async def test_the_header_is_from_before_the_renewal(api: Api, member: FakeMember) -> None:
    member.held = []
    call = api.lease.LeaseKeepAlive()
    await call.write(pb.LeaseKeepAliveRequest(ID=1))
    await until(lambda: bool(member.held))
    before = member.fake_store.revision
    member.fake_store.put(b"k", b"v")
    member.held[0].set_result(5)
    assert (await call.read()).header.revision == before
    call.cancel()


async def test_a_renewal_that_fails_ends_the_stream_after_the_answers_before_it(api: Api, member: FakeMember) -> None:
    member.held = []
    call = api.lease.LeaseKeepAlive()
    for number in (1, 2, 3):
        await call.write(pb.LeaseKeepAliveRequest(ID=number))
    await until(lambda: member.held is not None and len(member.held) == 3)
    member.held[1].set_exception(errors.LeaderChanged())
    member.held[0].set_result(5)
    assert (await call.read()).ID == 1
    assert await status_of(call) == STATUS[errors.LeaderChanged]
    # The client is gone; nobody minds what becomes of the third.
    member.held[2].set_exception(errors.LeaderChanged())


async def test_a_stream_has_a_bounded_number_of_renewals_on_their_way(api: Api, member: FakeMember) -> None:
    member.held = []
    wanted = MAX_RENEWALS + 50
    call = api.lease.LeaseKeepAlive(pb.LeaseKeepAliveRequest(ID=number) for number in range(wanted))
    await until(lambda: member.held is not None and len(member.held) >= MAX_RENEWALS)
    held = member.held
    while sum(promise.done() for promise in held) < wanted:
        await until(lambda: not held[-1].done())
        first = next(index for index, promise in enumerate(held) if not promise.done())
        # One waits to be answered, one waits for room, the rest fill the queue.
        assert len(held) - first <= MAX_RENEWALS + 2
        held[first].set_result(1)
    answers = [answer.ID async for answer in call]
    assert answers == list(range(wanted))
