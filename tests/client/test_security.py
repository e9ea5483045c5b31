"""TLS and logging in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from kvstore.client import Client, TLSConfig, errors
from kvstore.client.tls import TLSError
from kvstore.pb import rpc_pb2, rpc_pb2_grpc
from tests.client.secure import Authority
from tests.cluster.harness import ClusterFactory, Member


async def test_both_ends_are_verified(secure_member: Member, authority: Authority, key: str) -> None:
    tls = TLSConfig(authority.ca, authority.cert, authority.key)
    async with Client(secure_member.endpoint, tls=tls, timeout=30) as client:
        await client.kv.put(key, "v")
        assert (await client.kv.get(key)).value == b"v"
    nameless = TLSConfig(authority.ca)
    async with Client(secure_member.endpoint, tls=nameless, timeout=1) as client:
        with pytest.raises(errors.ClientError):
            await client.kv.get(key)
    elsewhere = TLSConfig(authority.ca, authority.cert, authority.key, server_name="other.test")
    async with Client(secure_member.endpoint, tls=elsewhere, timeout=1) as client:
        with pytest.raises(errors.CallTimeout):
            await client.kv.get(key)


async def test_an_unverified_server_is_taken_only_where_that_was_asked_for(
    secure_member: Member, authority: Authority, key: str
) -> None:
    trusting = TLSConfig(cert_file=authority.cert, key_file=authority.key, skip_verify=True)
    async with Client(secure_member.endpoint, tls=trusting, timeout=30) as client:
        await client.kv.put(key, "v")
        assert (await client.kv.get(key)).value == b"v"
    careful = TLSConfig(cert_file=authority.cert, key_file=authority.key)
    async with Client(secure_member.endpoint, tls=careful, timeout=1) as client:
        with pytest.raises(errors.CallTimeout):
            await client.kv.get(key)


def test_files_that_do_not_make_a_configuration_are_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(TLSError, match="KeyFile and CertFile must both be present"):
        TLSConfig(cert_file=authority.cert)


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    async with Client("127.0.0.1:1", tls=TLSConfig(missing)) as client:
        with pytest.raises(TLSError, match=r"none\.pem: no such file or directory"):
            await client.kv.get("k")


class Guarded(rpc_pb2_grpc.KVServicer, rpc_pb2_grpc.AuthServicer):
    """Gives out numbered tokens, and accepts the newest alone."""

    def __init__(self) -> None:
        self.issued = 0
        self.used: list[str] = []

    async def Authenticate(
        self, request: rpc_pb2.AuthenticateRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> rpc_pb2.AuthenticateResponse:
        if (request.name, request.password) != ("root", "secret"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, errors.AuthFailed.text)
        self.issued += 1
        return rpc_pb2.AuthenticateResponse(token=f"token{self.issued}")

    async def Put(
        self, request: rpc_pb2.PutRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> rpc_pb2.PutResponse:
        token = dict(context.invocation_metadata() or ()).get("token")
        if token != f"token{self.issued}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, errors.InvalidAuthToken.text)
        self.used.append(str(token))
        return rpc_pb2.PutResponse()


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[Guarded, str]]:
    server, servicer = grpc.aio.server(), Guarded()
    rpc_pb2_grpc.add_KVServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    rpc_pb2_grpc.add_AuthServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_client_logs_in_once_and_again_when_its_token_is_refused(guarded: tuple[Guarded, str]) -> None:
    servicer, endpoint = guarded
    async with Client(endpoint, user="root", password="secret") as client:
        await client.kv.put("k", "1")
        await client.kv.put("k", "2")
        servicer.issued += 1
        await client.kv.put("k", "3")
    assert servicer.used == ["token1", "token1", "token3"]


async def test_a_wrong_password_is_an_error_of_its_own(guarded: tuple[Guarded, str]) -> None:
    async with Client(guarded[1], user="root", password="guess") as client:
        with pytest.raises(errors.AuthFailed):
            await client.kv.put("k", "v")


async def test_a_user_of_a_real_server_is_let_in(make_cluster: ClusterFactory, key: str) -> None:
    member = make_cluster(size=1).members[0]
    async with grpc.aio.insecure_channel(member.endpoint) as channel:
        auth = rpc_pb2_grpc.AuthStub(channel)  # type: ignore[no-untyped-call]
        try:
            await auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="root", password="secret"))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                pytest.skip("this server has no users")
            raise
        await auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="root"))
        await auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"))
        await auth.AuthEnable(rpc_pb2.AuthEnableRequest())
    async with Client(member.endpoint) as client:
        with pytest.raises(errors.UserEmpty):
            await client.kv.put(key, "v")
    async with Client(member.endpoint, user="root", password="secret") as client, client.watch(key) as watcher:
        await client.kv.put(key, "v")
        async with asyncio.timeout(20):
            assert [event.kv.value for event in (await anext(watcher)).events] == [b"v"]
