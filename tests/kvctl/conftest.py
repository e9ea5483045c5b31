"""Servers for these tests, and the programs that talk to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.secure import authority, secure_member
from tests.client.servers import binary, make_cluster, member, shared_cluster
from tests.cluster.harness import Member
from tests.kvctl.programs import Etcdctl, Kvctl

__all__ = ["authority", "binary", "make_cluster", "member", "secure_member", "shared_cluster"]


@pytest.fixture
def kvctl(member: Member, tmp_path: Path) -> Kvctl:
    """kvctl with the shared member as its endpoint."""
    return Kvctl({"KVCTL_ENDPOINTS": member.endpoint}, tmp_path)


@pytest.fixture
def etcdctl(member: Member, tmp_path: Path) -> Etcdctl:
    """etcdctl likewise; skips the test where there is none."""
    program = shutil.which("etcdctl")
    if program is None:
        pytest.skip("etcdctl is not on the PATH")
    return Etcdctl(program, {"ETCDCTL_ENDPOINTS": member.endpoint, "ETCDCTL_API": "3"}, tmp_path)


@pytest.fixture
def revision(kvctl: Kvctl) -> Callable[[], int]:
    """The store's current revision."""

    def ask() -> int:
        lines = kvctl("get", "none", "-w", "fields").out.splitlines()
        return int(next(line for line in lines if line.startswith(b'"Revision"')).split()[-1])

    return ask
