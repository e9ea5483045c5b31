"""Who is in the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from kvstore.client import rpcs
from kvstore.client.results import Header, Member, MemberAdded, MemberList
from kvstore.client.transport import Transport
from kvstore.pb import rpc_pb2


class Cluster:
    """The membership calls of a client: `client.cluster`."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def members(self, *, linearizable: bool = True) -> MemberList:
        """The members; not linearizable, as the member that answers knows them, even without a quorum."""
        answer = await self._transport.unary(rpcs.MEMBER_LIST, rpc_pb2.MemberListRequest(linearizable=linearizable))
        return MemberList.from_pb(answer.header, answer.members)

    async def add(self, peer_urls: Sequence[str], *, learner: bool = False) -> MemberAdded:
        """Add a member that will listen for its peers at `peer_urls`; a learner gets no vote until it is promoted.

        Raises PeerURLExist, MemberBadURLs, MemberNotEnoughStarted, TooManyLearners, Unhealthy.
        """
        request = rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=learner)
        answer = await self._transport.unary(rpcs.MEMBER_ADD, request)
        members = tuple(map(Member.from_pb, answer.members))
        return MemberAdded(Header.from_pb(answer.header), Member.from_pb(answer.member), members)

    async def remove(self, member_id: int) -> MemberList:
        """Remove a member. Raises MemberNotFound, MemberNotEnoughStarted."""
        answer = await self._transport.unary(rpcs.MEMBER_REMOVE, rpc_pb2.MemberRemoveRequest(ID=member_id))
        return MemberList.from_pb(answer.header, answer.members)

    async def update(self, member_id: int, peer_urls: Sequence[str]) -> MemberList:
        """Change where a member listens for its peers. Raises MemberNotFound, PeerURLExist."""
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls)
        answer = await self._transport.unary(rpcs.MEMBER_UPDATE, request)
        return MemberList.from_pb(answer.header, answer.members)

    async def promote(self, member_id: int) -> MemberList:
        """Give a learner its vote. Raises MemberNotFound, MemberNotLearner, LearnerNotReady."""
        answer = await self._transport.unary(rpcs.MEMBER_PROMOTE, rpc_pb2.MemberPromoteRequest(ID=member_id))
        return MemberList.from_pb(answer.header, answer.members)
