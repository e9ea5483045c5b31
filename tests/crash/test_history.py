"""The model of what a store holds counts as a store does."""

from __future__ import annotations

from tests.crash.history import (
    Compact,
    Contents,
    Delete,
    Do,
    Grant,
    History,
    Join,
    Leave,
    Put,
    Revoke,
    Row,
    everything,
)


def test_a_revision_is_a_change_whatever_its_size() -> None:
    contents = Contents().after(Put(((b"a", b"1"), (b"b", b"2")))).after(Delete(b"nothing")).after(Put(((b"a", b"3"),)))
    assert contents.revision == 3
    assert contents.keys == {b"a": Row(b"3", 2, 3, 2, 0), b"b": Row(b"2", 2, 2, 1, 0)}


def test_a_lease_takes_its_keys_with_it() -> None:
    contents = Contents().after(Grant(7)).after(Put(((b"a", b"1"),), lease=7)).after(Revoke(7))
    assert (contents.revision, contents.keys, contents.leases) == (3, {}, frozenset())


def test_what_was_compacted_cannot_be_read() -> None:
    contents = Contents()
    for value in (b"1", b"2", b"3"):
        contents = contents.after(Put(((b"a", value),)))
    assert sorted(contents.after(Compact(1)).past) == [3, 4]


def test_the_history_has_something_of_everything() -> None:
    history = History.of(everything())
    assert {type(step) for step in history.steps} == {Put, Delete, Grant, Revoke, Compact, Join, Leave, Do}
    assert len(history.contents) == len(history.steps) + 1
    assert history.contents[-1].leases == {102}
    assert not history.contents[-1].learners
