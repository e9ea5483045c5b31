"""Health and reflection beside the services."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvstore.rpc import StatusCode
from tests.api.harness import DEADLINE, Api, FakeMember, status_of

SERVING = health_pb2.HealthCheckResponse.SERVING


def check(api: Api, service: str) -> Any:
    return api.stub(health_pb2_grpc.HealthStub).Check(health_pb2.HealthCheckRequest(service=service))


async def test_health_serves_the_whole_whatever_the_state_of_the_cluster(api: Api, member: FakeMember) -> None:
    member.has_leader, member.is_learner = False, True
    assert (await check(api, "")).status == SERVING


async def test_health_knows_no_other_service(api: Api) -> None:
    assert await status_of(check(api, "etcdserverpb.KV")) == (StatusCode.NOT_FOUND, "")


async def test_health_can_be_watched(api: Api) -> None:
    call = api.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(DEADLINE):
        assert (await call.read()).status == SERVING
    call.cancel()


async def reflect(api: Api, **request: str) -> Any:
    asked = iter([reflection_pb2.ServerReflectionRequest(**request)])
    call = api.stub(reflection_pb2_grpc.ServerReflectionStub).ServerReflectionInfo(asked)
    async with asyncio.timeout(DEADLINE):
        return await call.read()


async def test_reflection_lists_every_service(api: Api) -> None:
    listed = await reflect(api, list_services="")
    assert {service.name for service in listed.list_services_response.service} == {
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "etcdserverpb.Lease",
        "etcdserverpb.Cluster",
        "etcdserverpb.Maintenance",
        "etcdserverpb.Auth",
        "v3lockpb.Lock",
        "v3electionpb.Election",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("symbol", ["etcdserverpb.KV", "v3lockpb.Lock"])
async def test_reflection_describes_a_service(api: Api, symbol: str) -> None:
    answer = await reflect(api, file_containing_symbol=symbol)
    assert len(answer.file_descriptor_response.file_descriptor_proto) > 0


async def test_an_unknown_method_is_unimplemented_and_the_connection_lives(api: Api) -> None:
    unknown: Any = api.channel.unary_unary("/etcdserverpb.KV/Nothing", None, None)
    assert (await status_of(unknown(b"")))[0] is StatusCode.UNIMPLEMENTED
    assert (await check(api, "")).status == SERVING
    assert api.channel.get_state() is grpc.ChannelConnectivity.READY
