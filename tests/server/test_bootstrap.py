"""Who a joining member is, by what the members that are there say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from kvstore.pb.peer_pb2 import MembersResponse
from kvstore.pb.rpc_pb2 import Member
from kvstore.rpc import RpcError, StatusCode
from kvstore.server import bootstrap
from kvstore.server.bootstrap import ASK_AGAIN_SECONDS, BootstrapError, join_cluster
from kvstore.server.config import Config, parse_initial_cluster

OWN = "http://10.0.0.3:2380"
OTHERS = ("http://10.0.0.1:2380", "http://10.0.0.2:2380")
CLUSTER = 77


def joining(path: Path) -> Config:
    cluster = f"m1={OTHERS[0]},m2={OTHERS[1]},m3={OWN}"
    return Config(
        name="m3",
        data_dir=path,
        initial_cluster=parse_initial_cluster(cluster),
        initial_cluster_state="existing",
    )


def answer(applied: int, own: int | None) -> MembersResponse:
    members = [Member(ID=number + 1, name=f"m{number + 1}", peerURLs=[url]) for number, url in enumerate(OTHERS)]
    if own is not None:
        members.append(Member(ID=own, peerURLs=[OWN]))
    return MembersResponse(cluster_id=CLUSTER, members=members, applied=applied)


async def join(path: Path, answers: Mapping[str, MembersResponse | None]) -> int:
    async def ask(url: str) -> MembersResponse:
        found = answers[url]
        if found is None:
            raise RpcError(StatusCode.UNAVAILABLE, "connection refused")
        return found

    origin = await join_cluster(joining(path), ask)
    assert origin.cluster_id == CLUSTER
    return origin.member_id


async def test_the_member_that_has_applied_most_is_believed(tmp_path: Path) -> None:
    new, lagging = answer(26, 3), answer(23, None)
    assert await join(tmp_path, {OTHERS[0]: lagging, OTHERS[1]: new}) == 3
    assert await join(tmp_path, {OTHERS[0]: new, OTHERS[1]: lagging}) == 3


async def test_an_address_that_was_another_members_gives_the_new_identity(tmp_path: Path) -> None:
    assert await join(tmp_path, {OTHERS[0]: answer(23, 3), OTHERS[1]: answer(26, 33)}) == 33


async def test_one_member_that_answers_is_enough(tmp_path: Path) -> None:
    assert await join(tmp_path, {OTHERS[0]: None, OTHERS[1]: answer(26, 3)}) == 3


async def test_who_is_not_known_is_told_how_to_be_added(tmp_path: Path) -> None:
    with pytest.raises(BootstrapError, match=r"has no member with the peer URL http://10.0.0.3:2380; add it first"):
        await join(tmp_path, {OTHERS[0]: answer(23, 3), OTHERS[1]: answer(26, None)})


async def test_who_may_be_known_to_a_leader_that_has_died_asks_again(tmp_path: Path) -> None:
    answers = {OTHERS[0]: None, OTHERS[1]: answer(23, None)}
    joined = asyncio.ensure_future(join(tmp_path, answers))
    asked_once, _ = await asyncio.wait({joined}, timeout=2 * ASK_AGAIN_SECONDS)
    assert not asked_once
    answers[OTHERS[1]] = answer(26, 3)
    assert await joined == 3


async def test_members_that_are_starting_themselves_are_asked_again(tmp_path: Path) -> None:
    answers: dict[str, MembersResponse | None] = {OTHERS[0]: None, OTHERS[1]: None}
    joined = asyncio.ensure_future(join(tmp_path, answers))
    asked_once, _ = await asyncio.wait({joined}, timeout=2 * ASK_AGAIN_SECONDS)
    assert not asked_once
    answers[OTHERS[0]] = answer(26, 3)
    assert await joined == 3


async def test_who_is_not_known_after_a_while_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "UNKNOWN_SECONDS", 0.0)
    with pytest.raises(BootstrapError, match="has no member with the peer URL"):
        await join(tmp_path, {OTHERS[0]: None, OTHERS[1]: answer(26, None)})


async def test_nobody_answering_is_told_with_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "UNKNOWN_SECONDS", 0.0)
    with pytest.raises(BootstrapError, match=r"could be asked .*10.0.0.1:2380: .*connection refused; .*10.0.0.2:2380"):
        await join(tmp_path, dict.fromkeys(OTHERS))
