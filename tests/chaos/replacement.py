"""As many members as a cluster can spare are gone for good: service goes on, and they are replaced as documented.

The steps and the commands are those of docs/operations.md, "Replacing a member".
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tests.chaos.nemesis import Nemesis
from tests.cluster.harness import Member, wait_until
from tests.cluster.harness.binary import REPOSITORY

T = TypeVar("T")

COMMAND_SECONDS = 30.0
PROMOTED_SECONDS = 60.0


def minority_lost(nemesis: Nemesis, served_within: float) -> None:
    """Lose all that can be spared at once, the leader among them; then replace one after the other.

    served_within: seconds without an answered write that are allowed: members that go may have led.
    """
    cluster = nemesis.cluster
    nemesis.pass_time(2.0)
    leader = cluster.leader()
    spare = (len(cluster.members) - 1) // 2
    lost = [leader, *(member for member in cluster.members if member is not leader)][:spare]
    ids = {member.name: member.id for member in lost}
    names = ", ".join(member.name for member in lost)

    def lose() -> None:
        for member in lost:
            member.kill_group()
            member.wipe()
        nemesis.pass_time(6.0)

    _watched(nemesis, served_within, f"{names} gone for good", lose)
    survivors = [member for member in cluster.members if member not in lost]
    for member in lost:
        replace = partial(_replace, nemesis, survivors, member, ids[member.name])
        _watched(nemesis, served_within, f"{member.name} replaced", replace)
    nemesis.arena.settle()
    nemesis.pass_time(3.0)


def _watched(nemesis: Nemesis, served_within: float, what: str, step: Callable[[], None]) -> None:
    """Take a step; the service must not be away for longer than it may."""
    began = time.monotonic()
    step()
    silence = nemesis.probe.longest_silence(began, time.monotonic())
    nemesis.say(f"{what}: {time.monotonic() - began:.1f} s, no write for {silence:.2f} s")
    assert silence < served_within, f"{what}: no write was answered for {silence:.2f} s"


def _replace(nemesis: Nemesis, survivors: list[Member], lost: Member, lost_id: int) -> None:
    """The documented steps, with a new member on another address."""
    cluster = nemesis.cluster
    endpoints = ",".join(member.client_url for member in survivors)
    assert f"{lost_id:x}" in kvctl(endpoints, "member", "list")
    kvctl(endpoints, "member", "remove", f"{lost_id:x}")
    cluster.members.remove(lost)
    member = cluster.prepare_member(nemesis.arena.next_name())
    added = kvctl(endpoints, "member", "add", member.name, f"--peer-urls={member.advertised_peer_url}", "--learner")
    cluster.joined(member)
    printed = re.search(r'ETCD_INITIAL_CLUSTER="(.*)"', added)
    assert printed is not None, f"member add does not say how to start it: {added}"
    member.flags["initial-cluster"] = printed[1]
    member.start()
    learner_id = wait_until(lambda: _id(member), "the new member answers", COMMAND_SECONDS)

    def promoted() -> bool:
        kvctl(endpoints, "member", "promote", f"{learner_id:x}")
        return True

    # "Once it has caught up": until then it is refused.
    wait_until(promoted, f"{member.name} is promoted", PROMOTED_SECONDS)
    member.wait_ready()
    cluster.introduce()


def _id(member: Member) -> int | None:
    status = member.status()
    return status.header.member_id if status is not None else None


def kvctl(endpoints: str, *words: str) -> str:
    """Run kvctl: what it printed. Raises AssertionError if it fails."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "cmd")])
    done = subprocess.run(
        [sys.executable, "-m", "kvctl", f"--endpoints={endpoints}", *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"kvctl {' '.join(words)}: {done.stderr or done.stdout}"
    return done.stdout
