"""All services of a member, put on a server of either kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio as reflection  # type: ignore[attr-defined]

from kvstore.api.cluster import ClusterService
from kvstore.api.gate import Gate, GatedRegistry, Registry
from kvstore.api.kv import DECODERS, KVService
from kvstore.api.lease import LeaseService
from kvstore.api.maintenance import MaintenanceService
from kvstore.api.watch import WatchService
from kvstore.pb import (
    election_pb2,
    election_pb2_grpc,
    lock_pb2,
    lock_pb2_grpc,
    rpc_pb2,
    rpc_pb2_grpc,
)
from kvstore.server.member import Member

Registration = tuple[Callable[[Any, Any], Any], object]


def register(registry: Registry, member: Member, gate: Gate) -> health.HealthServicer:
    """Put the etcd v3 services behind the gate, and health and reflection beside it.

    Auth, Lock and Election are there to be found and answer UNIMPLEMENTED. Health says SERVING for the empty name, for
    as long as the server takes calls: clients that balance by it must still reach a member that has no leader.
    Returns the health service, which is to be told when the server stops.
    """
    gated: list[Registration] = [
        (rpc_pb2_grpc.add_KVServicer_to_server, KVService(member)),
        (rpc_pb2_grpc.add_WatchServicer_to_server, WatchService(member)),
        (rpc_pb2_grpc.add_LeaseServicer_to_server, LeaseService(member)),
        (rpc_pb2_grpc.add_ClusterServicer_to_server, ClusterService(member)),
        (rpc_pb2_grpc.add_MaintenanceServicer_to_server, MaintenanceService(member)),
        (rpc_pb2_grpc.add_AuthServicer_to_server, rpc_pb2_grpc.AuthServicer()),
        (lock_pb2_grpc.add_LockServicer_to_server, lock_pb2_grpc.LockServicer()),
        (election_pb2_grpc.add_ElectionServicer_to_server, election_pb2_grpc.ElectionServicer()),
    ]
    behind_gate = GatedRegistry(registry, gate, DECODERS)
    for add, servicer in gated:
        add(servicer, behind_gate)
    health_service = health.HealthServicer()
    reflector = reflection.ReflectionServicer(service_names())  # type: ignore[attr-defined]
    open_to_all: list[Registration] = [
        (health_pb2_grpc.add_HealthServicer_to_server, health_service),
        (reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflector),
    ]
    for add, servicer in open_to_all:
        add(servicer, registry)
    return health_service


def service_names() -> list[str]:
    """Full names of all services, as reflection lists them."""
    files = (rpc_pb2, lock_pb2, election_pb2, health_pb2, reflection_pb2)
    return [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
