"""An older build, simulated by pinning its version, and what a member says of versions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.cluster.harness import Cluster, Member
from tests.cluster.harness.waiting import wait_until

PIN = "max-protocol-version"

STOP_SECONDS = 60.0
"""For a member to end on a machine that is busy with other things."""

WAIT_SECONDS = 60.0
"""For members to start and to agree, on such a machine."""

OLD = {PIN: "1"}
"""Flags that make a member one of the build before."""


def become_new(member: Member) -> None:
    """Install the newer build: it counts from the next start on."""
    member.flags.pop(PIN, None)


def become_old(member: Member) -> None:
    """Go back to the older build."""
    member.flags.update(OLD)


def replace(member: Member) -> None:
    """Stop a member and start what is installed now, until it serves."""
    member.terminate(STOP_SECONDS)
    member.start()
    member.wait_ready()


def protocol(member: Member) -> int:
    """The protocol version that the cluster uses, as far as this member knows."""
    status, _, body = member.http("/version")
    assert status == 200, body
    versions = json.loads(body)
    assert versions["etcdcluster"] == versions["etcdserver"]
    return int(versions["protocol"])


def wait_protocol(cluster: Cluster, version: int) -> None:
    """Wait until all running members use this version."""
    running = [member for member in cluster.members if member.running]
    wait_until(
        lambda: all(protocol(member) == version for member in running),
        f"all members use version {version}",
        WAIT_SECONDS,
    )


def contents(path: Path) -> dict[str, str]:
    """Every file and directory below, with the hash of what is in it."""
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest() if each.is_file() else ""
        for each in path.rglob("*")
    }
