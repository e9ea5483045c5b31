"""Target: requests on their way through the log, on the member that proposed them and on one that only applies them.

The first keeps its requests decoded; the second starts from a copy of the first's files, as after a power cut, and
decodes the log, as every other member of a cluster does. Both must come to the same state, whatever clients sent.
Whole members, but with their writers in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import structlog
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from kvstore.errors import KvstoreError
from kvstore.mvcc import puts
from kvstore.pb import rpc_pb2
from kvstore.peer.service import PeerService
from kvstore.rpc import Promise
from kvstore.server.config import Config, Url
from kvstore.server.member import Member
from kvstore.server.metrics import Metrics
from kvstore.server.start import RunningMember, start_member
from kvstore.server.surroundings import Surroundings
from kvstore.storage import backend, wal
from kvstore.storage.backend import Backend, BackendOptions
from kvstore.storage.seal import SEAL_SIZE
from kvstore.storage.wal import Wal, WalOptions
from tests.fuzz.messages import encoded
from tests.fuzz.target import Check, Target

REQUESTS: Final[dict[str, type[Message]]] = {
    "put": rpc_pb2.PutRequest,
    "delete_range": rpc_pb2.DeleteRangeRequest,
    "txn": rpc_pb2.TxnRequest,
    "compact": rpc_pb2.CompactionRequest,
    "lease_grant": rpc_pb2.LeaseGrantRequest,
    "lease_revoke": rpc_pb2.LeaseRevokeRequest,
    "alarm": rpc_pb2.AlarmRequest,
}
"""The member's methods that put something into the log, and what they take."""

ANSWER_SECONDS: Final = 20.0

Outcome = bytes | KvstoreError | None
"""An answer, a refusal, or nothing because there was no such message."""


@dataclass(frozen=True, slots=True)
class NoPeers:
    """Serves peers of a member that has none."""

    service: PeerService

    async def stop(self, grace: float) -> None:
        return


async def _nobody(config: Config, service: Any) -> NoPeers:
    return NoPeers(service)


def _open_log(path: Path, options: WalOptions, events: Any, keep_open: Sequence[int]) -> Wal:
    return wal.open_inline(path, options, events)


def _open_state(path: Path, tables: Any, options: BackendOptions, events: Any, keep_open: Sequence[int]) -> Backend:
    return backend.open_inline(path, tables, options, events)


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[RunningMember]:
    """A member alone in its cluster, that leads; what it stores of the state it stores when it stops."""
    urls = (Url("http", "127.0.0.1", 1),)
    config = Config(
        name="m1",
        data_dir=directory,
        listen_peer_urls=urls,
        initial_advertise_peer_urls=urls,
        heartbeat_interval=1,
        election_timeout=10,
        backend_batch_interval=3600.0,
        backend_batch_limit=1 << 30,
        unsafe_no_fsync=True,
    )
    surroundings = Surroundings(open_log=_open_log, open_state=_open_state, serve_peers=_nobody)
    member = await start_member(config, Metrics(), surroundings)
    try:
        await _ready(member)
        yield member
    finally:
        await member.stop()


async def _ready(member: RunningMember) -> None:
    read = asyncio.ensure_future(member.member.linearizable())
    await asyncio.wait((read, member.failed), return_when=asyncio.FIRST_COMPLETED, timeout=ANSWER_SECONDS)
    if member.failed.done():
        read.cancel()
        raise AssertionError("the member cannot go on") from member.failed.result()
    await read


def requests() -> st.SearchStrategy[Any]:
    """(method, encoded request) of each request of a turn, for some turns."""
    common = ("put", "put", "txn", "txn", "txn")
    one = st.one_of(
        [
            st.tuples(st.just(name), encoded(cast(Descriptor, REQUESTS[name].DESCRIPTOR)))
            for name in (*common, *REQUESTS)
        ]
    )
    return st.lists(st.lists(one, min_size=1, max_size=4), min_size=1, max_size=6)


async def replicate(turns: Sequence[Sequence[tuple[str, bytes]]]) -> list[list[Outcome]]:
    """Make the requests; what came of them. Raises AssertionError if replaying the log comes to another state."""
    with tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as directory:
        first, copy = Path(directory) / "first", Path(directory) / "copy"
        async with running(first) as member:
            outcomes = [await _turn(member, turn) for turn in turns]
            shutil.copytree(first, copy)
            left = await _contents(member.member)
        async with running(copy) as again:
            assert await _contents(again.member) == left
        return outcomes


async def _turn(member: RunningMember, asked: Sequence[tuple[str, bytes]]) -> list[Outcome]:
    answers = [_ask(member.member, name, data) for name, data in asked]
    waiting = asyncio.gather(*(answer for answer in answers if answer is not None), return_exceptions=True)
    await asyncio.wait((waiting, member.failed), return_when=asyncio.FIRST_COMPLETED, timeout=ANSWER_SECONDS)
    if member.failed.done():
        raise AssertionError("the member cannot go on") from member.failed.result()
    assert waiting.done(), "a request is not answered"
    return [None if answer is None else _outcome(answer) for answer in answers]


def _ask(member: Member, name: str, data: bytes) -> asyncio.Future[Any] | None:
    try:
        request: object = puts.decode(data) if name == "put" else REQUESTS[name].FromString(data)
    except DecodeError:
        return None
    return asyncio.ensure_future(_awaited(getattr(member, name)(request)))


async def _awaited(answer: Promise[bytes] | Any) -> Any:
    return await answer


def _outcome(answer: asyncio.Future[Any]) -> Outcome:
    error = answer.exception()
    if error is None:
        result = answer.result()
        return result if isinstance(result, bytes) else bytes(result.SerializeToString())
    assert isinstance(error, KvstoreError), f"not a refusal: {error!r}"
    return error


async def _contents(member: Member) -> dict[str, object]:
    """Everything that members must agree on."""
    state = member.state
    found: dict[str, object] = {
        name: state.backend.table(name).items(b"", None) for name in ("leases", "lease_keys", "alarms")
    }
    # What is not on disk yet has no seals.
    found["current"] = [(key, row[:-SEAL_SIZE]) for key, row in state.backend.table("current").items(b"", None)]
    found["past"] = list(state.backend.dup_table("past").items(b"", None))
    found["revision"] = state.store.revision
    found["problems"] = list(member.status().errors)
    return found


@contextlib.contextmanager
def _open() -> Iterator[Check]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with asyncio.Runner() as runner:

            def check(value: Any) -> None:
                runner.run(replicate(value))

            yield check
    finally:
        structlog.reset_defaults()


TARGETS: Final = (Target("replicas", requests, _open, examples=15, cpu_seconds=10.0),)
