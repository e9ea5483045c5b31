"""A member of one started in this process from a directory that a crash has left, without a network, and looked at.

The same code as in a member's own process, but for the writers, which are called instead of sent to: hundreds of
directories are opened so in the time that ten processes take to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from kvstore.mvcc.puts import for_the_log
from kvstore.pb import rpc_pb2 as pb
from kvstore.pb.peer_pb2_grpc import PeerServicer
from kvstore.rpc.promise import Promise
from kvstore.server.config import Config, Url
from kvstore.server.metrics import Metrics
from kvstore.server.start import RunningMember, start_member
from kvstore.server.surroundings import Surroundings
from kvstore.storage import backend, environment, wal
from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.batch import TableSpec
from kvstore.storage.engine import Engine
from kvstore.storage.meta import META
from kvstore.storage.wal import ENTRIES, Wal, WalOptions
from kvstore.storage.writer import WriterEvents

T = TypeVar("T")

SECONDS = 30.0
"""What a call may take before it counts as never answered."""


class Recovered:
    """A member that runs in this process; a View as observe.py wants it. Use it in a `with` statement.

    Raises what start_member raises if the directory is refused.
    """

    def __init__(self, data_dir: Path, name: str, peer_url: str, others: Mapping[str, str] | None = None) -> None:
        """name, peer_url: those that the member had. others: the same of the rest of its cluster, who never answer."""
        url = Url.parse(peer_url)
        cluster = {other: (Url.parse(text),) for other, text in (others or {}).items()}
        self._config = Config(
            name=name,
            data_dir=data_dir,
            listen_peer_urls=(url,),
            initial_advertise_peer_urls=(url,),
            initial_cluster={name: (url,), **cluster},
            initial_cluster_token="test",
            heartbeat_interval=50,
            election_timeout=500,
            snapshot_count=10,
            snapshot_catchup_entries=5,
            unsafe_no_fsync=True,
        )
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._member: RunningMember | None = None

    def __enter__(self) -> Recovered:
        """Start it."""
        surroundings = Surroundings(open_log=_open_log, open_state=_open_state, serve_peers=_serve_nobody)

        async def start() -> RunningMember:
            return await asyncio.wait_for(start_member(self._config, Metrics(), surroundings), SECONDS)

        try:
            self._member = self._runner.run(start())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        try:
            if self._member is not None:
                self._runner.run(self._member.stop())
        finally:
            self._runner.close()

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """As View.range."""
        return pb.RangeResponse.FromString(self._answer(lambda member: member.member.range(request)))

    def put(self, request: pb.PutRequest) -> pb.PutResponse:
        """A put, acknowledged."""
        return pb.PutResponse.FromString(self._answer(lambda member: member.member.put(for_the_log(request))))

    def leases(self) -> pb.LeaseLeasesResponse:
        """As View.leases."""
        return pb.LeaseLeasesResponse.FromString(self._call(lambda member: member.member.lease_leases()))

    def time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        """As View.time_to_live."""
        answer = self._call(lambda member: member.member.lease_time_to_live(request))
        return pb.LeaseTimeToLiveResponse.FromString(answer)

    def members(self) -> Sequence[pb.Member]:
        """As View.members."""
        return self._call(lambda member: member.member.member_list(linearizable=True))

    def _answer(self, ask: Callable[[RunningMember], Promise[bytes]]) -> bytes:
        async def answer(member: RunningMember) -> bytes:
            return await ask(member)

        return self._call(answer)

    def _call(self, ask: Callable[[RunningMember], Coroutine[Any, Any, T]]) -> T:
        member = self._member
        assert member is not None, "the member is used outside of its `with` statement"

        async def call() -> T:
            answer = asyncio.ensure_future(ask(member))
            await asyncio.wait((answer, member.failed), timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if member.failed.done():
                answer.cancel()
                raise member.failed.result()
            assert answer.done(), f"no answer within {SECONDS:g} s"
            return answer.result()

        return self._runner.run(call())


class _NoServer:
    async def stop(self, grace: float) -> None:
        """Nobody was served."""


async def _serve_nobody(config: Config, servicer: PeerServicer) -> _NoServer:
    return _NoServer()


def _soon(done: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(done)


def _open_log(path: Path, options: WalOptions, events: WriterEvents, keep_open: Sequence[int]) -> Wal:
    engine = Engine(path, [META, ENTRIES], options.engine)
    try:
        environment._execute_journal(engine, path)
    finally:
        engine.close()
    return wal.open_inline(path, options, events, _soon)


def _open_state(
    path: Path, tables: Sequence[TableSpec], options: BackendOptions, events: WriterEvents, keep_open: Sequence[int]
) -> Backend:
    return backend.open_inline(path, tables, options, events, _soon)
