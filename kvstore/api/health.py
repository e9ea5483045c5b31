"""What the HTTP side asks of a member, answered from the member."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from kvstore.pb import rpc_pb2 as pb
from kvstore.server.member import Member

ONE_KEY: Final = pb.RangeRequest(key=b"a", keys_only=True, limit=1)
ONE_KEY_HERE: Final = pb.RangeRequest(key=b"a", keys_only=True, limit=1, serializable=True)


class MemberHealth:
    """A member as kvstore.api.http sees it (its HealthSource)."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def alarms(self) -> Collection[str]:
        """Names of the alarms that are raised anywhere in the cluster; CORRUPT if this member has found damage, too."""
        found = {pb.AlarmType.Name(alarm.alarm) for alarm in self._member.state.alarms.raised()}
        return found | {"CORRUPT"} if self._member.disk.damaged else found

    def has_leader(self) -> bool:
        """Whether the member knows a leader."""
        return self._member.has_leader

    def is_learner(self) -> bool:
        """Whether the member is a learner."""
        return self._member.is_learner

    async def read(self, *, serializable: bool) -> None:
        """Read at most one key. Raises what the read raises."""
        await self._member.range(ONE_KEY_HERE if serializable else ONE_KEY)

    def versions(self) -> Mapping[str, str]:
        """Versions of the API here and in the cluster, of the format on disk, and of the protocol between members."""
        status = self._member.status()
        return {
            "etcdserver": status.version,
            "etcdcluster": status.version,
            "storage": status.storageVersion,
            "protocol": str(self._member.protocol_version),
        }
