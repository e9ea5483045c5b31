"""`endpoint health|status|hashkv`: each named endpoint by itself."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from kvctl import display
from kvctl.failure import CommandFailed, Exit
from kvctl.options import INT, Group, Settings, cluster_option

if TYPE_CHECKING:
    from kvstore.client import Client

T = TypeVar("T")


@click.group(cls=Group, short_help="Ask endpoints how they are.")
@cluster_option()
def endpoint() -> None:
    """Ask each endpoint of --endpoints, or of the whole --cluster, how it is."""


@endpoint.command(
    short_help="Check that endpoints serve.",
    epilog="Example: kvctl endpoint health --cluster -w table",
    options_metavar="[options]",
)
@click.argument("words", metavar="", nargs=-1)
@cluster_option()
def health(settings: Settings, words: tuple[str, ...]) -> None:
    """Check that each endpoint can read through a quorum, and how long that takes."""
    from kvctl import session
    from kvstore.client import errors

    async def check(address: str) -> display.Health:
        began = time.monotonic()
        try:
            async with session.make_client(settings, [address]) as client:
                await client.kv.get("health")
            error = ""
        except errors.PermissionDenied:
            error = ""  # To be refused, it had to be asked through a quorum.
        except errors.ClientError as failure:
            session.warn(settings, failure, address)
            error = str(failure)
        return display.Health(address, time.monotonic() - began, error)

    async def check_all(addresses: tuple[str, ...]) -> list[display.Health]:
        return await asyncio.gather(*map(check, addresses))

    results = session.run(settings, check_all(session.endpoints_of(settings)))
    display.show(display.writer(settings).health(results))
    unhealthy = [each for each in results if not each.healthy]
    if settings.write_out == "simple":
        for each in unhealthy:
            print(f"{each.endpoint} is unhealthy: failed to commit proposal: {each.error}", file=sys.stderr)
    if unhealthy:
        raise CommandFailed(Exit.ERROR, "unhealthy cluster")


@endpoint.command(
    short_help="Show versions, sizes, leader and raft state.",
    epilog="Example: kvctl endpoint status --cluster -w table",
    options_metavar="[options]",
)
@click.argument("words", metavar="", nargs=-1)
@cluster_option()
def status(settings: Settings, words: tuple[str, ...]) -> None:
    """Show how each endpoint's member is.

    In the simple format, a line an endpoint: endpoint, id, version, storage version, db size, in use, percentage not
    in use, quota, is leader, is learner, raft term, raft index, raft applied index, errors, downgrade target version,
    downgrade enabled.
    """
    results, failure = _each(settings, "status", lambda client, address: client.maintenance.status(address))
    display.show(display.writer(settings).status(results))
    if failure:
        raise CommandFailed(Exit.ERROR, "")


@endpoint.command(
    short_help="Show the checksum of the keys' history.",
    epilog="Example: kvctl endpoint hashkv --cluster --rev 1000",
    options_metavar="[options]",
)
@click.argument("words", metavar="", nargs=-1)
@click.option("--rev", type=INT, default=0, metavar="REV", help="up to that revision (0: to the newest)")
@cluster_option()
def hashkv(settings: Settings, words: tuple[str, ...], rev: int) -> None:
    """Show the checksum of each endpoint's history of keys: members that agree show the same one."""
    results, failure = _each(settings, "hash", lambda client, address: client.maintenance.hash_kv(address, rev))
    display.show(display.writer(settings).hash_kv(results))
    if failure:
        raise CommandFailed(Exit.ERROR, failure)


def _each(settings: Settings, what: str, ask: Callable[[Client, str], Awaitable[T]]) -> tuple[list[tuple[str, T]], str]:
    """The answers of the endpoints that gave one, and the last error of those that did not; each is reported."""
    from kvctl import session
    from kvstore.client import errors

    results: list[tuple[str, T]] = []
    failed: list[str] = []

    async def ask_all(addresses: tuple[str, ...]) -> None:
        async with session.make_client(settings) as client:
            answers = await asyncio.gather(*(ask(client, address) for address in addresses), return_exceptions=True)
        for address, answer in zip(addresses, answers, strict=True):
            if isinstance(answer, errors.ClientError):
                session.warn(settings, answer, address)
                print(f"Failed to get the {what} of endpoint {address} ({answer})", file=sys.stderr)
                failed.append(str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                results.append((address, answer))

    session.run(settings, ask_all(session.endpoints_of(settings)))
    return results, failed[-1] if failed else ""


COMMANDS = {"endpoint": endpoint}
