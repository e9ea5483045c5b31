"""A configuration that cannot work is refused with the name of the field."""

from __future__ import annotations

from typing import Any

import pytest

from raft import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NO_LIMIT, Config, ConfigError, MemoryStorage, ReadOnlyOption


def config(**fields: Any) -> Config:
    return Config(**{"id": 1, "election_tick": 10, "heartbeat_tick": 1, "storage": MemoryStorage(), **fields})


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("id", {"id": 0}),
        ("id", {"id": LOCAL_APPEND_THREAD}),
        ("id", {"id": LOCAL_APPLY_THREAD}),
        ("heartbeat_tick", {"heartbeat_tick": 0}),
        ("election_tick", {"election_tick": 1}),
        ("max_inflight_msgs", {"max_inflight_msgs": 0}),
        ("max_inflight_bytes", {"max_inflight_bytes": 10, "max_size_per_msg": 11}),
        ("read_only_option", {"read_only_option": ReadOnlyOption.LEASE_BASED}),
    ],
)
def test_names_the_field_that_is_wrong(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        config(**fields)


def test_limits_of_0_do_not_limit() -> None:
    assert config().uncommitted_size_limit == NO_LIMIT
    assert config().inflight_bytes_limit == NO_LIMIT


def test_the_limit_of_a_ready_falls_back_to_that_of_a_message() -> None:
    assert config(max_size_per_msg=7).committed_size_limit == 7
    assert config(max_size_per_msg=7, max_committed_size_per_ready=9).committed_size_limit == 9
    assert config(max_size_per_msg=0).committed_size_limit == 1
