"""`lease grant|revoke|timetolive|list|keep-alive`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvctl import display, gotext
from kvctl.failure import CommandFailed, Exit, bad_args
from kvctl.options import Group, Settings, flag

if TYPE_CHECKING:
    from kvstore.client import Client


@click.group(cls=Group, short_help="Grant, renew, look at and revoke leases.")
def lease() -> None:
    """Grant, renew, look at and revoke leases: keys attached to one are deleted when it ends."""


@lease.command(
    formats=display.KV_FORMATS, short_help="Create a lease.", epilog="Example: kvctl lease grant 60", options_metavar=""
)
@click.argument("words", metavar="<ttl>", nargs=-1)
def grant(settings: Settings, words: tuple[str, ...]) -> None:
    """Create a lease that lives <ttl> seconds without a renewal, and print its id."""
    if len(words) != 1:
        bad_args("lease grant command needs TTL argument")
    try:
        ttl = gotext.parse_int(words[0])
    except ValueError as error:
        bad_args(f"bad TTL ({error})")
    from kvctl import session

    try:
        granted = session.call(settings, lambda client: client.lease.grant(ttl))
    except CommandFailed as failure:
        raise CommandFailed(failure.code, f"failed to grant lease ({failure})") from failure
    display.show(display.writer(settings).granted(granted))


@lease.command(
    formats=display.KV_FORMATS,
    short_help="End a lease and delete its keys.",
    epilog="Example: kvctl lease revoke 694d5765fc71500b",
    options_metavar="",
)
@click.argument("words", metavar="<leaseID>", nargs=-1)
def revoke(settings: Settings, words: tuple[str, ...]) -> None:
    """End the lease and delete the keys attached to it."""
    if len(words) != 1:
        bad_args("lease revoke command needs 1 argument")
    lease_id = _lease_id(words[0])
    from kvctl import session

    try:
        result = session.call(settings, lambda client: client.lease.revoke(lease_id))
    except CommandFailed as failure:
        raise CommandFailed(failure.code, f"failed to revoke lease ({failure})") from failure
    display.show(display.writer(settings).revoked(lease_id, result))


@lease.command(
    formats=display.KV_FORMATS,
    short_help="Show how long a lease lives.",
    epilog="Example: kvctl lease timetolive --keys 694d5765fc71500b",
    options_metavar="[options]",
)
@click.argument("words", metavar="<leaseID>", nargs=-1)
@flag("--keys", help="show the keys attached to the lease, too")
def timetolive(settings: Settings, words: tuple[str, ...], keys: bool) -> None:
    """Show the seconds a lease was granted and those that remain."""
    if len(words) != 1:
        bad_args("lease timetolive command needs lease ID as argument")
    lease_id = _lease_id(words[0])
    from kvctl import session

    info = session.call(
        settings, lambda client: client.lease.time_to_live(lease_id, keys=keys), failing=Exit.BAD_CONNECTION
    )
    display.show(display.writer(settings).time_to_live(info, keys))


@lease.command(
    "list",
    formats=display.KV_FORMATS,
    short_help="List all leases.",
    epilog="Example: kvctl lease list",
    options_metavar="",
)
def list_leases(settings: Settings) -> None:
    """List all active leases."""
    from kvctl import session

    result = session.call(settings, lambda client: client.lease.leases(), failing=Exit.BAD_CONNECTION)
    display.show(display.writer(settings).leases(result))


@lease.command(
    "keep-alive",
    formats=display.KV_FORMATS,
    short_help="Renew a lease until interrupted.",
    epilog="Example: kvctl lease keep-alive --once 694d5765fc71500b",
    options_metavar="[options]",
)
@click.argument("words", metavar="<leaseID>", nargs=-1)
@flag("--once", help="renew once and exit")
def keep_alive(settings: Settings, words: tuple[str, ...], once: bool) -> None:
    """Renew the lease, again and again until interrupted, or until it is gone."""
    if len(words) != 1:
        bad_args("lease keep-alive command needs lease ID as argument")
    lease_id = _lease_id(words[0])
    from kvctl import session

    writer = display.writer(settings)
    if once:
        renewed = session.call(settings, lambda client: client.lease.renew(lease_id), failing=Exit.BAD_CONNECTION)
        display.show(writer.kept_alive(renewed))
        return

    async def renew_on(client: Client) -> None:
        from kvstore.client import errors

        try:
            async with client.lease.keep_alive(lease_id) as renewals:
                async for renewed in renewals:
                    display.show(writer.kept_alive(renewed))
        except errors.LeaseNotFound:
            pass  # What is printed next says so.

    session.call(settings, renew_on, failing=Exit.BAD_CONNECTION)
    if settings.write_out == "simple":
        print(f"lease {lease_id:016x} expired or revoked.")


def _lease_id(text: str) -> int:
    try:
        return gotext.parse_int(text, base=16)
    except ValueError as error:
        bad_args(f"bad lease ID arg ({error}), expecting ID in Hex")


COMMANDS = {"lease": lease}
