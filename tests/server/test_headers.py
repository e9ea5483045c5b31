"""The header that every response begins with."""

from __future__ import annotations

import pytest

from kvstore.pb.rpc_pb2 import RangeResponse, ResponseHeader
from kvstore.server.headers import ResponseHeaders

NUMBERS = (1, 0x7F, 0x80, 0x3FFF, 0x4000, 1 << 28, 1 << 40, (1 << 63) - 1)
HIGHEST = (1 << 64) - 1


@pytest.mark.parametrize("ids", [(1, 2), (HIGHEST, HIGHEST)])
@pytest.mark.parametrize("term", [0, 1, 300, HIGHEST])
@pytest.mark.parametrize("revision", NUMBERS)
def test_it_is_what_protobuf_makes_of_it(ids: tuple[int, int], term: int, revision: int) -> None:
    cluster, member = ids
    headers = ResponseHeaders(cluster, member)
    headers.set_term(term)
    expected = ResponseHeader(cluster_id=cluster, member_id=member, revision=revision, raft_term=term)
    assert headers.encode(revision) == RangeResponse(header=expected).SerializeToString()


def test_a_new_term_is_in_the_next_one() -> None:
    headers = ResponseHeaders(1, 2)
    for term in (1, 200, 1 << 50):
        headers.set_term(term)
        assert RangeResponse.FromString(headers.encode(7)).header.raft_term == term
