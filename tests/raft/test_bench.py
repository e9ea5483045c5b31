"""The benchmark replicates what it says it does."""

from __future__ import annotations

from raft import NO_LIMIT
from tests.raft.bench import Group, replicate


def test_every_entry_is_stored_and_applied_by_all_three() -> None:
    group = Group(max_size_per_msg=NO_LIMIT, max_inflight_bytes=0)
    assert replicate(group, 1_000, 100, 16) > 0
    # After the first entry of the leader, and what was there before it.
    assert {id: storage.last_index() for id, storage in group.storages.items()} == dict.fromkeys((1, 2, 3), 1_002)
    assert group.applied == dict.fromkeys((1, 2, 3), 1_002)


def test_a_batch_takes_one_append_to_each_follower_with_limits_in_bytes() -> None:
    group = Group(max_size_per_msg=1 << 20, max_inflight_bytes=64 << 20)
    group.nodes[1].propose_batch([b"x"] * 100)
    ready = group.nodes[1].ready()
    assert [(message.to, len(message.entries)) for message in ready.messages] == [(2, 100), (3, 100)]
