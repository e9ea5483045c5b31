"""Copies of the state for clients: few at once."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvstore import errors
from kvstore.pb import rpc_pb2 as pb
from kvstore.server.maintenance import MAX_COPIES, Maintenance


class Copy:
    """A copy without end."""

    size = 1_000
    open = 0

    async def __aenter__(self) -> Copy:
        Copy.open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        Copy.open -= 1

    def __aiter__(self) -> Copy:
        return self

    async def __anext__(self) -> bytes:
        return b"x"


def maintenance() -> Maintenance:
    async def copy() -> Copy:
        return Copy()

    given: dict[str, Any] = dict.fromkeys(("config", "member_id", "loop", "proposer", "disk"))
    times = SimpleNamespace(snapshot=SimpleNamespace(measure=nullcontext))
    state = SimpleNamespace(backend=SimpleNamespace(snapshot=copy))
    return cast(Any, Maintenance)(**given, state=state, times=times, header=pb.ResponseHeader)  # type: ignore[no-any-return]


async def test_more_copies_than_may_be_under_way_are_refused_and_end_nobody_elses() -> None:
    made = maintenance()
    copies = [made.snapshot() for _ in range(MAX_COPIES)]
    for copy in copies:
        assert (await anext(copy)).blob == b"x"
    one_more = made.snapshot()
    with pytest.raises(errors.RequestTooManyRequests):
        await anext(one_more)
    assert Copy.open == MAX_COPIES
    assert (await anext(copies[0])).blob == b"x"
    await copies[0].aclose()
    assert Copy.open == MAX_COPIES - 1
    another = made.snapshot()
    assert (await anext(another)).blob == b"x"
    for copy in (*copies[1:], another):
        await copy.aclose()
    assert made.copies == Copy.open == 0
