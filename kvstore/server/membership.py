"""Who belongs to the cluster: the replicated list of members and the rules for changing it.

Knows nothing of raft's progress or of connections; whether a member is active or caught up is asked of whoever does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from kvstore import errors
from kvstore.pb import internal_pb2
from kvstore.pb.rpc_pb2 import Member
from raft.messages import ConfChange, ConfChangeType, ConfState

_NEEDED: Final = b"\x00"
_SETTLED: Final = b"\x01"
"""What the row of a removed member holds, before and after nobody needs it any more."""


class MemberTable(Protocol):
    """Where members are kept: a table of the replicated state."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a row."""

    def delete(self, key: bytes) -> None:
        """Remove a row."""

    def scan(self, start: bytes, end: bytes | None, reverse: bool = False) -> Iterable[tuple[bytes, bytes]]:
        """Rows in the order of their keys."""


def member_id(peer_urls: Sequence[str], cluster_token: str, salt: str = "") -> int:
    """A member's id: every member of a new cluster computes the same from the same configuration.

    salt: what tells members apart that come and go with the same URLs; empty for those of the first configuration.
    """
    text = ",".join(sorted(peer_urls)) + "\n" + cluster_token + "\n" + salt
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") or 1


def cluster_id(member_ids: Iterable[int], cluster_token: str) -> int:
    """A cluster's id, from the ids of its first members."""
    digest = hashlib.sha256(cluster_token.encode())
    for number in sorted(member_ids):
        digest.update(number.to_bytes(8, "big"))
    return int.from_bytes(digest.digest()[:8], "big") or 1


