"""What clients are told of errors."""

from __future__ import annotations

import pytest

from kvstore import errors
from kvstore.api.errors import STATUS, to_rpc_error, translate
from kvstore.pb import rpc_pb2 as pb
from tests.api.harness import Api, FakeMember, status_of

EVERY = sorted(STATUS, key=lambda kind: kind.__name__)


def domain_errors() -> set[type[errors.KvstoreError]]:
    return set(errors.KvstoreError.__subclasses__())


def test_every_error_of_the_domain_has_a_status_of_its_own() -> None:
    assert set(STATUS) == domain_errors()
    assert len({message for _, message in STATUS.values()}) == len(STATUS)


def test_messages_bear_the_prefix_that_clients_match_on() -> None:
    assert [message for _, message in STATUS.values() if not message.startswith("etcdserver: ")] == []


def test_an_error_of_the_domain_is_translated() -> None:
    translated = translate(errors.Compacted())
    assert translated is not None
    assert (translated.code, translated.message) == STATUS[errors.Compacted]
    assert str(to_rpc_error(errors.Compacted())) == str(translated)


def test_other_exceptions_are_left_to_the_server() -> None:
    assert translate(ValueError("no")) is None


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
async def test_a_client_sees_code_and_text_whatever_kind_of_handler_failed(
    api: Api, member: FakeMember, kind: type[errors.KvstoreError]
) -> None:
    member.error = kind()
    expected = STATUS[kind]
    # A promise, a coroutine, a function that raises, a stream.
    assert await status_of(api.kv.Put(pb.PutRequest(key=b"k"))) == expected
    assert await status_of(api.cluster.MemberRemove(pb.MemberRemoveRequest(ID=1))) == expected
    assert await status_of(api.maintenance.Status(pb.StatusRequest())) == expected
    assert await status_of(api.maintenance.Snapshot(pb.SnapshotRequest())) == expected
