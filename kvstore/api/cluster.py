"""The Cluster service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvstore import errors
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.rpc_pb2_grpc import ClusterServicer
from kvstore.server.config import Url
from kvstore.server.member import Member


class ClusterService(ClusterServicer):
    """Hands changes of the membership to the member; each answers with the members as they are afterwards."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def MemberAdd(self, request: pb.MemberAddRequest, context: Any) -> pb.MemberAddResponse:
        """Announce a new member, a learner or not."""
        added, members = await self._member.member_add(_urls(request.peerURLs), request.isLearner)
        return pb.MemberAddResponse(header=self._member.header_message(), member=added, members=members)

    async def MemberRemove(self, request: pb.MemberRemoveRequest, context: Any) -> pb.MemberRemoveResponse:
        """Remove a member for good."""
        members = await self._member.member_remove(request.ID)
        return pb.MemberRemoveResponse(header=self._member.header_message(), members=members)

    async def MemberUpdate(self, request: pb.MemberUpdateRequest, context: Any) -> pb.MemberUpdateResponse:
        """Change where a member is reached by its peers."""
        members = await self._member.member_update(request.ID, _urls(request.peerURLs))
        return pb.MemberUpdateResponse(header=self._member.header_message(), members=members)

    async def MemberList(self, request: pb.MemberListRequest, context: Any) -> pb.MemberListResponse:
        """Everybody in the cluster."""
        members = await self._member.member_list(request.linearizable)
        return pb.MemberListResponse(header=self._member.header_message(), members=members)

    async def MemberPromote(self, request: pb.MemberPromoteRequest, context: Any) -> pb.MemberPromoteResponse:
        """Make a learner vote."""
        members = await self._member.member_promote(request.ID)
        return pb.MemberPromoteResponse(header=self._member.header_message(), members=members)


def _urls(texts: Iterable[str]) -> list[str]:
    """URLs in the form that they are compared in. Raises MemberBadURLs for one that is none, and for no URL at all."""
    try:
        urls = sorted({str(Url.parse(text)) for text in texts})
    except ValueError:
        raise errors.MemberBadURLs from None
    if not urls:
        raise errors.MemberBadURLs
    return urls