class Membership:
    """The members, in memory and in the state's tables; changed only by applying the log.

    members, removed: tables of the state. on_change: called after each change with the member's id.
    """

    def __init__(
        self, members: MemberTable, removed: MemberTable, on_change: Callable[[int], None] = lambda _: None
    ) -> None:
        self._table = members
        self._removed_table = removed
        self.on_change = on_change
        self._members: dict[int, Member] = {}
        self._removed: set[int] = set()
        self._unsettled: set[int] = set()
        self.reload()

    def reload(self) -> None:
        """Read everything again: the state was replaced."""
        rows = self._table.scan(b"", None)
        self._members = {int.from_bytes(key, "big"): Member.FromString(row) for key, row in rows}
        removed = {int.from_bytes(key, "big"): row for key, row in self._removed_table.scan(b"", None)}
        self._removed = set(removed)
        self._unsettled = {number for number, row in removed.items() if row == _NEEDED}

    def all(self) -> list[Member]:
        """Every member, by id. The messages are not to be changed."""
        return [self._members[number] for number in sorted(self._members)]

    def get(self, number: int) -> Member | None:
        """The member with this id."""
        return self._members.get(number)

    def is_removed(self, number: int) -> bool:
        """Whether a member with this id was removed; it may never come back."""
        return number in self._removed

    def is_settled(self, number: int) -> bool:
        """Whether a member with this id was removed, and those who stay can do without it."""
        return number in self._removed and number not in self._unsettled

    @property
    def unsettled(self) -> list[int]:
        """Ids of the removed members that those who stay may need still."""
        return sorted(self._unsettled)

    def voters(self) -> list[Member]:
        """The members that vote."""
        return [member for member in self.all() if not member.isLearner]

    def conf_state(self) -> ConfState:
        """The configuration that these members make."""
        return ConfState(
            voters=[member.ID for member in self.voters()],
            learners=[member.ID for member in self.all() if member.isLearner],
        )

    # Rules, checked before a change is proposed.

    def check_add(self, peer_urls: Sequence[str], is_learner: bool, max_learners: int) -> None:
        """Raise PeerURLExist or TooManyLearners."""
        taken = {url for member in self._members.values() for url in member.peerURLs}
        if taken & set(peer_urls):
            raise errors.PeerURLExist
        if is_learner and sum(member.isLearner for member in self._members.values()) >= max_learners:
            raise errors.TooManyLearners

    def check_remove(self, number: int) -> None:
        """Raise MemberNotFound."""
        if number not in self._members:
            raise errors.MemberNotFound

    def check_update(self, number: int, peer_urls: Sequence[str]) -> None:
        """Raise MemberNotFound or PeerURLExist."""
        self.check_remove(number)
        others = {url for member in self._members.values() if number != member.ID for url in member.peerURLs}
        if others & set(peer_urls):
            raise errors.PeerURLExist

    def check_promote(self, number: int) -> None:
        """Raise MemberNotFound or MemberNotLearner."""
        self.check_remove(number)
        if not self._members[number].isLearner:
            raise errors.MemberNotLearner

    def started_voters(self) -> list[Member]:
        """Voters that have served once: they have a name."""
        return [member for member in self.voters() if member.name]

    # Changes, applied in the order of the log on every member.

    def verdict(self, change: ConfChange, context: internal_pb2.MemberChange) -> errors.KvstoreError | None:
        """Whether a committed change is refused: it was right when proposed, but something came in between."""
        number = change.node_id
        if number in self._removed:
            return errors.MemberNotFound()
        known = self._members.get(number)
        if change.type in (ConfChangeType.ADD_NODE, ConfChangeType.ADD_LEARNER_NODE):
            if context.promote:
                if known is None:
                    return errors.MemberNotFound()
                return None if known.isLearner else errors.MemberNotLearner()
            if known is not None:
                return errors.MemberExist()
            taken = {url for member in self._members.values() for url in member.peerURLs}
            return errors.PeerURLExist() if taken & set(context.member.peerURLs) else None
        if known is None:
            return errors.MemberNotFound()
        if change.type is ConfChangeType.REMOVE_NODE and self.voters() == [known]:
            # Two were to be removed at once.
            return errors.MemberNotEnoughStarted()
        if change.type is ConfChangeType.UPDATE_NODE:
            try:
                self.check_update(number, context.member.peerURLs)
            except errors.PeerURLExist as error:
                return error
        return None

    def apply(self, change: ConfChange, context: internal_pb2.MemberChange) -> None:
        """Carry out a change that has no verdict against it."""
        number = change.node_id
        if change.type is ConfChangeType.REMOVE_NODE:
            del self._members[number]
            self._table.delete(_key(number))
            self._removed.add(number)
            self._unsettled.add(number)
            self._removed_table.put(_key(number), _NEEDED)
        else:
            member = Member()
            known = self._members.get(number)
            if known is None:
                member.CopyFrom(context.member)
                member.ID = number
                member.isLearner = change.type is ConfChangeType.ADD_LEARNER_NODE
            else:
                # An update changes where a member is reached and nothing else; a promotion changes only its role.
                member.CopyFrom(known)
                if context.promote:
                    member.isLearner = False
                else:
                    del member.peerURLs[:]
                    member.peerURLs.extend(context.member.peerURLs)
            self._store(member)
        self.on_change(number)

    def settle(self, numbers: Iterable[int]) -> None:
        """Those who stay can do without these removed members; others are ignored."""
        for number in self._unsettled.intersection(numbers):
            self._unsettled.remove(number)
            self._removed_table.put(_key(number), _SETTLED)
            self.on_change(number)

    def set_attributes(self, attributes: internal_pb2.MemberAttributes) -> None:
        """Take what a member says of itself; one that is gone is ignored."""
        known = self._members.get(attributes.member_id)
        if known is None:
            return
        member = Member()
        member.CopyFrom(known)
        member.name = attributes.name
        del member.clientURLs[:]
        member.clientURLs.extend(attributes.client_urls)
        self._store(member)
        self.on_change(member.ID)

    def _store(self, member: Member) -> None:
        self._members[member.ID] = member
        self._table.put(_key(member.ID), member.SerializeToString())


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")
