"""Errors by their exact text."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from kvstore.api.errors import STATUS
from kvstore.client import errors


@pytest.mark.parametrize("name", sorted(error.__name__ for error in STATUS))
def test_every_error_of_the_server_has_a_class_of_that_name_with_the_same_code_and_text(name: str) -> None:
    code, text = next(answer for error, answer in STATUS.items() if error.__name__ == name)
    found = errors.from_status(StatusCode[code.name], text)
    assert type(found).__name__ == name
    assert found.code.name == code.name
    assert str(found) == text


def test_a_text_that_is_not_of_the_api_keeps_its_code_and_reads_as_in_other_clients() -> None:
    error = errors.from_status(StatusCode.RESOURCE_EXHAUSTED, "too much of everything")
    assert type(error) is errors.RpcError
    assert error.code is StatusCode.RESOURCE_EXHAUSTED
    assert str(error) == "rpc error: code = ResourceExhausted desc = too much of everything"


def test_a_reason_that_wraps_a_known_text_is_that_error() -> None:
    reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    assert type(errors.from_cancel_reason(reason)) is errors.PermissionDenied
    assert type(errors.from_cancel_reason("etcdserver: no leader")) is errors.NoLeader


def test_an_unknown_reason_is_a_canceled_watch_that_says_why() -> None:
    error = errors.from_cancel_reason("out of patience")
    assert type(error) is errors.WatchCanceled
    assert str(error) == "out of patience"
