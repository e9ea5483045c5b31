"""Certificates and passwords on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.secure import Authority
from tests.cluster.harness import Binary, ClusterFactory, Member
from tests.kvctl.programs import Kvctl


def test_certificates_are_given_by_flags_or_the_environment(
    secure_member: Member, authority: Authority, tmp_path: Path
) -> None:
    kvctl = Kvctl({"KVCTL_ENDPOINTS": secure_member.endpoint, "KVCTL_COMMAND_TIMEOUT": "20s"}, tmp_path)
    own = (f"--cert={authority.cert}", f"--key={authority.key}")
    assert kvctl("put", "k", "v", f"--cacert={authority.ca}", *own).out == b"OK\n"
    identified = kvctl("get", "k", ETCDCTL_CACERT=authority.ca, ETCDCTL_CERT=authority.cert, KVCTL_KEY=authority.key)
    assert identified.out == b"k\nv\n"
    assert kvctl("get", "k", *own, "--insecure-skip-tls-verify").out == b"k\nv\n"
    assert kvctl("get", "k", *own, "--command-timeout=1s").code == 1
    assert kvctl("get", "k", "--insecure-skip-tls-verify", "--command-timeout=1s").code == 1


def test_asking_for_no_verification_does_not_secure_a_bare_endpoint(kvctl: Kvctl) -> None:
    kvctl("put", "k", "v")
    assert kvctl("get", "k", "--insecure-skip-tls-verify").out == b"k\nv\n"
    assert kvctl("get", "k", "--insecure-transport=false", "--command-timeout=500ms").code == 1


@pytest.fixture
def guarded(binary: Binary, make_cluster: ClusterFactory) -> Member:
    """A member that wants a password: root's is `secret`."""
    if not binary.is_reference:
        pytest.skip("this server has no users")
    import grpc

    from kvstore.pb import rpc_pb2, rpc_pb2_grpc

    member = make_cluster(size=1).members[0]
    with grpc.insecure_channel(member.endpoint) as channel:
        auth = rpc_pb2_grpc.AuthStub(channel)  # type: ignore[no-untyped-call]
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="root", password="secret"))
        auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="root"))
        auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"))
        auth.AuthEnable(rpc_pb2.AuthEnableRequest())
    return member


def test_a_user_logs_in_with_either_form_of_the_flags(guarded: Member, tmp_path: Path) -> None:
    kvctl = Kvctl({"KVCTL_ENDPOINTS": guarded.endpoint}, tmp_path)
    assert kvctl("put", "k", "v").err == b"Error: etcdserver: user name is empty\n"
    assert kvctl("put", "k", "v", "--user=root:secret").out == b"OK\n"
    assert kvctl("get", "k", "--user", "root", "--password", "secret").out == b"k\nv\n"
    assert kvctl("get", "k", ETCDCTL_USER="root:secret").out == b"k\nv\n"
    wrong = kvctl("get", "k", "--user=root:guess")
    assert wrong.err == b"Error: etcdserver: authentication failed, invalid user ID or password\n"
