"""Who a member is when it starts: from its data, from the initial cluster, or from the members already there.

Decides identities only; opening files and starting loops is the member's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kvstore.pb import internal_pb2, peer_pb2
from kvstore.pb.rpc_pb2 import Member
from kvstore.server.config import Config
from kvstore.server.membership import cluster_id, member_id
from raft.messages import Peer

AskMembers = Callable[[str], Awaitable[peer_pb2.MembersResponse]]
"""Asks the member at a peer URL who belongs to its cluster; raises RpcError if it cannot be reached."""


UNKNOWN_SECONDS: Final = 5.0
"""How long a joining member asks again while one that may know it cannot be asked: a start, an election or two."""

ASK_AGAIN_SECONDS: Final = 0.2


class BootstrapError(Exception):
    """The member cannot start as it was told; the message says what does not fit and what to do."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a member comes from: which one it is, and of which cluster.

    members: the cluster as far as known before the log says more. founders: with what raft's log begins, for a
    member of a new cluster; None for one that joins.
    """

    member_id: int
    cluster_id: int
    members: Sequence[Member]
    founders: Sequence[Peer] | None


def found_cluster(config: Config) -> Origin:
    """Origin of one of the first members; every one computes the same cluster from the same flags."""
    config.verify_bootstrap()
    members = []
    own = 0
    for name, urls in config.initial_cluster.items():
        texts = [str(url) for url in urls]
        member = Member(ID=member_id(texts, config.initial_cluster_token), peerURLs=texts)
        members.append(member)
        if name == config.name:
            own = member.ID
    members.sort(key=lambda member: member.ID)
    ids = [member.ID for member in members]
    if len(set(ids)) != len(ids):
        raise BootstrapError("--initial-cluster gives two members the same peer URLs")
    founders = [
        Peer(member.ID, internal_pb2.MemberChange(member=member).SerializeToString(deterministic=True))
        for member in members
    ]
    return Origin(own, cluster_id(ids, config.initial_cluster_token), members, founders)


async def join_cluster(config: Config, ask: AskMembers) -> Origin:
    """Origin of a member that was added to a running cluster, found there by its peer URLs."""
    config.verify_bootstrap()
    own_urls = {str(url) for url in config.initial_cluster[config.name]}
    others = [url for name, urls in config.initial_cluster.items() if name != config.name for url in urls]
    if not others:
        text = "--initial-cluster-state=existing needs the other members in --initial-cluster"
        raise BootstrapError(text)
    loop = asyncio.get_running_loop()
    until = loop.time() + UNKNOWN_SECONDS
    while True:
        outcomes = await asyncio.gather(*(ask(str(url)) for url in others), return_exceptions=True)
        answers = [outcome for outcome in outcomes if isinstance(outcome, peer_pb2.MembersResponse)]
        # One that lags may not know this member yet, or only one that had the same address and was removed.
        best = max(answers, key=lambda answer: answer.applied, default=None)
        # They may be starting themselves; and that this member was added may be known to a leader alone that has just
        # died. The next one knows it soon.
        if loop.time() >= until or (best is not None and (_lists(best, own_urls) or len(answers) == len(others))):
            break
        await asyncio.sleep(ASK_AGAIN_SECONDS)
    if best is None:
        reasons = "; ".join(f"{url}: {outcome}" for url, outcome in zip(others, outcomes, strict=True))
        raise BootstrapError(f"no member of the cluster could be asked who belongs to it ({reasons})")
    return _identity_in(config, own_urls, best)


def _lists(answer: peer_pb2.MembersResponse, urls: set[str]) -> bool:
    return any(urls.intersection(member.peerURLs) for member in answer.members)


def _identity_in(config: Config, own_urls: set[str], answer: peer_pb2.MembersResponse) -> Origin:
    members = list(answer.members)
    known = {url for member in members for url in member.peerURLs}
    own = [member for member in members if own_urls & set(member.peerURLs)]
    if len(own) != 1:
        text = (
            f"the cluster {answer.cluster_id:x} has no member with the peer URL {', '.join(sorted(own_urls))}; "
            "add it first: kvctl member add NAME --peer-urls=..."
        )
        raise BootstrapError(text)
    if own[0].name and own[0].name != config.name:
        raise BootstrapError(f"the member with these peer URLs is {own[0].name!r}, not {config.name!r}")
    given = {str(url) for urls in config.initial_cluster.values() for url in urls}
    if given - known or len(config.initial_cluster) != len(members):
        text = (
            f"--initial-cluster names {', '.join(sorted(given))}; "
            f"the cluster {answer.cluster_id:x} consists of {', '.join(sorted(known))}"
        )
        raise BootstrapError(text)
    return Origin(own[0].ID, answer.cluster_id, members, None)


def check_owner(config: Config, own: int, members: Sequence[Member]) -> None:
    """Raise BootstrapError if data that is there already is another member's, or another cluster's.

    own, members: the member's id and the cluster, as the data has them. The flags of the first start may have become
    outdated since, so only what cannot be meant is refused: another name, or a cluster of entirely other members.
    """
    stored = next((member for member in members if own == member.ID), None)
    if stored is None:
        return
    if stored.name and stored.name != config.name:
        text = (
            f"{config.data_dir}: belongs to member {stored.name!r} ({own:x}), not to {config.name!r}; "
            f"use another --data-dir, or --name={stored.name}"
        )
        raise BootstrapError(text)
    known = {url for member in members for url in member.peerURLs}
    given = {str(url) for urls in config.initial_cluster.values() for url in urls}
    if not known & given:
        text = (
            f"{config.data_dir}: belongs to a cluster of {', '.join(sorted(known))}, not to one of "
            f"{', '.join(sorted(given))}; use another --data-dir, or that cluster's --initial-cluster"
        )
        raise BootstrapError(text)
