"""The notation of log lines and scenarios, where the vectors do not show it."""

from __future__ import annotations

import pytest

from raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    ReadState,
    Ready,
    Snapshot,
    SnapshotMetadata,
)
from raft.describe import MESSAGE_NAMES, describe_conf_change, describe_entry, describe_message, describe_ready, quote


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", '"plain"'),
        (b'say "hi" \\', r'"say \"hi\" \\"'),
        (b"\n\t\r\x00\x7f", r'"\n\t\r\x00\x7f"'),
        (b"\xff\xfe", r'"\xff\xfe"'),
        ("größe".encode(), '"größe"'),
        ("​".encode(), r'"\u200b"'),
        ("\U000e0001".encode(), r'"\U000e0001"'),
    ],
)
def test_payloads_are_quoted(data: bytes, text: str) -> None:
    assert quote(data) == text


def test_every_message_type_has_its_name() -> None:
    assert len(MESSAGE_NAMES) == len(MessageType)
    for kind in MessageType:
        assert MESSAGE_NAMES[kind] == "Msg" + kind.name.title().replace("_", "")


def test_an_entry_may_be_formatted_by_its_owner() -> None:
    assert describe_entry(Entry(2, 3, data=b"abc"), lambda data: str(len(data))) == "2/3 EntryNormal 3"
    assert describe_entry(Entry(2, 3), lambda data: "") == "2/3 EntryNormal"


def test_an_entry_that_does_not_decode_says_so() -> None:
    assert describe_entry(Entry(2, 3, EntryType.CONF_CHANGE, b"\x10")) == "2/3 EntryConfChange number without an end"


def test_a_configuration_change_is_written_with_every_field() -> None:
    changes = [ConfChangeSingle(ConfChangeType.ADD_NODE, 3), ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 4)]
    several = ConfChangeV2(ConfChangeTransition.JOINT_EXPLICIT, changes, b"a")
    assert describe_conf_change(several) == (
        "{ConfChangeTransitionJointExplicit [{ConfChangeAddNode 3} {ConfChangeAddLearnerNode 4}] [97]}"
    )
    assert describe_conf_change(ConfChangeV2()) == "{ConfChangeTransitionAuto [] []}"
    assert describe_conf_change(ConfChange(7, ConfChangeType.REMOVE_NODE, 2)) == "{ConfChangeRemoveNode 2 [] 7}"


def test_a_message_of_several_entries_takes_several_lines() -> None:
    message = Message(MessageType.APP, 2, 10, 3, 2, 1, [Entry(3, 2, data=b"x"), Entry(3, 3)], 1)
    assert describe_message(message, indent=" ") == "\n".join(
        [
            " a->2 MsgApp Term:3 Log:2/1 Commit:1 Entries:[",
            '   3/2 EntryNormal "x"',
            '   3/3 EntryNormal ""',
            " ]",
        ]
    )


def test_a_ready_shows_reads_and_snapshots() -> None:
    snapshot = Snapshot(metadata=SnapshotMetadata(ConfState([1, 2]), 5, 2))
    ready = Ready(read_states=[ReadState(4, b"ab")], snapshot=snapshot)
    assert describe_ready(ready) == (
        "Ready MustSync=false:\n"
        "ReadStates [{4 [97 98]}]\n"
        "Snapshot Index:5 Term:2 ConfState:Voters:[1 2] VotersOutgoing:[] Learners:[] LearnersNext:[] "
        "AutoLeave:false\n"
    )
    assert describe_ready(Ready()) == "<empty Ready>"
