"""Alarms: conditions of the whole cluster that stay raised, in the log and on disk, until an operator disarms them."""

from __future__ import annotations

from typing import Final

from kvstore.pb.rpc_pb2 import AlarmMember, AlarmRequest, AlarmType
from kvstore.server.membership import MemberTable

_KINDS: Final = frozenset(AlarmType.values()) - {AlarmType.NONE}


class Alarms:
    """Raised alarms, by member and kind; changed only by applying the log.

    table: a table of the state, holding (member id, kind) as its key.
    """

    def __init__(self, table: MemberTable) -> None:
        self._table = table
        self._raised: set[tuple[int, AlarmType.ValueType]] = set()
        self.no_space = False
        self.corrupt = False
        self.reload()

    def reload(self) -> None:
        """Read everything again: the state was replaced."""
        rows = (key for key, _ in self._table.scan(b"", None))
        self._raised = {(int.from_bytes(key[:8], "big"), AlarmType.ValueType(key[8])) for key in rows}
        self._summarise()

    def raised(self, kind: AlarmType.ValueType = AlarmType.NONE) -> list[AlarmMember]:
        """Alarms of one kind, or all."""
        return [
            AlarmMember(memberID=member, alarm=raised)
            for member, raised in sorted(self._raised)
            if kind in (AlarmType.NONE, raised)
        ]

    def apply(self, request: AlarmRequest) -> list[AlarmMember]:
        """Carry out a request: the alarms it is about, as its response lists them."""
        row = (request.memberID, request.alarm)
        if request.action == AlarmRequest.GET:
            return self.raised(request.alarm)
        if request.alarm not in _KINDS:
            # The log holds what clients sent, and protobuf lets any number pass as an enum's.
            return []
        if request.action == AlarmRequest.ACTIVATE:
            self._raised.add(row)
            self._table.put(_key(*row), b"\x01")
        elif request.action == AlarmRequest.DEACTIVATE and row in self._raised:
            self._raised.discard(row)
            self._table.delete(_key(*row))
        else:
            return []
        self._summarise()
        return [AlarmMember(memberID=request.memberID, alarm=request.alarm)]

    def _summarise(self) -> None:
        kinds = {kind for _, kind in self._raised}
        self.no_space = AlarmType.NOSPACE in kinds
        self.corrupt = AlarmType.CORRUPT in kinds


def _key(member: int, kind: int) -> bytes:
    return member.to_bytes(8, "big") + bytes((kind,))
