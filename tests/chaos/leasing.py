"""A client that lives on leases: grants them, hangs keys on them, renews them for a while and lets them go."""

import asyncio
import random
from typing import Any

from kvstore.client import rpcs
from kvstore.pb.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
    PutRequest,
    RequestOp,
    TxnRequest,
)
from kvstore.rpc import EOF, RpcError
from tests.chaos.session import CALL_SECONDS, PAUSE_SECONDS, Session
from tests.history.convert import operation

TTL_SECONDS = (2, 5)


async def live_on_leases(session: Session, chance: random.Random) -> None:
    """One lease after the other, until cancelled."""
    number = 0
    while True:
        number += 1
        granted = await session.call(rpcs.LEASE_GRANT, LeaseGrantRequest(TTL=chance.randint(*TTL_SECONDS)))
        if granted is None:
            continue
        await _hang_keys(session, chance, granted.ID, number)
        await _renew(session, granted.ID, granted.TTL, chance.randint(0, 4))
        ending = chance.random()
        if ending < 0.4:
            await session.call(rpcs.LEASE_REVOKE, LeaseRevokeRequest(ID=granted.ID))
        elif ending < 0.7:
            # Long enough for the lease to run out, most of the time.
            await asyncio.sleep(granted.TTL + chance.random())
        asked = LeaseTimeToLiveRequest(ID=granted.ID, keys=chance.random() < 0.5)
        await session.call(rpcs.LEASE_TIME_TO_LIVE, asked)


async def _hang_keys(session: Session, chance: random.Random, lease: int, number: int) -> None:
    name = session.name.encode()
    for key in range(chance.randint(1, 3)):
        put = PutRequest(key=b"lease/%s/%d" % (name, key), value=b"%s-%d-%d" % (name, number, key), lease=lease)
        await session.call(rpcs.PUT, put)
    if chance.random() < 0.3:
        # A key that goes from one lease to another, or to none.
        shared = PutRequest(key=b"lease/shared", value=b"%s-%d" % (name, number), lease=lease)
        await session.call(rpcs.TXN, TxnRequest(success=[RequestOp(request_put=shared)]))


async def _renew(session: Session, lease: int, ttl: int, times: int) -> None:
    """Renew over one stream, after every third of the time."""
    if not times:
        return
    ledger = session.ledger
    stream = session.channel.stream(rpcs.LEASE_KEEP_ALIVE.path)
    request = LeaseKeepAliveRequest(ID=lease)
    try:
        for _ in range(times):
            await asyncio.sleep(ttl / 3)
            call = ledger.recorder.begin(session.name, operation(request))
            try:
                stream.write(request.SerializeToString())
                async with asyncio.timeout(CALL_SECONDS):
                    data: Any = await stream.read()
            except (RpcError, TimeoutError) as error:
                ledger.failed(call, getattr(error, "message", "timeout"))
                session.move_on()
                await asyncio.sleep(PAUSE_SECONDS)
                return
            if data is EOF:
                ledger.failed(call, "the stream ended")
                return
            ledger.answered(call, rpcs.LEASE_KEEP_ALIVE.response.FromString(data))
    finally:
        stream.cancel()
